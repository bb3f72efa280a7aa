"""The published procedure: from recordings to the layers of one mixture.

Two different speakers; speaker 1 keeps its level, speaker 2 is scaled to the
speech-to-speech ratio; the scene is scaled relative to the speech mix; the event
suits the scene and keeps its level; indoors every source has a fully wet layer
of reverberation. Sources are limited at ±0.999; a candidate whose speech mix or
full mix reaches 0.9999 is drawn again.

Source: Kleć, Szklanny, Wieczorkowska 2024, and the MATLAB script published with it.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike

from custom_modules import audio, layout
from custom_modules.corpus import reverb, segments
from custom_modules.corpus.sources import INDOOR, OUTDOOR, Listing, Setup, by_group
from custom_modules.errors import InputError
from custom_modules.mmipc import generator

SMALLEST_SSR, LARGEST_SSR = -5, 5  # dB
LOWEST_SCENE, HIGHEST_SCENE = -14.0, 0.0  # dB relative to the speech mix
REJECTED_PEAK = 0.9999
#: Share of a mixture in which both talk at the same time, at least.
SMALLEST_OVERLAP = 0.3
SILENCE_REMEDY = "remove silent recordings"
#: Reverberated layer → the dry one that it is made from, the column of its pre-delay.
WET_LAYERS = {
    "s1_reverb": ("s1", "preDelay1"),
    "s2_reverb": ("s2", "preDelay2"),
    "event_reverb": ("event", "preDelayForEvent"),
}

Layers = dict[str, np.ndarray]
Row = dict[str, str]


class RejectedError(Exception):
    """A candidate that has to be drawn again: ``(reason, what helps if all are)``."""


@dataclass(frozen=True)
class Mixture:
    """A finished mixture."""

    row: Row
    layers: Layers  # int16, [time]; "mix" is the sum of the others
    tries: int  # candidates that were drawn, this one included


@dataclass
class Mixer:
    """Draws mixtures; each depends on the seed, the subset and its index only."""

    setup: Setup
    sources: Mapping[str, Any]  # speech, scene, event
    recordings: Mapping[str, Listing]  # by the same keys, from their `prepare`
    indoor_share: float | None = None  # None: as the scene classes fall
    max_tries: int = 100  # candidates per mixture

    def mixture(self, subset: str, index: int) -> Mixture:
        """Draws candidates until one is good."""
        rejected: Counter[tuple[str, str]] = Counter()
        for attempt in range(self.max_tries):
            try:
                return self._candidate(subset, index, attempt)
            except RejectedError as error:
                rejected[error.args] += 1
        by_number = rejected.most_common()
        counts = ", ".join(f"{reason}: {n}" for (reason, _), n in by_number)
        (_, remedy), _ = by_number[0]
        raise InputError(
            f"{layout.stem(subset, index)}: all of {self.max_tries} candidates were "
            f"rejected ({counts}); {remedy}, or raise --max_tries"
        )

    def _candidate(self, subset: str, index: int, attempt: int) -> Mixture:
        rng = generator(self.setup.seed, subset, index, attempt)
        turn = index * self.max_tries + attempt
        layers, row = self._speech(subset, turn, rng)
        speech = layers["s1"] + layers["s2"]
        _check_peak(speech, "speech at full scale")
        name = _draw(rng, self._scene_classes(subset, index))
        layers["scene"], cells = self._scene(subset, name, speech, rng)
        scene = self.sources["scene"].scene_class(name)
        layers["event"], event_cells = self._event(subset, scene.name, rng)
        row = {"subset": subset} | row | cells | event_cells
        if scene.room:
            wet, cells = self._reverberate(scene.room, layers, rng)
            layers, row = layers | wet, row | cells
        return _finish(row, layers, subset, index, attempt)

    def _speech(self, subset: str, turn: int, rng: Generator) -> tuple[Layers, Row]:
        """Two talkers at a ratio."""
        talkers = self._talkers[subset]
        rate = self.setup.rate
        names = rng.choice(talkers.speakers, 2, replace=False)
        first, second = (talkers.cut(name, turn, rng) for name in names)
        active = [audio.active_frames(cut.samples, rate) for cut in (first, second)]
        both = active[0] & active[1]
        if not both.any() or both.mean() < SMALLEST_OVERLAP:
            remedy = "give speakers more speech or lower --duration"
            raise RejectedError("talkers hardly overlap", remedy)
        ratio = int(rng.integers(SMALLEST_SSR, LARGEST_SSR + 1))
        gain = audio.rms(first.samples) / audio.rms(second.samples)
        scaled = second.samples * gain / audio.from_db(ratio)
        row = first.cells("speech1", rate) | second.cells("speech2", rate)
        layers = {"s1": audio.limit(first.samples), "s2": audio.limit(scaled)}
        return layers, row | {"SSR": str(ratio)}

    def _scene(
        self, subset: str, name: str, speech: np.ndarray, rng: Generator
    ) -> tuple[np.ndarray, Row]:
        """A scene of a class, at a level relative to the speech mix."""
        cut = self._cut("scene", segments.cut_background, subset, name, rng)
        level = audio.rms(cut.samples)
        if level == 0.0:
            raise RejectedError("silent scene", SILENCE_REMEDY)
        relative = round(rng.uniform(LOWEST_SCENE, HIGHEST_SCENE), 2)
        to_speech = audio.rms(audio.limit(speech)) / level
        gain = to_speech * audio.from_db(relative)
        cells = cut.cells("scene", self.setup.rate) | {
            "sceneRandomDB": layout.number(relative),
            "sceneOffsetDB": layout.number(20 * np.log10(to_speech)),
            "sceneVolumeGain": layout.number(gain),
            "sceneClass": name,
        }
        return audio.limit(cut.samples * gain), cells

    def _event(self, subset: str, scene: str, rng: Generator) -> tuple[np.ndarray, Row]:
        """An event that suits the scene, at its own level."""
        suits = self.sources["event"].suits
        names = [n for n in sorted(self._grouped["event"][subset]) if suits(n, scene)]
        if not names:
            raise RejectedError(f"no event suits {scene}", "add or map event classes")
        name = _draw(rng, names)
        cut = self._cut("event", segments.cut_event, subset, name, rng)
        cells = cut.cells("event", self.setup.rate) | {"eventClass": name}
        return audio.limit(cut.samples), cells

    def _cut(
        self, role: str, cut: Any, subset: str, name: str, rng: Generator
    ) -> segments.Segment:
        """A segment of one of the recordings of a class."""
        recording = _draw(rng, self._grouped[role][subset][name])
        setup = self.setup
        return cut(self.sources[role], recording, setup.length, setup.rate, rng)

    def _reverberate(
        self, ranges: dict, dry: Layers, rng: Generator
    ) -> tuple[Layers, Row]:
        """The wet layers: one room for all, a pre-delay for each source."""
        drawn = reverb.draw_room(ranges, rng)
        columns = ("highCut", "diffusion", "decay", "freqDamp")
        room = reverb.Room(*(drawn[column] for column in columns))
        rate = self.setup.rate
        response = reverb.impulse_response(room, self.setup.length, rate)
        wet = {
            layer: audio.limit(reverb.wet(dry[name], response, drawn[column], rate))
            for layer, (name, column) in WET_LAYERS.items()
        }
        return wet, {column: layout.number(value) for column, value in drawn.items()}

    def _scene_classes(self, subset: str, index: int) -> list[str]:
        """Those indoors or those outdoors, the same for every candidate of a mixture.

        Were it drawn again, loud recordings would make corpora of outdoor mixtures:
        reverberation brings a candidate nearer to full scale.
        """
        classes = defaultdict(list)
        for name in sorted(self._grouped["scene"][subset]):
            environment = self.sources["scene"].scene_class(name).environment
            classes[environment].append(name)
        if len(classes) == 1:
            return next(iter(classes.values()))
        share = self.indoor_share
        if share is None:
            share = len(classes[INDOOR]) / sum(map(len, classes.values()))
        rng = generator(self.setup.seed, subset, index, "environment")
        return classes[INDOOR if rng.random() < share else OUTDOOR]

    @cached_property
    def _talkers(self) -> dict[str, segments.Talkers]:
        source, setup = self.sources["speech"], self.setup
        return {
            subset: segments.Talkers(source, listed, setup.length, setup.rate)
            for subset, listed in self.recordings["speech"].items()
        }

    @cached_property
    def _grouped(self) -> dict[str, dict[str, Listing]]:
        """Role → subset → class → recordings."""
        return {
            role: {s: by_group(rs) for s, rs in self.recordings[role].items()}
            for role in ("scene", "event")
        }


def _finish(row: Row, layers: Layers, subset: str, index: int, attempt: int) -> Mixture:
    """Quantises the layers, and adds up what will be in the files."""
    integers = {name: audio.quantise(samples) for name, samples in layers.items()}
    for name in ("s1", "s2", "scene", "event"):
        if not integers[name].any():
            raise RejectedError(f"silent {name}", SILENCE_REMEDY)
    mix = np.sum(list(integers.values()), axis=0, dtype=np.int32)
    _check_peak(mix / audio.FULL_SCALE, "mix at full scale")
    integers["mix"] = np.asarray(mix, np.int16)
    row |= layout.file_cells(subset, index, integers)
    return Mixture(row, integers, attempt + 1)


def _check_peak(samples: ArrayLike, reason: str) -> None:
    if np.abs(samples).max() >= REJECTED_PEAK:
        raise RejectedError(reason, "lower the level of the recordings")


def _draw(rng: Generator, items: Sequence) -> Any:
    return items[int(rng.integers(len(items)))]
