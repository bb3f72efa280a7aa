"""Cutting segments of a mixture's length from recordings."""

from dataclasses import dataclass
from math import gcd

import numpy as np
from numpy.random import Generator

from custom_modules import layout
from custom_modules.corpus.sources import Recording, Source, by_group

GOLDEN_RATIO = (5**0.5 - 1) / 2
#: Between recordings that are joined, in s.
SHORTEST_GAP, LONGEST_GAP = 0.1, 0.3


@dataclass(frozen=True)
class Segment:
    """A stretch of sound and where it comes from."""

    samples: np.ndarray  # [time], as long as a mixture
    path: str  # the recording; several, joined by ";", if one was too short
    start: int  # samples, within the first recording
    end: int  # samples, within the last recording

    def cells(self, prefix: str, rate: int) -> dict[str, str]:
        """The three cells of a row that say where the segment comes from."""
        return {
            f"{prefix}OryginalPath": self.path,
            f"{prefix}Start": layout.seconds(self.start, rate),
            f"{prefix}End": layout.seconds(self.end, rate),
        }


class Talkers:
    """The speakers of a subset, from whom segments of ``length`` samples are cut.

    No two turns of a speaker start at the same sample until every possible start
    has been used: turn t starts at t times a step that shares no divisor with
    their number. The step is near the golden section of it, which also keeps
    the starts of any run of turns apart.
    """

    def __init__(
        self, source: Source, recordings: list[Recording], length: int, rate: int
    ) -> None:
        self.source, self.length, self.rate = source, length, rate
        self.by_speaker = by_group(recordings)
        self.speakers = sorted(self.by_speaker)

    def cut(self, speaker: str, turn: int, rng: Generator) -> Segment:
        """Cuts a segment; ``rng`` orders the recordings if they must be joined."""
        recordings = self.by_speaker[speaker]
        first, start = self._start(recordings, turn)
        recording = recordings[first]
        if recording.samples >= self.length:
            samples = self.source.read(recording, start, self.length, self.rate)
            return Segment(samples, recording.path, start, start + self.length)
        others = [recordings[i] for i in rng.permutation(len(recordings)) if i != first]
        return self._join(recording, start, others, rng)

    def _start(self, recordings: list[Recording], turn: int) -> tuple[int, int]:
        """Which recording a turn begins in, and at which of its samples."""
        spare = [recording.samples - self.length for recording in recordings]
        # A short one is left at its half at the latest: more would be gaps.
        choices = [s + 1 if s >= 0 else max(1, (s + self.length) // 2) for s in spare]
        total = sum(choices)
        step = max(1, round(GOLDEN_RATIO * total))
        while gcd(step, total) > 1:
            step += 1
        position = turn * step % total
        ends = np.cumsum(choices)
        index = int(np.searchsorted(ends, position, side="right"))
        return index, position - int(ends[index]) + choices[index]

    def _join(
        self, recording: Recording, start: int, others: list[Recording], rng: Generator
    ) -> Segment:
        """Recordings of one speaker after each other; silence if they run out."""
        samples = np.zeros(self.length)
        position, paths, first_start = 0, [], start
        while position < self.length:
            size = min(recording.samples - start, self.length - position)
            piece = self.source.read(recording, start, size, self.rate)
            samples[position : position + size] = piece
            paths.append(recording.path)
            end = start + size
            position += size + round(rng.uniform(SHORTEST_GAP, LONGEST_GAP) * self.rate)
            if not others:
                break
            recording, start = others.pop(), 0
        return Segment(samples, layout.JOIN.join(paths), first_start, end)


def cut_background(
    source: Source, recording: Recording, length: int, rate: int, rng: Generator
) -> Segment:
    """A random stretch of a scene; one that is too short is repeated."""
    start = int(rng.integers(max(0, recording.samples - length) + 1))
    size = min(length, recording.samples)
    samples = source.read(recording, start, size, rate)
    return Segment(np.resize(samples, length), recording.path, start, start + size)


def cut_event(
    source: Source, recording: Recording, length: int, rate: int, rng: Generator
) -> Segment:
    """A random stretch of an event; a shorter one is placed at a random time."""
    spare = recording.samples - length
    start = int(rng.integers(max(0, spare) + 1))
    offset = int(rng.integers(max(0, -spare) + 1))
    size = min(length, recording.samples)
    samples = np.zeros(length)
    samples[offset : offset + size] = source.read(recording, start, size, rate)
    return Segment(samples, recording.path, start, start + size)
