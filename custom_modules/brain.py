"""One Brain for every architecture and task.

Start reading at :class:`Separation`: ``compute_forward`` and
``compute_objectives`` say what is trained, ``on_stage_end`` what is kept.
"""

import speechbrain as sb
import torch
import yaml
from speechbrain.core import INTRA_EPOCH_CKPT_FLAG
from speechbrain.utils.checkpoints import (
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)
from speechbrain.utils.distributed import if_main_process, is_distributed_initialized
from speechbrain.utils.logger import get_logger

from custom_modules.dataio import collate
from custom_modules.errors import InputError
from custom_modules.metrics import is_silent
from custom_modules.mmipc import draw_fraction
from custom_modules.objectives import pit_si_sdr_loss, si_sdr
from custom_modules.training_log import TrainingLog

logger = get_logger(__name__)

#: What is summed over an epoch: dB over scored mixtures, their number, mixtures
#: whose estimate was not finite, and dropped batches.
SUMS = ("si_sdr", "si_sdri", "mixtures", "failed", "skipped")


class NonFiniteError(Exception):
    """A batch whose loss or gradient is not finite; it is dropped."""


@register_checkpoint_hooks
class Separation(sb.Brain):
    """Trains a separator with the permutation-invariant SI-SDR loss.

    Its test is :mod:`custom_modules.evaluation`'s, the same for every model.

    Needs ``modules["separator"]`` (``[batch, time] → [batch, time, sources]``)
    and, among the hparams, ``seed``, ``epoch_counter``, ``lr_scheduler``,
    ``train_logger`` and ``output_folder``. Its
    datasets are :class:`custom_modules.dataio.MixtureDataset`.

    The checkpoint with the highest ``si_sdr`` on the validation set is the best
    one; it and the last are kept.
    """

    def compute_forward(self, batch, stage):
        """Separates a batch.

        Returns
        -------
        dict
            ``estimates`` and ``targets`` ``[batch, time, sources]``, ``mixture``
            ``[batch, time]``, and ``lengths`` in samples, ``[batch]``, or None if
            nothing is padded.
        """
        batch = batch.to(self.device)
        mixture, relative = batch.mixture
        padded = bool((relative < 1).any())
        return {
            "estimates": self.modules.separator(mixture),
            "targets": batch.targets.data,
            "mixture": mixture,
            "lengths": (relative * mixture.shape[1]).round() if padded else None,
        }

    def compute_objectives(self, predictions, batch, stage):
        """Mean over the batch of the permutation-invariant negative SI-SDR, dB."""
        loss, _ = pit_si_sdr_loss(
            predictions["estimates"], predictions["targets"], predictions["lengths"]
        )
        predictions["si_sdr"] = -loss.detach()
        return loss.mean()

    def fit_batch(self, batch):
        """One step; a batch whose loss is not finite never touches the weights."""
        # Dropout is drawn from seed, epoch and step, so that a resumed run goes
        # on with the numbers of an uninterrupted one.
        place = (self.hparams.seed, self.epoch, self.step, getattr(self, "rank", 0))
        torch.manual_seed(int(draw_fraction("step", *place) * 2**62))
        try:
            return super().fit_batch(batch)
        except NonFiniteError:
            # What was accumulated before it has not been exchanged between processes.
            self.zero_grad(set_to_none=True)
            for module in self.modules.values():  # Brain.no_sync was cut short
                if hasattr(module, "require_backward_grad_sync"):
                    module.require_backward_grad_sync = True
            return torch.tensor(float("nan"))

    def check_loss_isfinite(self, loss):
        """Drops the batch on all processes if its loss is not finite on any."""
        self._check_finite(loss.detach(), "loss")

    def optimizers_step(self):
        """One step, unless a gradient is not finite; fp16's scaler sees to its own."""
        if not self.scaler.is_enabled():
            gradients = [
                p.grad for p in self.modules.parameters() if p.grad is not None
            ]
            self._check_finite(torch.nn.utils.get_total_norm(gradients), "gradient")
        super().optimizers_step()

    def _check_finite(self, value, name):
        """Drops the batch, or ends the run after ``nonfinite_patience`` of them.

        Raises
        ------
        NonFiniteError
            To be caught by :meth:`fit_batch`.
        InputError
            If the patience of this epoch is exhausted.
        """
        finite = torch.isfinite(value).float()
        if is_distributed_initialized():
            torch.distributed.all_reduce(finite, op=torch.distributed.ReduceOp.MIN)
        if finite:
            return
        self.nonfinite_count += 1
        self.sums["skipped"] += 1
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
        return wanted and self.step % self.grad_accumulation_factor == 0

    def _save_intra_epoch_ckpt(self):
        self.sums_of_all = self._sums_of_all_processes()
        super()._save_intra_epoch_ckpt()

    def on_fit_batch_end(self, batch, outputs, loss, should_step):
        """Adds a training batch to the epoch's averages."""
        self._add_to_averages(outputs)

    @torch.no_grad()
    def evaluate_batch(self, batch, stage):
        """Adds a validation batch to the averages."""
        with self.evaluation_ctx:
            outputs = self.compute_forward(batch, stage)
            loss = self.compute_objectives(outputs, batch, stage)
        self._add_to_averages(outputs)
        return loss.detach().cpu()

    def make_dataloader(
        self, dataset, stage, ckpt_prefix="dataloader-", **loader_kwargs
    ):
        """As in SpeechBrain, with our collation; remembers what it loads."""
        if stage == sb.Stage.TRAIN:
            self.train_set = dataset
        loader_kwargs.setdefault("collate_fn", collate)
        return super().make_dataloader(dataset, stage, ckpt_prefix, **loader_kwargs)

    def on_fit_start(self):
        """Resumes, and forgets what the log says of epochs that are not done."""
        self.initial_lr = self.hparams.lr
        super().on_fit_start()
        if self.initial_lr != self.hparams.lr:
            logger.info("lr: %g now, instead of %g", self.hparams.lr, self.initial_lr)
            sb.nnet.schedulers.update_learning_rate(self.optimizer, self.hparams.lr)
            self.initial_lr = self.hparams.lr
        self.log = TrainingLog(self.hparams.train_logger, self.hparams.output_folder)
        self.log.forget_after(self.hparams.epoch_counter.current)

    def on_stage_start(self, stage, epoch=None):
        """Starts the averages anew, unless an interrupted epoch goes on."""
        self.epoch = epoch
        if stage == sb.Stage.TRAIN:
            self.train_set.set_epoch(epoch)
        if stage != sb.Stage.TRAIN or self.step == 0:
            self.sums = dict.fromkeys(SUMS, 0)

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Keeps averages; schedules, logs and saves after validation."""
        if stage == sb.Stage.TRAIN:
            self.train_stats, self.skipped = self._averages(), self.sums["skipped"]
            if self.skipped and not self.sums["mixtures"]:
                self._give_up("no batch had a finite loss")
        else:
            self._end_epoch(epoch, self._averages())

    def _end_epoch(self, epoch, valid_stats):
        si_sdr_db = valid_stats["si_sdr"]
        if self.sums["failed"] and not self.sums["mixtures"]:
            self._give_up("no estimate of the validation set is finite")
        lr, next_lr = self.hparams.lr_scheduler([self.optimizer], epoch, -si_sdr_db)
        sb.nnet.schedulers.update_learning_rate(self.optimizer, next_lr)
        self.log.add(epoch, lr, self.skipped, self.train_stats, valid_stats)
        self.checkpointer.save_and_keep_only(
            meta={"si_sdr": si_sdr_db, "epoch": epoch},
            max_keys=["si_sdr"],
            importance_keys=[],  # the default list is shared between calls
        )

    def _add_to_averages(self, outputs):
        """Sums over the mixtures whose targets are all audible."""
        targets = outputs["targets"]
        mixtures = outputs["mixture"].unsqueeze(2)
        baseline = si_sdr(mixtures, targets, outputs["lengths"]).mean(1)
        scores = outputs["si_sdr"]
        audible, finite = ~is_silent(targets).any(1), torch.isfinite(scores)
        counts = audible & finite
        self.sums["si_sdr"] += float(scores[counts].double().sum())
        self.sums["si_sdri"] += float((scores - baseline)[counts].double().sum())
        self.sums["mixtures"] += int(counts.sum())
        self.sums["failed"] += int((audible & ~finite).sum())

    def _averages(self):
        """Means per mixture; -inf if one failed, so that it is never the best."""
        sums = self._sums_of_all_processes()
        if sums["failed"] or not sums["mixtures"]:
            return {"si_sdr": -float("inf"), "si_sdri": -float("inf")}
        return {name: sums[name] / sums["mixtures"] for name in ("si_sdr", "si_sdri")}

    def _sums_of_all_processes(self):
        if not is_distributed_initialized():
            return dict(self.sums)
        sums = torch.tensor([float(self.sums[name]) for name in SUMS])
        sums = sums.to(self.device)
        torch.distributed.all_reduce(sums)
        # Every process counts the same dropped batches.
        totals = dict(zip(SUMS, sums.tolist(), strict=True))
        return totals | {"skipped": self.sums["skipped"]}

    @mark_as_saver
    def _save(self, path):
        super()._save(path)
        sums = self.sums_of_all if self.step else self.sums
        with open(path, "a", encoding="utf-8") as stream:
            yaml.safe_dump({"sums": sums, "initial_lr": self.initial_lr}, stream)

    @mark_as_loader
    def _recover(self, path, end_of_epoch):
        super()._recover(path, end_of_epoch)
        with open(path, encoding="utf-8") as stream:
            saved = yaml.safe_load(stream)
        self.initial_lr = saved.get("initial_lr", self.hparams.lr)
        self.sums = dict.fromkeys(SUMS, 0)
        if if_main_process():  # they are of all processes, and are added up again
            self.sums |= saved.get("sums", {})
        else:
            self.sums["skipped"] = saved.get("sums", self.sums)["skipped"]
