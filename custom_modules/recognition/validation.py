"""Words of a validation set, counted while a model is trained."""

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

import torch
from speechbrain.utils.distributed import is_distributed_initialized
from torch import Tensor

from custom_modules.dataio import MixtureDataset
from custom_modules.postprocessing import at_level_of
from custom_modules.recognition.recognisers import load_recogniser
from custom_modules.recognition.word_errors import count_errors, texts_of


class ValidationWords:
    """Word errors of a validation set's estimates, in some epochs; nothing without a recogniser.

    By ``valid_recogniser`` and ``valid_recogniser_every`` of the hparams. Errors and words
    are summed over mixtures whose texts are known, and over processes.
    """

    def __init__(self, hparams: Mapping[str, Any], device: str | torch.device) -> None:
        self.spec = hparams.get("valid_recogniser")
        self.every = hparams.get("valid_recogniser_every", 1)
        self.goes_by_words = hparams.get("best", "si_sdr") == "wer"
        self.recogniser = load_recogniser(self.spec, str(device)) if self.spec else None
        self.rate = hparams["sample_rate"] if self.spec else 0
        self.data: MixtureDataset | None = None
        self.sums = torch.zeros(2, dtype=torch.float64)  # errors, words
        self.is_due = False

    def begin(self, epoch: int) -> None:
        """An epoch's validation begins."""
        self.is_due = self.recogniser is not None and epoch % self.every == 0
        self.sums.zero_()

    def add(self, ids: Sequence[str], outputs: Mapping[str, Any]) -> None:
        """Adds a batch: ``mixture``, ``targets``, ``estimates`` and ``lengths``."""
        if not self.is_due or self.data is None or self.recogniser is None:
            return
        mixtures, estimates = outputs["mixture"].float().cpu(), outputs["estimates"].float().cpu()
        sources, lengths = outputs["targets"].shape[2], outputs["lengths"]
        signals: list[Tensor] = []
        texts = [texts_of(self.data.data[name], self.data.task) for name in ids]
        known = [place for place, listed in enumerate(texts) if listed]
        for place in known:
            end = mixtures.shape[1] if lengths is None else int(lengths[place])
            estimate = estimates[place, :end, :sources]
            signals += at_level_of(mixtures[place, :end], estimate, self.rate).T
        heard = self.recogniser.transcribe([x.numpy() for x in signals], self.rate)
        for number, place in enumerate(known):
            streams = heard[number * sources : (number + 1) * sources]
            counts = count_errors(texts[place] or [], streams)
            self.sums += torch.tensor([counts.errors, counts.length])

    def stats(self) -> dict[str, float]:
        """``wer`` in per cent, of all processes, if this epoch counts words and has any."""
        sums = self.sums.clone()
        if self.is_due and is_distributed_initialized():
            on_gpu = torch.distributed.get_backend() == "nccl"
            sums = sums.cuda() if on_gpu else sums
            torch.distributed.all_reduce(sums)
        errors, words = sums.tolist()
        return {"wer": 100 * errors / words} if words else {}

    def meta(self, stats: Mapping[str, float]) -> dict[str, Any]:
        """What a checkpoint must say, if the best goes by words; no words are the worst."""
        return {"best": "wer", "wer": stats.get("wer", inf)} if self.goes_by_words else {}
