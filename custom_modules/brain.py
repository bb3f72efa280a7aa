"""One Brain for every architecture and task.

Start reading at :class:`Separation`: ``compute_forward`` and
``compute_objectives`` say what is trained, ``on_stage_end`` what is kept.
"""

from collections.abc import Mapping
from math import inf
from pathlib import Path
from typing import Any

import speechbrain as sb
import torch
import torch.nn.functional as F
import yaml
from speechbrain import Stage
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.utils import checkpoints
from speechbrain.utils.distributed import ddp_broadcast, main_process_only
from speechbrain.utils.logger import get_logger
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from custom_modules.dataio import MixtureDataset, collate
from custom_modules.distributed import rank_and_processes
from custom_modules.finetuning import frozen_statistics
from custom_modules.losses import find_loss, loss_of
from custom_modules.objectives import pit_si_sdr_loss
from custom_modules.recognition.validation import ValidationWords
from custom_modules.schedules import check_scheduler, rate_after_epoch, runs_per_step, set_rate
from custom_modules.steps import ExactSteps, Outputs
from custom_modules.trackers import Tracker, audible_signals, open_tracker
from custom_modules.training_log import Averages, EpochCost, TrainingLog

logger = get_logger(__name__)


@checkpoints.register_checkpoint_hooks
class Separation(ExactSteps):
    """Trains a separator with the hparams' loss; all scores are SI-SDR in dB.

    ``modules["separator"]`` maps ``[batch, time]`` to ``[batch, time, sources]``; a
    ``loss``, an object or a name, is called as :func:`pit_si_sdr_loss`, the default, and in
    training gets what a model may return behind the sources, such as those of earlier
    stages; where it takes the mixture, that, too. Mixtures with a silent target have no
    score. The last checkpoint is kept, and the best by the validation set's ``si_sdr``, as
    many as are averaged.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.debug and not self.debug_persistently and self.checkpointer is not None:
            # SpeechBrain gives each process a folder of its own, of which they would then
            # delete different checkpoints, and wait for each other.
            place = ddp_broadcast(str(self.checkpointer.checkpoints_dir))
            self.checkpointer.checkpoints_dir = Path(place)
        # Results folders of earlier versions name no loss.
        self.loss = find_loss(getattr(self.hparams, "loss", "si_sdr"))
        self.words = ValidationWords(vars(self.hparams), self.device)
        self.tracker = Tracker()
        self.heard: list[str] = []  # the mixtures whose separation it plays
        self.audible: list[tuple[str, Tensor]] = []
        # Of the interrupted epoch that goes on, if one does.
        self.seconds_before, self.sizes_before = 0.0, None
        self.was_warming_up = False
        self.frozen: list[torch.nn.Module] = []

    def compute_forward(self, batch: PaddedBatch, stage: Stage) -> Outputs:
        """``lengths`` are in samples, ``[batch]``, or None if nothing is padded."""
        batch = batch.to(self.device)
        mixture, relative = batch.mixture
        padded = bool((relative < 1).any())
        separator = self.modules["separator"]
        if stage != Stage.TRAIN and isinstance(separator, DistributedDataParallel):
            # Processes may have unequal numbers of batches, and need not meet.
            separator = separator.module
        lengths = (relative * mixture.shape[1]).round() if padded else None
        if lengths is None or stage == Stage.TRAIN:
            estimates = separator(mixture)
        else:
            estimates = _each_alone(separator, mixture, lengths)
        return {
            "estimates": estimates,
            "targets": batch.targets.data,
            "mixture": mixture,
            "lengths": lengths,
        }

    def compute_objectives(self, predictions: Outputs, batch: PaddedBatch, stage: Stage) -> Tensor:
        """The mean loss of a batch; ``predictions`` get ``si_sdr``, dB, ``[batch]``."""
        estimates = predictions["estimates"]
        signals = (predictions[key] for key in ("targets", "lengths", "mixture"))
        with torch.autocast(estimates.device.type, enabled=False):
            loss, _ = loss_of(self.loss, estimates.float(), *signals)
        is_score = self.loss is pit_si_sdr_loss  # not the same work twice
        predictions["si_sdr"] = -loss.detach() if is_score else _si_sdr(predictions)
        return loss.mean()

    def _save_intra_epoch_ckpt(self) -> None:
        self.averages_of_all = self.averages.of_all_processes()
        super()._save_intra_epoch_ckpt()

    def on_fit_batch_start(self, batch: PaddedBatch, should_step: bool) -> None:
        for module in self.frozen:  # SpeechBrain has all of them train at the start of an epoch
            module.training = False

    def on_fit_batch_end(
        self, batch: PaddedBatch, outputs: Outputs, loss: Tensor, should_step: bool
    ) -> None:
        if self.share.mixtures:
            _add_to(self.step_averages, batch, outputs)

    @torch.no_grad()
    def evaluate_batch(self, batch: PaddedBatch, stage: Stage) -> Tensor:
        """Adds a validation batch to the averages; its mean SI-SDR, negative."""
        with self.evaluation_ctx:
            outputs = self.compute_forward(batch, stage)
        outputs["si_sdr"] = _si_sdr(outputs)
        _add_to(self.averages, batch, outputs)
        self.words.add(batch.id, outputs)
        if self.tracker.plays:
            self.audible += audible_signals(batch, outputs, self.heard)
        return -outputs["si_sdr"].mean().cpu()

    def make_dataloader(
        self, dataset: MixtureDataset, stage: Stage, *args: Any, **loader_kwargs: Any
    ) -> DataLoader:
        """As in SpeechBrain, with our collation; validation is split, too."""
        if stage == Stage.TRAIN:
            self.train_set = dataset
        else:
            self.words.data = dataset
            self.heard = dataset.data_ids[: self.hparams.save_audio]
            rank, processes = rank_and_processes()
            loader_kwargs["sampler"] = range(rank, len(dataset), processes)
            if self.hparams.per_variant_validation:  # up to five examples a mixture
                loader_kwargs["batch_size"] = max(1, loader_kwargs["batch_size"] // 5)
        loader_kwargs.setdefault("collate_fn", collate)
        return super().make_dataloader(dataset, stage, *args, **loader_kwargs)

    def fit(self, *args: Any, **kwargs: Any) -> None:
        super().fit(*args, **kwargs)
        self.tracker.finish()
        if self.debug and not self.debug_persistently:
            logger.info(
                "--debug keeps no checkpoint to evaluate or export; "
                "add --debug_persistently for that"
            )

    def on_fit_start(self) -> None:
        """Resumes, and forgets what the log says of epochs that are not done."""
        check_scheduler(self.hparams.lr_scheduler)
        self.frozen = (
            frozen_statistics(self.modules) if getattr(self.hparams, "freeze", None) else []
        )
        self.initial_lr = lr = self.hparams.lr
        super().on_fit_start()
        if self._optimizer_step_limit_exceeded and not self.step:
            # SpeechBrain asks after an epoch; a rerun would begin another one.
            self.hparams.epoch_counter.limit = self.hparams.epoch_counter.current
        if self.initial_lr != lr:
            logger.info("lr: %g now, instead of %g", lr, self.initial_lr)
            sb.nnet.schedulers.update_learning_rate(self.optimizer, lr)
            self.initial_lr = lr
        if self.was_warming_up and not self.is_warming_up:  # it is shorter now
            set_rate(self.optimizer, lr)
        self._fit_position()
        self._count_steps()
        done = self.hparams.epoch_counter.current
        self.tracker = open_tracker(vars(self.hparams), done)
        self.log = TrainingLog(self.hparams.train_logger, self.hparams.output_folder)
        self.log.forget_after(done)

    def _fit_position(self) -> None:
        """Goes on at the same mixture if batches or steps are of another size now."""
        before, now = self.sizes_before, self._sizes()
        if not self.step or before in (None, now):
            return
        step = self.step * before["batch"] // now["batch"]
        self.step = step - step % now["accumulation"]
        loader = self.checkpointer.recoverables["dataloader-TRAIN"]
        loader._speechbrain_recovery_skip_to = self.step

    def _sizes(self) -> dict[str, int] | None:
        """Mixtures in a batch of all processes, and batches in a step."""
        if (sampler := self.train_sampler) is None:
            return None
        batch = sampler.batch_size * sampler.processes
        return {"batch": batch, "accumulation": sampler.accumulation}

    def on_stage_start(self, stage: Stage, epoch: int | None = None) -> None:
        super().on_stage_start(stage, epoch)
        if stage == Stage.TRAIN:
            self.train_set.set_epoch(self.epoch)
            self.cost = EpochCost(self.device, self.seconds_before)
            self.seconds_before = 0.0
        elif stage == Stage.VALID:
            self.words.begin(self.epoch)
        self.audible = []

    def on_stage_end(self, stage: Stage, stage_loss: float, epoch: int | None = None) -> None:
        averages = self.averages.of_all_processes()
        if stage == Stage.TRAIN:
            self.train_averages = averages
            if averages.skipped and not averages.mixtures + averages.silent:
                self._give_up("no batch had a finite loss")
        else:
            self._end_epoch(averages)

    def _end_epoch(self, valid: Averages) -> None:
        """Schedules, stops, logs and saves, by what validation says."""
        epoch = self.epoch
        if valid.failed and not valid.mixtures:
            self._give_up("no estimate of the validation set is finite")
        # SI-SDRi is SI-SDR less a constant, the mixtures being the same in every
        # epoch: the best in one is the best in the other.
        every = self.hparams.per_variant_validation
        variants = valid.means_by_variant() if every else {}
        stats = valid.means_over_variants() if every else valid.means()
        lr = self._schedule(epoch, stats["si_sdr"])
        self.hparams.epoch_counter.update_metric(stats["si_sdr"])
        stats |= self.words.stats()
        results = (self.train_averages, stats, variants)
        row = self.log.add(epoch, lr, *results, self.cost, valid.silent)
        self._track(epoch, row)
        meta = {"si_sdr": stats["si_sdr"], "epoch": epoch, **self.words.meta(stats)}
        self.checkpointer.save_checkpoint(meta=meta)
        if self.hparams.save_all_checkpoints:
            self._forget_intra_epoch_checkpoints()
        else:
            self.checkpointer.keep_best(getattr(self.hparams, "average_checkpoints", 1))

    @main_process_only  # SpeechBrain's loggers would wait for the other processes
    def _track(self, epoch: int, row: Mapping[str, float]) -> None:
        """Tells the tracker of an epoch, with audio if it is the best so far."""
        self.tracker.add(row)
        best = max((r["valid_si_sdr"] for r in self.log.rows()[:-1]), default=-inf)
        if row["valid_si_sdr"] >= best:
            for name, signal in self.audible:
                self.tracker.add_audio(epoch, name, signal, self.hparams.sample_rate)

    def _schedule(self, epoch: int, si_sdr_db: float) -> float:
        """Sets the rate of the next epoch and returns that of this one's last step."""
        lr, scheduler = self.optimizer.param_groups[0]["lr"], self.hparams.lr_scheduler
        if self.is_warming_up or runs_per_step(scheduler):
            return lr
        if self.train_set.curriculum.scheduler_runs_at(epoch):
            rate_after_epoch(scheduler, self.optimizer, epoch, -si_sdr_db)
        return lr

    @checkpoints.mark_as_saver
    def _save(self, path: Path) -> None:
        super()._save(path)
        averages = self.averages_of_all if self.step else self.averages
        state = {
            "averages": averages.state(),
            "initial_lr": self.initial_lr,
            "is_warming_up": self.is_warming_up,
            "seconds": self.cost.seconds() if self.step else 0.0,
            "sizes": self._sizes(),
        }
        with open(path, "a", encoding="utf-8") as stream:
            yaml.safe_dump(state, stream)

    @checkpoints.mark_as_loader
    def _recover(self, path: Path, end_of_epoch: bool) -> None:
        super()._recover(path, end_of_epoch)
        with open(path, encoding="utf-8") as stream:
            saved = yaml.safe_load(stream)
        self.initial_lr = saved.get("initial_lr", self.hparams.lr)
        self.was_warming_up = saved.get("is_warming_up", False)
        if "averages" in saved:
            self.averages = Averages.restore(saved["averages"])
            self.seconds_before, self.sizes_before = saved["seconds"], saved["sizes"]


def _each_alone(separator: nn.Module, mixture: Tensor, lengths: Tensor) -> Tensor:
    """Estimates that do not depend on how long others are: without padding, by length."""
    parts = []
    for length in lengths.unique().int().tolist():
        rows = (lengths == length).nonzero()[:, 0]
        estimates = separator(mixture[rows, :length])
        parts.append((rows, F.pad(estimates, (0, 0, 0, mixture.shape[1] - length))))
    order = torch.cat([rows for rows, _ in parts]).argsort()
    return torch.cat([estimates for _, estimates in parts])[order]


@torch.no_grad()
def _si_sdr(outputs: Outputs) -> Tensor:
    """SI-SDR of each mixture under its best permutation, dB, ``[batch]``."""
    targets, lengths = outputs["targets"], outputs["lengths"]
    # Of what a model returns in training alone, as of earlier stages, there is no score.
    estimates = outputs["estimates"][..., : targets.shape[2]]
    return -pit_si_sdr_loss(estimates, targets, lengths)[0]


def _add_to(averages: Averages, batch: PaddedBatch, outputs: Outputs) -> None:
    mixture, targets = outputs["mixture"], outputs["targets"]
    averages.add(outputs["si_sdr"], mixture, targets, batch.variant, outputs["lengths"])
