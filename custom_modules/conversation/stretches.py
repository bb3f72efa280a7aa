"""Stretches of a recording that are separated, and put back onto the speakers' tracks.

Start reading at :class:`Stretches`.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch

from custom_modules.audio import resample, resample_blocks
from custom_modules.conversation.identity import Embedding
from custom_modules.conversation.overlaps import alone, assign
from custom_modules.conversation.passages import Atom
from custom_modules.conversation.samples import Samples
from custom_modules.conversation.tracks import FADE_SECONDS, fade_into, lay
from custom_modules.inference import PolSESSSeparation

#: Overlaps whose contexts meet are separated together, in stretches up to this, s.
_LONGEST = 30.0
#: A voice is learnt from so much speech alone, in parts from and up to, s.
_VOICE_SECONDS, _LEAST_PART, _MOST_PART = 30.0, 0.5, 10.0


class Separator(Protocol):
    """What parts a stretch of a recording into its sources."""

    rate: int
    sources: int

    def separate(self, blocks: Iterable[np.ndarray], start: int) -> Iterator[np.ndarray]:
        """Blocks ``[time]`` at ``rate`` → parts ``[sources, time]``, together as long.

        ``start`` is the first one's sample in the recording at ``rate``.
        """


class ModelSeparator:
    """An exported model as a separator: long stretches in chunks, sources at their level."""

    def __init__(self, model: PolSESSSeparation) -> None:
        self.model = model
        self.rate: int = model.hparams.sample_rate
        self.sources: int = model.hparams.num_spks

    def separate(self, blocks: Iterable[np.ndarray], start: int) -> Iterator[np.ndarray]:
        """Whatever the ``start``: a model knows only what it hears."""
        tensors = (torch.from_numpy(block.astype("float32"))[None] for block in blocks)
        for part in self.model.stream(tensors, "mixture"):
            yield part[0].T.numpy()


def separate_whole(recording: Samples, separator: Separator, outputs: Sequence[Samples]) -> None:
    """Writes all sources of a recording, as a stream, each at its file's rate."""
    rows = (block[None] for block in recording.blocks())
    blocks = (row[0] for row in resample_blocks(rows, recording.rate, separator.rate))
    parts = separator.separate(blocks, 0)
    place = 0
    for part in resample_blocks(parts, separator.rate, outputs[0].rate):
        for output, samples in zip(outputs, part, strict=True):
            output.write(place, samples)
        place += part.shape[1]


def voices_of(
    recording: Samples, cuts: Sequence[Atom], embedding: Embedding
) -> dict[str, np.ndarray]:
    """Each speaker's voice, from where nobody else speaks; of some there may be none."""
    least, most = (round(seconds * recording.rate) for seconds in (_LEAST_PART, _MOST_PART))
    known: dict[str, np.ndarray] = {}
    for who in dict.fromkeys(name for atom in cuts for name in atom.speakers):
        mine = [x for x in cuts if x.speakers == (who,) and x.stop - x.start >= least]
        total, taken = np.zeros(1), 0.0
        for atom in sorted(mine, key=lambda x: (x.start - x.stop, x.start)):
            part = recording.read(atom.start, min(atom.stop, atom.start + most))
            if taken < _VOICE_SECONDS:
                total = total + len(part) * embedding(part, recording.rate)
                taken += len(part) / recording.rate
        if norm := float(np.linalg.norm(total)):
            known[who] = total / norm
    return known


@dataclass
class Stretches:
    """What is needed to separate parts of a recording.

    ``base`` is what is on the tracks elsewhere: the recording, or what an enhancer made of
    it. With ``whole``, the sources of the recording as it was separated from end to end,
    nothing is separated again.
    """

    recording: Samples
    base: Samples
    tracks: Mapping[str, Samples]
    cuts: Sequence[Atom]
    covered: Sequence[Atom]
    separator: Separator
    embedding: Embedding
    voices: Mapping[str, np.ndarray]
    context: int  # on both sides, in samples
    observed: float = 0.0  # times base, added to what was separated
    whole: Sequence[Samples] = ()

    def groups(self) -> list[list[Atom]]:
        """What is to be separated, together what shares its context.

        Overlaps of as many as the separator has outputs for; of a recording that was
        separated from end to end, all.
        """
        fade = round(FADE_SECONDS * self.base.rate)
        longest = round(_LONGEST * self.base.rate)
        groups: list[list[Atom]] = []
        for atom in self._wanted(longest):
            if groups:
                gap = atom.start - groups[-1][-1].stop
                length = atom.stop - groups[-1][0].start + 2 * self.context
                if 0 < gap < 2 * fade or (gap < 2 * self.context and length <= longest):
                    groups[-1].append(atom)
                    continue
            groups.append([atom])
        return groups

    def _wanted(self, longest: int) -> Iterator[Atom]:
        for atom in self._separable():
            parts = math.ceil((atom.stop - atom.start) / longest)
            edges = np.linspace(atom.start, atom.stop, parts + 1).round().astype(int).tolist()
            for start, stop in pairwise(edges):
                yield Atom(start, stop, atom.speakers)

    def _separable(self) -> Iterator[Atom]:
        least = 1 if self.whole else 2
        for atom in self.covered if self.whole else self.cuts:
            if least <= len(atom.speakers) <= self.separator.sources:
                yield atom

    def _goes_on(self, edge: int) -> bool:
        """Whether there is something to separate on both sides of a sample."""
        near = [atom for atom in self._separable() if atom.start <= edge <= atom.stop]
        return len(near) > 1 or any(atom.start < edge < atom.stop for atom in near)

    def put(self, group: Sequence[Atom]) -> None:
        """Separates a group's stretch and writes it onto the tracks, the same if done again."""
        rate, own_rate = self.base.rate, self.separator.rate
        fade = round(FADE_SECONDS * rate)
        # A whole sample at both rates, so that a separator's time is the recording's.
        unit = rate // math.gcd(rate, own_rate)
        start = max(0, group[0].start - self.context) // unit * unit
        # In whole seconds: torch keeps some MB for each length that it has not met before.
        stop = start + math.ceil((group[-1].stop + self.context - start) / rate) * rate
        stop = min(self.base.length, stop)
        # Where the neighbouring group goes on, neither fades into the recording.
        before = 0 if self._goes_on(group[0].start) else fade
        behind = 0 if self._goes_on(group[-1].stop) else fade
        first, last = max(start, group[0].start - before), min(stop, group[-1].stop + behind)
        lay(self.tracks, self.base, self.covered, first, last)
        outputs = self._outputs(start, stop)
        here = self.base.read(start, stop)
        base = resample(here, rate, own_rate)
        long = np.stack([resample(row, own_rate, rate)[: stop - start] for row in outputs])
        for atom in group:
            gains = self._assigned(atom, start, outputs, base)
            fades = (before if atom is group[0] else fade, behind if atom is group[-1] else fade)
            first, last = max(start, atom.start - fades[0]), min(stop, atom.stop + fades[1])
            for who, (output, gain) in gains.items():
                place = slice(first - start, last - start)
                part = gain * long[output, place] + self.observed * here[place]
                fade_into(self.tracks[who], first, part.astype("float32"), fades)

    def _outputs(self, start: int, stop: int) -> np.ndarray:
        """A stretch's sources, ``[sources, time]`` at the separator's rate."""
        rate, own_rate = self.base.rate, self.separator.rate
        first = start * own_rate // rate
        if self.whole:
            last = first + math.ceil((stop - start) * own_rate / rate)
            return np.stack([source.read(first, last) for source in self.whole])
        mixture = resample(self.recording.read(start, stop), rate, own_rate).astype("float32")
        return np.concatenate([*self.separator.separate([mixture], first)], axis=1)

    def _assigned(
        self, atom: Atom, start: int, outputs: np.ndarray, base: np.ndarray
    ) -> dict[str, tuple[int, float]]:
        """For each speaker of an overlap: which output, and times what."""
        share = self.separator.rate / self.base.rate
        first, last = max(start, atom.start - self.context), atom.stop + self.context

        def place(sample: int) -> int:
            return min(max(round((sample - start) * share), 0), len(base))

        solos = [
            [(place(a), place(b)) for a, b in alone(self.cuts, who, first, last)]
            for who in atom.speakers
        ]
        voices = [self.voices.get(who) for who in atom.speakers]
        # Context of this overlap alone: a group may be much longer.
        seen = slice(place(first), place(last))
        moved = [[(a - seen.start, b - seen.start) for a, b in ranges] for ranges in solos]
        core = (place(atom.start) - seen.start, place(atom.stop) - seen.start)
        found = assign(
            outputs[:, seen], base[seen], core, moved, voices, self.embedding, self.separator.rate
        )
        pairs = zip(found.outputs, found.gains, strict=True)
        return dict(zip(atom.speakers, pairs, strict=True))
