"""Steps of the optimiser: exact over accumulated batches and processes, or none."""

import speechbrain as sb
import torch
from speechbrain.core import INTRA_EPOCH_CKPT_FLAG
from speechbrain.utils.distributed import is_distributed_initialized
from speechbrain.utils.logger import get_logger
from torch.nn.parallel import DistributedDataParallel

from custom_modules.errors import InputError
from custom_modules.mmipc import draw_fraction
from custom_modules.training.averages import Averages
from custom_modules.training.batches import Share, TrainBatches
from custom_modules.training.failures import rank_and_processes

logger = get_logger(__name__)


class NonFiniteError(Exception):
    """A batch whose loss or gradient is not finite; its step is dropped."""


class ExactSteps(sb.Brain):
    """A Brain whose steps do not depend on how their mixtures are dealt out.

    ``torchrun`` with N processes, or ``--grad_accumulation_factor=N``, takes the
    steps that one batch of N times the size would take, also at the end of an
    epoch, where SpeechBrain's ``fit_batch`` would drop an incomplete group. And a
    step with a loss or a gradient that is not finite never touches the weights,
    on any process.

    Needs ``seed`` among the hparams. What a step adds to the epoch's averages is
    collected in ``step_averages`` and counts once the step is taken.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.averages = Averages()

    def _train_loader_specifics(self, dataset, loader_kwargs):
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

    def fit_batch(self, batch):
        """A batch: a step of the optimiser, or a part of one.

        Returns
        -------
        torch.Tensor
            The mean loss of the batch, NaN if its step is dropped.
        """
        self._seed_step()
        sampler = self.train_sampler
        self.share = share = sampler.share(self.step) if sampler else Share(1, 1.0)
        if share.first:
            self.step_averages, self.step_dropped = Averages(), False
        if self.step_dropped:
            return torch.tensor(float("nan"))
        self.on_fit_batch_start(batch, share.last)
        try:
            outputs, loss = self._accumulate(batch, share)
            if share.last:
                self.optimizers_step()
        except NonFiniteError:
            self._drop_step()
            return torch.tensor(float("nan"))
        self.on_fit_batch_end(batch, outputs, loss, share.last)
        if share.last:
            self.averages.merge(self.step_averages)
        return loss.detach().cpu()

    def _seed_step(self):
        # Dropout is drawn from seed, epoch and step, so that a resumed run goes
        # on with the numbers of an uninterrupted one.
        place = (self.hparams.seed, self.epoch, self.step, rank_and_processes()[0])
        torch.manual_seed(int(draw_fraction("step", *place) * 2**62))

    def _accumulate(self, batch, share):
        """Forward and backward pass, as SpeechBrain's, every mixture weighing alike."""
        with self.no_sync(not share.last):
            with self.training_ctx:
                outputs = self.compute_forward(batch, sb.Stage.TRAIN)
                loss = self.compute_objectives(outputs, batch, sb.Stage.TRAIN)
            self._check_finite(loss.detach(), "loss")
            self.scaler.scale(loss * share.weight).backward()
        return outputs, loss

    def _drop_step(self):
        """Forgets a step: all of it, as if it had been one batch."""
        self.step_dropped = True
        self.zero_grad(set_to_none=True)
        for module in self.modules.values():  # no_sync was cut short
            if isinstance(module, DistributedDataParallel):
                module.require_backward_grad_sync = True

    def optimizers_step(self):
        """One step, unless a gradient is not finite.

        In fp16 that is mostly the loss scaled too high: the scaler leaves the step
        out and halves its scale. Where nothing is scaled up any more, it is the
        gradient's own fault, as in other precisions.
        """
        gradients = [p.grad for p in self.modules.parameters() if p.grad is not None]
        scaled_norm = torch.nn.utils.get_total_norm(gradients)
        norm = scaled_norm / self.scaler.get_scale()
        if self.scaler.get_scale() <= 1:
            self._check_finite(norm, "gradient")
        if torch.isfinite(norm):
            self.step_averages.counts["steps"] += 1
            self.step_averages.counts["grad_norm"] += float(norm)
        else:
            self.step_averages.counts["skipped"] += 1
        if self.max_grad_norm > 0:
            # SpeechBrain clips the first group of the optimiser alone.
            most = self.max_grad_norm * self.scaler.get_scale()
            torch.nn.utils.clip_grads_with_norm_(
                self.modules.parameters(), most, scaled_norm
            )
        super().optimizers_step()

    def _check_finite(self, value, name):
        """Drops the step, or ends the run after ``nonfinite_patience`` of them.

        Raises
        ------
        NonFiniteError
            On all processes if it is not finite on any.
        InputError
            If the patience of this epoch is exhausted.
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
            self.epoch,
            self.step,
            name,
            self.nonfinite_count,
            self.nonfinite_patience,
        )
        raise NonFiniteError

    def _give_up(self, reason):
        """Ends a run that diverged, where a rerun can go on from sound weights."""
        if self.checkpointer is not None:
            self.checkpointer.delete_checkpoints(
                num_to_keep=0, ckpt_predicate=lambda c: INTRA_EPOCH_CKPT_FLAG in c.meta
            )
        raise InputError(
            f"epoch {self.epoch}: {reason}; lower --lr or --max_grad_norm, or train "
            "with --precision=fp32. A rerun goes on from the end of the last epoch"
        )

    def _should_save_intra_epoch_ckpt(self, last_ckpt_time, steps_since_ckpt):
        """Only where no gradients are under way: a checkpoint holds none."""
        wanted = super()._should_save_intra_epoch_ckpt(last_ckpt_time, steps_since_ckpt)
        return wanted and self.share.last
