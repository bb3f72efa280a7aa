"""Single talkers of a corpus, as a recogniser of voices is trained and tested on them.

The layers that a corpus keeps apart are added to a dry voice: MM-IPC with one talker. What
an epoch hears is a pure function of seed, epoch and id, as for the separators.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from speechbrain.dataio.dataset import DynamicItemDataset

from custom_modules import audio
from custom_modules.dataio import Manifest
from custom_modules.errors import InputError
from custom_modules.mmipc import CANCELLED_LAYERS, draw_fraction, draw_variant, variants_of
from custom_modules.recognition.mini import codes_of, heard_span, letters_of

#: How far below the talker a faint second one is, dB.
FAINTEST, LOUDEST = -20.0, -6.0


class Condition(NamedTuple):
    """What is heard beside a voice."""

    variant: str = "C"  # MM-IPC's letters: what is kept
    second_db: float | None = None  # another talker's level relative to this one's, or none
    separated: bool = False  # a separator's estimate of the voice, and no layers


#: name → what the test hears, by environment.
CONDITIONS: dict[str, dict[str, Condition]] = {
    "clean": {"indoor": Condition(), "outdoor": Condition()},
    "reverberant": {"indoor": Condition("R")},
    "noisy": {"indoor": Condition("SER"), "outdoor": Condition("SE")},
    "second talker": {"indoor": Condition("C", -10.0), "outdoor": Condition("C", -10.0)},
}


class Conditions:
    """What an epoch draws: clean first, everything else faded in.

    ``noisy_share`` of the examples have a background once ``fade_epochs`` are over, and of
    these ``second_share`` a faint second talker. ``separated_share`` of all are what a
    separator made of a mixture.
    """

    def __init__(
        self,
        seed: int,
        noisy_share: float = 0.75,
        second_share: float = 0.25,
        separated_share: float = 0.0,
        fade_epochs: float = 0.0,
    ) -> None:
        self.seed, self.fade_epochs = seed, fade_epochs
        self.noisy_share, self.second_share = noisy_share, second_share
        self.separated_share = separated_share

    def faded_in(self, epoch: int) -> float:
        """How much of the conditions has come, from 0 in epoch 1; of epoch 0, all."""
        if not self.fade_epochs or not epoch:
            return 1.0
        return min(1.0, (epoch - 1) / self.fade_epochs)

    def draw(self, environment: str, epoch: int, example: str) -> Condition:
        """The condition of an example in an epoch."""

        def fraction(of: str) -> float:
            return draw_fraction("recognition", of, self.seed, epoch, example)

        if fraction("separated") < self.separated_share:
            return Condition(separated=True)
        if fraction("noisy") >= self.noisy_share * self.faded_in(epoch):
            return Condition()
        noisy = [name for name in variants_of(environment) if name != "C"]
        variant = draw_variant(environment, noisy, self.seed, epoch, example)
        level = FAINTEST + (LOUDEST - FAINTEST) * fraction("level")
        return Condition(variant or "C", level if fraction("second") < self.second_share else None)


class SingleTalkers(DynamicItemDataset):
    """Each talker of each mixture whose text is known, alone but for its condition.

    Items hold ``id``, ``signal`` ``[time]`` (from its first sound to its last), ``codes``
    (what CTC shall spell), ``inside`` (where the dry voice begins and ends in it, as parts
    of its length) and ``words``.
    """

    def __init__(
        self,
        manifest: Manifest,
        conditions: Conditions | str,
        separated_folder: str | Path | None = None,
    ) -> None:
        self.manifest, self.conditions = manifest, conditions
        self.separated_folder = Path(separated_folder or ".")
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()
        examples = {}
        for mixture in manifest:
            entry = manifest[mixture]
            for talker in (1, 2):
                words = letters_of(entry.get(f"text{talker}") or "")
                if words and self._hears(entry["environment"]):
                    cells = {"mixture": mixture, "talker": talker, "words": words}
                    examples[f"{mixture}-{talker}"] = cells
        if not examples:
            raise InputError(
                f"{manifest.path}: holds no text to learn from; make the corpus with "
                "--sentences=matrix, or with --utterances=whole and a column text"
            )
        super().__init__(examples)
        self.add_dynamic_item(self.read, ["id", "mixture", "talker"], ["signal", "inside"])
        self.add_dynamic_item(lambda words: torch.tensor(codes_of(words)), "words", "codes")
        self.set_output_keys(["id", "signal", "inside", "codes", "words"])

    @property
    def lexicon(self) -> list[str]:
        """All words of its texts, sorted."""
        return sorted({word for cells in self.data.values() for word in cells["words"].split()})

    def set_epoch(self, epoch: int) -> None:
        """Says which epoch begins, also to workers."""
        self._epoch.fill_(epoch)

    def indices_at(self, epoch: int) -> list[int]:
        """The places of an epoch's examples: all."""
        return list(range(len(self.data_ids)))

    def _hears(self, environment: str) -> bool:
        fixed = self.conditions
        return environment in CONDITIONS[fixed] if isinstance(fixed, str) else True

    def read(self, example: str, mixture: str, talker: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The signal under its condition, and where the voice is in it."""
        entry = self.manifest[mixture]
        environment, rate = entry["environment"], entry["sample_rate"]
        if isinstance(self.conditions, str):
            condition = CONDITIONS[self.conditions][environment]
        else:
            condition = self.conditions.draw(environment, int(self._epoch), example)
        frames = round(entry["duration"] * rate)
        dry = audio.read_layer(entry[f"s{talker}"], 0, frames)
        if condition.separated:
            path = separated_path(self.separated_folder, mixture, talker)
            heard = audio.read_layer(path, 0, frames)
        else:
            heard = alone(entry, talker, condition, dry)
        start, end = heard_span(heard, rate)
        inside = (np.array(heard_span(dry, rate, margin=0)) - start) / (end - start)
        return torch.from_numpy(heard[start:end]), torch.from_numpy(inside.clip(0, 1)).float()


def separated_path(folder: Path, mixture: str, talker: int) -> Path:
    """Where a separator's estimate of a talker is kept."""
    return folder / f"{mixture}_s{talker}.wav"


def alone(entry: dict[str, Any], talker: int, condition: Condition, dry: np.ndarray) -> np.ndarray:
    """A talker of a manifest's entry under a condition, float32 ``[time]``."""
    other = 3 - talker
    heard = dry.copy()
    for path in kept_layers(entry, condition.variant, other):
        heard += audio.read_layer(path, 0, len(dry))
    if condition.second_db is not None:
        second = audio.read_layer(entry[f"s{other}"], 0, len(dry))
        gain = audio.from_db(condition.second_db) * audio.rms(dry)
        heard += second * np.float32(gain / max(audio.rms(second), 1e-9))
    return heard


def kept_layers(entry: dict[str, Any], variant: str, other: int) -> Iterable[str]:
    """Paths of the backgrounds that a variant keeps, but for the other talker's."""
    cancelled = CANCELLED_LAYERS[entry["environment"]]
    paths = dict(zip(cancelled["C"], entry["variants"]["C"], strict=True))
    left_out = {*cancelled[variant], f"s{other}_reverb"}
    return [path for layer, path in paths.items() if layer not in left_out]
