"""The Brain that teaches a small recogniser to spell."""

from collections.abc import Mapping
from typing import Any

import speechbrain as sb
import torch
from speechbrain import Stage
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.decoders.ctc import ctc_greedy_decode
from speechbrain.nnet.losses import ctc_loss
from speechbrain.utils.metric_stats import ErrorRateStats
from torch import Tensor
from torch.utils.data import DataLoader

from custom_modules.recognition.mini import BLANK, NearestWords, spelt
from custom_modules.recognition.single_talkers import SingleTalkers
from custom_modules.steps import ExactSteps, Outputs
from custom_modules.training_log import forget_lines

#: The blank's rivals outside of a voice: a probability of zero that has a gradient of zero.
_IMPOSSIBLE = -1e4


class Spelling(ExactSteps):
    """Trains ``modules["recogniser"]`` by CTC within the voice, and to be silent outside.

    CTC alone puts a sentence's first and last letters on the silence around it ("okien"
    becomes "okienów"). The best checkpoint is that of the lowest word error rate of the
    validation set, its words the nearest of the ``lexicon``.
    """

    def __init__(self, *args: Any, lexicon: list[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.nearest = NearestWords(lexicon)
        self.spelt_stats, self.word_stats = ErrorRateStats(), ErrorRateStats()
        self.train_loss = 0.0

    def compute_forward(self, batch: PaddedBatch, stage: Stage) -> Outputs:
        batch = batch.to(self.device)
        signals, lengths = batch.signal
        if stage == Stage.TRAIN:
            signals = self.hparams.random_filter(self.hparams.speed_perturb(signals))
        features = self.hparams.features(signals)
        if stage == Stage.TRAIN:
            features = self.hparams.frequency_drop(self.hparams.random_warp(features))
        return {"log_probs": self.modules["recogniser"](features), "lengths": lengths}

    def compute_objectives(self, predictions: Outputs, batch: PaddedBatch, stage: Stage) -> Tensor:
        codes, code_lengths = batch.codes
        inside = batch.inside.data * predictions["lengths"][:, None]
        spelling, silence = bounded_ctc(
            predictions["log_probs"].float(), predictions["lengths"], inside, codes, code_lengths
        )
        return spelling + silence

    @torch.no_grad()
    def evaluate_batch(self, batch: PaddedBatch, stage: Stage) -> Tensor:
        outputs = self.compute_forward(batch, stage)
        loss = self.compute_objectives(outputs, batch, stage)
        decoded = ctc_greedy_decode(outputs["log_probs"], outputs["lengths"], BLANK)
        texts = [*map(spelt, decoded)]
        words = [text.split() for text in batch.words]
        self.spelt_stats.append(batch.id, [text.split() for text in texts], words)
        self.word_stats.append(batch.id, [self.nearest(text).split() for text in texts], words)
        return loss.cpu()

    def make_dataloader(
        self, dataset: SingleTalkers, stage: Stage, *args: Any, **loader_kwargs: Any
    ) -> DataLoader:
        if stage == Stage.TRAIN:
            self.train_set = dataset
        return super().make_dataloader(dataset, stage, *args, **loader_kwargs)

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self._count_steps()
        done = self.hparams.epoch_counter.current
        forget_lines(self.hparams.train_logger.save_file, done)  # was it killed before it saved?

    def on_stage_start(self, stage: Stage, epoch: int | None = None) -> None:
        super().on_stage_start(stage, epoch)
        if stage == Stage.TRAIN:
            self.train_set.set_epoch(self.epoch)
        else:
            self.spelt_stats.clear()
            self.word_stats.clear()

    def on_stage_end(self, stage: Stage, stage_loss: float, epoch: int | None = None) -> None:
        if stage == Stage.TRAIN:
            self.train_loss = stage_loss
        elif stage == Stage.VALID:
            stats = {"loss": stage_loss, **self.error_rates()}
            rate = self.optimizer.param_groups[0]["lr"]
            self.hparams.train_logger.log_stats(
                {"epoch": epoch, "lr": f"{rate:.2e}"}, {"loss": self.train_loss}, stats
            )
            meta = {"wer": stats["wer"], "epoch": epoch}
            self.checkpointer.save_and_keep_only(meta=meta, min_keys=["wer"])

    def error_rates(self) -> dict[str, float]:
        """Per cent of words wrong: the nearest of the lexicon, and as they are spelt."""
        return {
            "wer": self.word_stats.summarize("WER"),
            "wer_as_spelt": self.spelt_stats.summarize("WER"),
        }

    def test(self, dataset: SingleTalkers, loader_kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """A row of the table: how many are wrong of a condition's words."""
        self.evaluate(dataset, min_key="wer", test_loader_kwargs=dict(loader_kwargs))
        words = self.word_stats.summarize()
        counts = {name: words[name] for name in ("insertions", "deletions", "substitutions")}
        number = words["num_scored_tokens"]
        return {"n": words["num_scored_sents"], "words": number, **counts, **self.error_rates()}


def bounded_ctc(
    log_probs: Tensor, lengths: Tensor, inside: Tensor, codes: Tensor, code_lengths: Tensor
) -> tuple[Tensor, Tensor]:
    """CTC's loss of the frames inside of a voice, and the blank's outside of it; means.

    ``[batch, frames, letters]``; ``lengths`` ``[batch]`` and ``inside`` ``[batch, 2]`` are parts
    of the frames. Outside, the blank is certain to CTC.
    """
    frames = log_probs.shape[1]
    places = (torch.arange(frames, device=log_probs.device) + 0.5)[None] / frames
    beyond = (places < inside[:, :1]) | (places > inside[:, 1:])
    blank = torch.full_like(log_probs[0, 0], _IMPOSSIBLE)
    blank[BLANK] = 0.0
    bounded = torch.where(beyond[..., None], blank, log_probs)
    spelling = ctc_loss(bounded, codes, lengths, code_lengths, BLANK)
    heard = beyond & (places < lengths[:, None])
    silence = -(log_probs[..., BLANK] * heard).sum() / heard.sum().clamp_min(1)
    return spelling, silence


def brain_of(hparams: dict[str, Any], run_opts: Any, lexicon: list[str]) -> Spelling:
    """The Brain of an hparams file."""
    modules, optimiser = hparams["modules"], hparams["opt_class"]
    checkpointer: sb.utils.checkpoints.Checkpointer = hparams["checkpointer"]
    return Spelling(modules, optimiser, hparams, run_opts, checkpointer, lexicon=lexicon)
