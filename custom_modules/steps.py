"""Steps of the optimiser: exact over accumulated batches and processes, or none."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import speechbrain as sb
import torch
import yaml
from speechbrain import Stage
from speechbrain.core import INTRA_EPOCH_CKPT_FLAG
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.dataio.sampler import ReproducibleRandomSampler
from speechbrain.utils import checkpoints
from speechbrain.utils.distributed import is_distributed_initialized
from speechbrain.utils.epoch_loop import EpochCounterWithStopper
from speechbrain.utils.logger import get_logger
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Sampler

from custom_modules.distributed import rank_and_processes
from custom_modules.errors import InputError
from custom_modules.mmipc import draw_fraction
from custom_modules.schedules import rate_of_step, runs_per_step, set_rate
from custom_modules.training_log import Averages

logger = get_logger(__name__)

#: What ``compute_forward`` returns, and ``compute_objectives`` adds to.
Outputs = dict[str, Any]


class NonFiniteError(Exception):
    """A batch whose loss or gradient is not finite; its step is dropped."""


class Share(NamedTuple):
    """What one process contributes to a step of the optimiser."""

    mixtures: int  # 0 if it repeats a batch because all processes must go along
    #: Multiplies the mean loss of its batch, so that the gradients that the processes
    #: average are those of the mean over all mixtures of the step.
    weight: float
    first: bool = True  # whether this batch begins the step
    last: bool = True  # whether it completes the step


class ExactSteps(sb.Brain):
    """A Brain whose steps do not depend on how their mixtures are dealt out.

    N processes, or ``--grad_accumulation_factor=N``, take the steps that one batch of N
    times the size would take, also at the end of an epoch, where SpeechBrain would drop
    an incomplete group. A step with a loss or a gradient that is not finite never
    touches the weights, on any process. What a step adds to the ``averages`` is
    collected in ``step_averages`` and counts once the step is taken. The learning rate
    is set before each step, by the number of those that were taken.
    """

    step: int  # batch of this epoch, from 1; SpeechBrain counts
    optimizer_step: int  # steps taken so far, in all epochs, kept in checkpoints

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.epoch = 0
        self.averages, self.step_averages = Averages(), Averages()
        self.share, self.step_dropped = Share(1, 1.0), False

    def _train_loader_specifics(
        self, dataset: Any, loader_kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        """Our own batches instead of SpeechBrain's samplers, which repeat mixtures."""
        self.train_sampler = TrainBatches(
            dataset,
            loader_kwargs.pop("batch_size", 1),
            self.hparams.seed,
            *rank_and_processes(),
            self.grad_accumulation_factor,
        )
        loader_kwargs.pop("shuffle", None)
        return loader_kwargs | {"batch_sampler": self.train_sampler}

    def on_stage_start(self, stage: Stage, epoch: int | None = None) -> None:
        self.epoch = epoch or 0
        if stage != Stage.TRAIN or self.step == 0:
            self.averages = Averages()

    def fit_batch(self, batch: PaddedBatch) -> Tensor:
        """Takes a step, or a part of one; the mean loss, NaN if the step is dropped."""
        self._seed_step()
        sampler = self.train_sampler
        self.share = share = sampler.share(self.step) if sampler else Share(1, 1.0)
        if share.first:
            self.step_averages, self.step_dropped = Averages(), False
        if self.step_dropped:
            return torch.tensor(float("nan"))
        self.on_fit_batch_start(batch, share.last)
        try:
            with self.no_sync(not share.last):
                with self.training_ctx:
                    outputs = self.compute_forward(batch, Stage.TRAIN)
                    loss = self.compute_objectives(outputs, batch, Stage.TRAIN)
                self._check_finite(loss.detach(), "loss")
                self.scaler.scale(loss * share.weight).backward()
            if share.last:
                self.optimizers_step()
        except NonFiniteError:
            self._drop_step()
            return torch.tensor(float("nan"))
        self.on_fit_batch_end(batch, outputs, loss, share.last)
        if share.last:
            self.averages.merge(self.step_averages)
        return loss.detach().cpu()

    def _seed_step(self) -> None:
        # Dropout is drawn from seed, epoch and step, so that a resumed run goes
        # on with the numbers of an uninterrupted one.
        rank = self.train_sampler.rank if self.train_sampler else 0
        place = (self.hparams.seed, self.epoch, self.step, rank)
        torch.manual_seed(int(draw_fraction("step", *place) * 2**62))

    def _drop_step(self) -> None:
        """Forgets a step: all of it, as if it had been one batch."""
        self.step_dropped = True
        self.zero_grad(set_to_none=True)
        for module in self.modules.values():  # no_sync was cut short
            if isinstance(module, DistributedDataParallel):
                module.require_backward_grad_sync = True

    def optimizers_step(self) -> None:
        """One step, unless a gradient is not finite.

        In fp16 that is mostly the loss scaled too high, which the scaler handles; where
        nothing is scaled up any more, it is the gradient's own fault.
        """
        gradients = [p.grad for p in self.modules.parameters() if p.grad is not None]
        scaled_norm = torch.nn.utils.get_total_norm(gradients)
        norm = scaled_norm / self.scaler.get_scale()
        if self.scaler.get_scale() <= 1:
            self._check_finite(norm, "gradient")
        taken = bool(torch.isfinite(norm))
        if taken:
            self.step_averages.counts["steps"] += 1
            self.step_averages.counts["grad_norm"] += float(norm)
        else:
            self.step_averages.counts["skipped"] += 1
        if self.max_grad_norm > 0:
            # SpeechBrain clips the first group of the optimiser alone.
            most = self.max_grad_norm * self.scaler.get_scale()
            torch.nn.utils.clip_grads_with_norm_(self.modules.parameters(), most, scaled_norm)
        if taken:
            self._set_rate()
        with self._unclipped():  # it is clipped already
            super().optimizers_step()
        self.optimizer_step -= not taken  # SpeechBrain counts what the scaler leaves out

    @contextmanager
    def _unclipped(self) -> Iterator[None]:
        """SpeechBrain clips whatever the norm is; at 0, nothing would be left."""
        most: float = self.max_grad_norm
        self.max_grad_norm: float = math.inf
        try:
            yield
        finally:
            self.max_grad_norm = most

    @property
    def is_warming_up(self) -> bool:
        """Whether the rate still rises: no scheduler runs meanwhile."""
        return self.optimizer_step < getattr(self.hparams, "warmup_steps", 0)

    def _set_rate(self) -> None:
        """The rate of the next step: part of a warm-up, or as a scheduler per step says."""
        scheduler = getattr(self.hparams, "lr_scheduler", None)
        if self.is_warming_up:
            part = (self.optimizer_step + 1) / self.hparams.warmup_steps
            set_rate(self.optimizer, self.hparams.lr * part)
        elif runs_per_step(scheduler):
            step = self.optimizer_step + 1 - getattr(self.hparams, "warmup_steps", 0)
            rate_of_step(scheduler, self.optimizer, step)

    def _count_steps(self) -> None:
        """Tells a scheduler that has to know it how many steps follow the warm-up."""
        scheduler: Any = getattr(self.hparams, "lr_scheduler", None)
        if self.train_sampler is None or getattr(scheduler, "total_steps", 0) is not None:
            return
        counter, steps, most = self.hparams.epoch_counter, 0, self.optimizer_step_limit
        scheduler.first_epoch = getattr(scheduler, "first_epoch", 0) or counter.current + 1
        for epoch in range(scheduler.first_epoch, counter.limit + 1):
            steps += self.train_sampler.steps_at(epoch)
            if most is not None and steps >= most:
                steps = most
                break
        scheduler.total_steps = max(1, steps - getattr(self.hparams, "warmup_steps", 0))

    def _check_finite(self, value: Tensor, name: str) -> None:
        """Raises :class:`NonFiniteError` on all processes if it is not finite on any.

        After ``nonfinite_patience`` of them it ends the run.
        """
        finite = torch.isfinite(value).float()
        if is_distributed_initialized():
            torch.distributed.all_reduce(finite, op=torch.distributed.ReduceOp.MIN)
        if finite:
            return
        self.nonfinite_count += 1
        self.averages.counts["skipped"] += 1
        if self.nonfinite_count > self.nonfinite_patience:
            self._give_up(f"{self.nonfinite_count} batches whose {name} is not finite")
        logger.warning(
            "epoch %d, step %d: %s is not finite, batch dropped (%d of at most %d)",
            *(self.epoch, self.step, name),
            *(self.nonfinite_count, self.nonfinite_patience),
        )
        raise NonFiniteError

    def _give_up(self, reason: str) -> None:
        """Ends a run that diverged, where a rerun can go on from sound weights."""
        if self.checkpointer is not None:
            self._forget_intra_epoch_checkpoints()
        raise InputError(
            f"epoch {self.epoch}: {reason}; lower --lr or --max_grad_norm, or train "
            "with --precision=fp32. A rerun goes on from the end of the last epoch"
        )

    def _forget_intra_epoch_checkpoints(self) -> None:
        self.checkpointer.delete_checkpoints(
            num_to_keep=0, ckpt_predicate=lambda c: INTRA_EPOCH_CKPT_FLAG in c.meta
        )

    def _should_save_intra_epoch_ckpt(self, last_ckpt_time: float, steps_since_ckpt: int) -> bool:
        """Only where no gradients are under way: a checkpoint holds none."""
        wanted = super()._should_save_intra_epoch_ckpt(last_ckpt_time, steps_since_ckpt)
        return wanted and self.share.last


class TrainBatches(Sampler[list[int]]):
    """Batches of a process: the same mixtures per step, whatever their number.

    ``processes × accumulation`` batches of ``batch_size`` make the step that one
    batch of that many mixtures would make on one process. Seed and epoch order them;
    ``dataset.indices_at(epoch)`` says which of its mixtures an epoch has.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        seed: int,
        rank: int = 0,
        processes: int = 1,
        accumulation: int = 1,
    ) -> None:
        self.dataset, self.batch_size, self.seed = dataset, batch_size, seed
        self.rank, self.processes, self.accumulation = rank, processes, accumulation
        self.set_epoch(1)

    def set_epoch(self, epoch: int) -> None:
        indices = self.dataset.indices_at(epoch)
        sampler = ReproducibleRandomSampler(indices, seed=self.seed, epoch=epoch)
        self.order = [indices[place] for place in sampler]

    def __len__(self) -> int:
        return -(-len(self.order) // (self.batch_size * self.processes))

    def steps_at(self, epoch: int) -> int:
        """Steps of the optimiser in an epoch."""
        size = self.batch_size * self.processes * self.accumulation
        return -(-len(self.dataset.indices_at(epoch)) // size)

    def __iter__(self) -> Iterator[list[int]]:
        for number in range(len(self)):
            batch = self._of_all(number)
            yield batch[self.rank :: self.processes] or batch[:1]

    def share(self, step: int) -> Share:
        """What the batch of a step counts for; steps from 1, as ``Brain.step``."""
        number = step - 1
        first = number - number % self.accumulation
        last = min(first + self.accumulation, len(self)) - 1
        total = sum(len(self._of_all(n)) for n in range(first, last + 1))
        own = len(self._of_all(number)[self.rank :: self.processes])
        weight = own * self.processes / total
        return Share(own, weight, first=number == first, last=number == last)

    def _of_all(self, number: int) -> list[int]:
        """The mixtures that all processes take together in a batch."""
        size = self.batch_size * self.processes
        return self.order[number * size : (number + 1) * size]


@checkpoints.register_checkpoint_hooks
class StoppingEpochCounter(EpochCounterWithStopper):
    """SpeechBrain's counter that stops early, for a value in dB to be maximised.

    Only what is above the best is better; SpeechBrain's would never stop for a value
    that stays the same. The patience, in epochs, may change between runs; None never
    stops. The first ``warmup`` epochs, as of a curriculum, are not judged.
    """

    def __init__(self, limit: int, patience: int | None = None, warmup: int = 0) -> None:
        super().__init__(limit, patience or math.inf, warmup, direction="max")
        self.min_delta = 0
        self.best_limit = warmup

    _save = EpochCounterWithStopper._save  # SpeechBrain registers it for no class

    @checkpoints.mark_as_loader
    def _recover(self, path: Path, end_of_epoch: bool = True) -> None:
        with open(path, encoding="utf-8") as stream:
            saved = yaml.safe_load(stream)
        if not isinstance(saved, dict):  # by a counter that does not stop
            self.current = saved if end_of_epoch else saved - 1
            return
        super()._recover(path, end_of_epoch)
        self.best_limit = max(self.best_limit, self.limit_warmup)
        self.should_stop = self.current - self.best_limit >= self.limit_to_stop
