"""The published procedure: from recordings to the layers of one mixture.

Sources are limited at ±0.999. Two different speakers; speaker 1 keeps its level, speaker
2 is scaled to the speech-to-speech ratio; the scene is scaled relative to the speech mix;
the event suits the scene and keeps its level; indoors every source has a fully wet layer
of reverberation. A candidate of which a sum or a layer reaches 0.9999 is drawn again.

Source: Kleć, Szklanny, Wieczorkowska 2024, and the MATLAB script published with it.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import gcd
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike

from custom_modules import audio, layout
from custom_modules.corpus import reverb, sources
from custom_modules.corpus.sources import INDOOR, Listing, Recording, Setup, Source
from custom_modules.corpus.utterances import GOLDEN_RATIO, Pairs
from custom_modules.errors import InputError
from custom_modules.mmipc import generator

SMALLEST_SSR, LARGEST_SSR = layout.SSR_RANGE
LOWEST_SCENE, HIGHEST_SCENE = layout.SCENE_RANGE
REJECTED_PEAK = 0.9999
#: Share of a mixture in which both talk at the same time, at least.
SMALLEST_OVERLAP = 0.3
#: Between recordings that are joined, in s.
SHORTEST_GAP, LONGEST_GAP = 0.1, 0.3
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
class Segment:
    """A stretch of sound and where it comes from."""

    samples: np.ndarray  # [time], as long as a mixture
    path: str  # the recording; several, joined by ";", if one was too short
    start: int  # samples, within the first recording
    end: int  # samples, within the last recording
    rates: tuple[int, ...] = (0, 0)  # Hz, of those two recordings; 0: the corpus's
    text: str = ""  # what is said, if nothing is cut

    def cells(self, prefix: str, rate: int) -> dict[str, str]:
        """The three cells of a row that say where the segment comes from.

        As MATLAB counts: the first sample and the last one, from 1, at the recording's rate.
        """
        first, last = (own or rate for own in self.rates)
        return {
            f"{prefix}OryginalPath": self.path,
            f"{prefix}Start": str(round(self.start * first / rate) + 1),
            f"{prefix}End": str(round(self.end * last / rate)),
        }


@dataclass(frozen=True)
class Mixture:
    """A finished mixture."""

    row: Row
    layers: Layers  # int16, [time]; "mix" is the sum of the others
    tries: int  # candidates that were drawn, this one included


#: What a mixture's speech is cut from: two paths, each with its first sample.
Segments = frozenset[tuple[str, str]]


def segments_of(row: Row) -> Segments:
    return frozenset((row[f"speech{n}OryginalPath"], row[f"speech{n}Start"]) for n in (1, 2))


@dataclass
class Mixer:
    """Draws mixtures; each depends on the seed, the subset, its index and what is taken."""

    setup: Setup
    sources: Mapping[str, Source]  # speech, scene, event
    recordings: Mapping[str, Listing]  # by the same keys, from their `prepare`
    indoor_share: float | None = None  # None: as the scene classes fall
    max_tries: int = 100  # candidates per mixture

    def mixture(self, subset: str, index: int, taken: Collection[Segments] = ()) -> Mixture:
        """Draws candidates until one is good, and not of segments that are ``taken``."""
        rejected: Counter[tuple[str, str]] = Counter()
        for attempt in range(self.max_tries):
            try:
                return self._candidate(subset, index, attempt, taken)
            except RejectedError as error:
                rejected[error.args] += 1
        counts = ", ".join(f"{why}: {n}" for (why, _), n in rejected.most_common())
        (_, remedy), _ = rejected.most_common(1)[0]
        raise InputError(
            f"{layout.stem(subset, index)}: all of {self.max_tries} candidates were "
            f"rejected ({counts}); {remedy}, or raise --max_tries"
        )

    def _candidate(
        self, subset: str, index: int, attempt: int, taken: Collection[Segments]
    ) -> Mixture:
        """Layers are rounded to 16 bit first; the mix is their exact sum."""
        rng = generator(self.setup.seed, subset, index, attempt)
        layers, row = self._speech(subset, index, attempt, rng, taken)
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
        for layer, samples in layers.items():
            _check_peak(samples, f"{layer} at full scale")
        integers = {layer: audio.quantise(samples) for layer, samples in layers.items()}
        for layer in ("s1", "s2", "scene", "event"):
            if not integers[layer].any():
                raise RejectedError(f"silent {layer}", SILENCE_REMEDY)
        mix = np.stack(list(integers.values())).sum(axis=0, dtype=np.int32)
        _check_peak(mix / audio.FULL_SCALE, "mix at full scale")
        integers["mix"] = mix.astype(np.int16)
        row |= layout.file_cells(subset, index, integers)
        return Mixture(row, integers, attempt + 1)

    def _speech(
        self, subset: str, index: int, attempt: int, rng: Generator, taken: Collection[Segments]
    ) -> tuple[Layers, Row]:
        """Two talkers at a ratio."""
        rate, draw = self.setup.rate, self._stretches
        if self.sources["speech"].whole:
            draw = self._others if taken else self._utterances
        cuts = draw(subset, index, attempt, rng)
        row = cuts[0].cells("speech1", rate) | cuts[1].cells("speech2", rate)
        if segments_of(row) in taken:
            remedy = f"add recordings or lower n_{subset}"
            raise RejectedError("speech of another mixture", remedy)
        voices = [audio.limit(cut.samples) for cut in cuts]
        active = [audio.active_frames(voice, rate) for voice in voices]
        both = active[0] & active[1]
        if not both.any() or both.mean() < SMALLEST_OVERLAP:
            remedy = "give speakers more speech or lower --duration"
            raise RejectedError("talkers hardly overlap", remedy)
        ratio = int(rng.integers(SMALLEST_SSR, LARGEST_SSR + 1))
        gain = audio.rms(voices[0]) / audio.rms(voices[1])
        layers = {"s1": voices[0], "s2": voices[1] * gain / audio.from_db(ratio)}
        texts = {c: cut.text for c, cut in zip(layout.TEXT_COLUMNS.values(), cuts, strict=True)}
        return layers, row | {"SSR": str(ratio)} | (texts if any(texts.values()) else {})

    def _stretches(self, subset: str, index: int, attempt: int, rng: Generator) -> list[Segment]:
        """Segments of two speakers, as long as the mixture."""
        source, speakers = self.sources["speech"], self._grouped["speech"][subset]
        turn = index * self.max_tries + attempt
        names = rng.choice(list(speakers), 2, replace=False)
        return [cut_speech(source, speakers[name], self.setup, turn, rng) for name in names]

    def _utterances(self, subset: str, index: int, attempt: int, rng: Generator) -> list[Segment]:
        """Two speakers' whole recordings, in any order, each at a random time."""
        return self._cut_whole(self._pairs[subset].of(index, attempt), rng)

    def _others(self, subset: str, index: int, attempt: int, rng: Generator) -> list[Segment]:
        """The same of any pair, where the mixture's own ones are taken."""
        pairs = self._pairs[subset]
        return self._cut_whole(pairs.of(int(rng.integers(pairs.total))), rng)

    def _cut_whole(self, pair: Sequence[Recording], rng: Generator) -> list[Segment]:
        source = self.sources["speech"]
        return [cut_whole(source, pair[n], self.setup, rng) for n in rng.permutation(2)]

    def _scene(
        self, subset: str, name: str, speech: np.ndarray, rng: Generator
    ) -> tuple[np.ndarray, Row]:
        """A scene of a class, at a level relative to the speech mix."""
        cut = self._cut("scene", subset, name, rng)
        scene = audio.limit(cut.samples)
        level = audio.rms(scene)
        if level == 0.0:
            raise RejectedError("silent scene", SILENCE_REMEDY)
        relative = round(rng.uniform(LOWEST_SCENE, HIGHEST_SCENE), 2)
        gain = audio.rms(speech) / level * audio.from_db(relative)
        cells = cut.cells("scene", self.setup.rate) | {
            "sceneRandomDB": layout.number(relative),  # published: how far above the lowest
            "sceneOffsetDB": layout.number(relative),
            "sceneVolumeGain": layout.number(gain),
            "sceneClass": name,
        }
        return scene * gain, cells

    def _event(self, subset: str, scene: str, rng: Generator) -> tuple[np.ndarray, Row]:
        """An event that suits the scene, at its own level."""
        suits = self.sources["event"].suits
        names = [n for n in self._grouped["event"][subset] if suits(n, scene)]
        if not names:
            raise RejectedError(f"no event suits {scene}", "add or map event classes")
        name = _draw(rng, names)
        cut = self._cut("event", subset, name, rng)
        cells = cut.cells("event", self.setup.rate) | {"eventClass": name}
        return audio.limit(cut.samples), cells

    def _cut(self, role: str, subset: str, name: str, rng: Generator) -> Segment:
        """A segment of one of the recordings of a class; scenes go on, events end."""
        recording = _draw(rng, self._grouped[role][subset][name])
        source, repeat = self.sources[role], role == "scene"
        return cut_stretch(source, recording, self.setup, rng, repeat)

    def _reverberate(self, ranges: dict, dry: Layers, rng: Generator) -> tuple[Layers, Row]:
        """The wet layers: one room for all, a pre-delay for each source."""
        drawn = reverb.draw_room(ranges, rng)
        rate = self.setup.rate
        response = reverb.impulse_response(drawn, self.setup.length, rate)
        wet = {
            layer: reverb.wet(dry[name], response, drawn[column], rate)
            for layer, (name, column) in WET_LAYERS.items()
        }
        return wet, {column: layout.number(value) for column, value in drawn.items()}

    def _scene_classes(self, subset: str, index: int) -> list[str]:
        """Those indoors or those outdoors, the same for every candidate of a mixture.

        Were it drawn again, loud recordings would make corpora of outdoor mixtures:
        reverberation brings a candidate nearer to full scale.
        """
        scene_class = self.sources["scene"].scene_class
        names = list(self._grouped["scene"][subset])
        indoor = [name for name in names if scene_class(name).environment == INDOOR]
        outdoor = [name for name in names if name not in indoor]
        share = self.indoor_share
        share = len(indoor) / len(names) if share is None else share
        rng = generator(self.setup.seed, subset, index, "environment")
        # One kind alone is taken whatever is drawn.
        return (indoor if rng.random() < share else outdoor) or indoor or outdoor

    @cached_property
    def _pairs(self) -> dict[str, Pairs]:
        """Subset → pairs of utterances."""
        seed = self.setup.seed
        return {s: Pairs(speakers, seed, s) for s, speakers in self._grouped["speech"].items()}

    @cached_property
    def _grouped(self) -> dict[str, dict[str, Listing]]:
        """Role → subset → speaker or class → recordings."""
        return {
            role: {s: sources.by_group(listed) for s, listed in split.items()}
            for role, split in self.recordings.items()
        }


def cut_speech(
    source: Source, recordings: list[Recording], setup: Setup, turn: int, rng: Generator
) -> Segment:
    """A segment of a speaker; short recordings are joined, in an order of ``rng``.

    No two turns of a speaker start at the same sample until every possible start
    has been used: turn t starts at t times a step that shares no divisor with
    their number. The step is near the golden section of it, which also keeps
    the starts of any run of turns apart.
    """
    length = setup.length
    # A short one is left at its half at the latest: more would be gaps.
    spare = [recording.samples - length for recording in recordings]
    choices = [s + 1 if s >= 0 else max(1, (s + length) // 2) for s in spare]
    ends = np.cumsum(choices)
    total = int(ends[-1])
    step = max(1, round(GOLDEN_RATIO * total))
    while gcd(step, total) > 1:
        step += 1
    position = turn * step % total
    first = int(np.searchsorted(ends, position, side="right"))
    start = position - int(ends[first]) + choices[first]
    recording = recordings[first]
    if spare[first] >= 0:
        samples = source.read(recording, start, length, setup.rate)
        return Segment(samples, recording.path, start, start + length, (recording.rate,) * 2)
    others = [recordings[i] for i in rng.permutation(len(recordings)) if i != first]
    return _join(source, [*others, recording], start, setup, rng)


def _join(
    source: Source, waiting: list[Recording], start: int, setup: Setup, rng: Generator
) -> Segment:
    """Recordings after each other, the last one first; silence if they run out."""
    samples = np.zeros(setup.length)
    position, first_start, used = 0, start, []
    while waiting and position < setup.length:
        recording = waiting.pop()
        used.append(recording)
        size = min(recording.samples - start, setup.length - position)
        piece = source.read(recording, start, size, setup.rate)
        samples[position : position + size] = piece
        end = start + size
        gap = rng.uniform(SHORTEST_GAP, LONGEST_GAP)
        position += size + round(gap * setup.rate)
        start = 0
    paths = layout.JOIN.join(recording.path for recording in used)
    return Segment(samples, paths, first_start, end, (used[0].rate, recording.rate))


def cut_stretch(
    source: Source, recording: Recording, setup: Setup, rng: Generator, repeat: bool
) -> Segment:
    """A random stretch; a shorter recording is repeated, or placed at a random time."""
    size = min(setup.length, recording.samples)
    start = int(rng.integers(recording.samples - size + 1))
    offset = 0 if repeat else int(rng.integers(setup.length - size + 1))
    samples = source.read(recording, start, size, setup.rate)
    if repeat:
        samples = np.resize(samples, setup.length)
    else:
        samples = np.pad(samples, (offset, setup.length - size - offset))
    return Segment(samples, recording.path, start, start + size, (recording.rate,) * 2)


def cut_whole(source: Source, recording: Recording, setup: Setup, rng: Generator) -> Segment:
    """A whole recording, which is no longer than a mixture, at a random time."""
    segment = cut_stretch(source, recording, setup, rng, repeat=False)
    *_, last = recording.parts or (recording,)
    rates = (recording.rate, last.rate)
    return replace(segment, end=last.samples, rates=rates, text=recording.text)


def _check_peak(samples: ArrayLike, reason: str) -> None:
    if np.abs(samples).max() >= REJECTED_PEAK:
        raise RejectedError(reason, "lower the level of the recordings")


def _draw(rng: Generator, items: Sequence) -> Any:
    return items[int(rng.integers(len(items)))]
