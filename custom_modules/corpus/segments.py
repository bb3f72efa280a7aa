"""Cutting segments of a mixture's length from recordings."""

from dataclasses import dataclass
from math import gcd

import numpy as np
from numpy.random import Generator

from custom_modules import layout
from custom_modules.corpus.sources import Recording, Setup, Source

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
        return Segment(samples, recording.path, start, start + length)
    others = [recordings[i] for i in rng.permutation(len(recordings)) if i != first]
    return _join(source, [*others, recording], start, setup, rng)


def _join(
    source: Source, waiting: list[Recording], start: int, setup: Setup, rng: Generator
) -> Segment:
    """Recordings after each other, the last one first; silence if they run out."""
    samples = np.zeros(setup.length)
    position, paths, first_start = 0, [], start
    while waiting and position < setup.length:
        recording = waiting.pop()
        size = min(recording.samples - start, setup.length - position)
        piece = source.read(recording, start, size, setup.rate)
        samples[position : position + size] = piece
        paths.append(recording.path)
        end = start + size
        gap = rng.uniform(SHORTEST_GAP, LONGEST_GAP)
        position += size + round(gap * setup.rate)
        start = 0
    return Segment(samples, layout.JOIN.join(paths), first_start, end)


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
    return Segment(samples, recording.path, start, start + size)
