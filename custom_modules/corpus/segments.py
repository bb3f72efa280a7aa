"""Cutting segments of a mixture's length from recordings."""

from collections import defaultdict
from dataclasses import dataclass
from math import gcd

import numpy as np

from custom_modules import layout

GOLDEN_RATIO = (5**0.5 - 1) / 2
#: Between recordings that are joined, in s.
SHORTEST_GAP, LONGEST_GAP = 0.1, 0.3


@dataclass(frozen=True)
class Segment:
    """A stretch of sound and where it comes from.

    Arguments
    ---------
    samples : numpy.ndarray
        ``[time]``, as long as a mixture.
    path : str
        The recording; several, joined by ``;``, if one was too short.
    start, end : int
        Samples, within the first and within the last recording.
    """

    samples: np.ndarray
    path: str
    start: int
    end: int

    def cells(self, prefix, rate):
        """The three cells of a row that say where the segment comes from."""
        return {
            f"{prefix}OryginalPath": self.path,
            f"{prefix}Start": layout.seconds(self.start, rate),
            f"{prefix}End": layout.seconds(self.end, rate),
        }


class Talkers:
    """The speakers of a subset, from whom segments are cut.

    No two turns of a speaker start at the same sample until every possible start
    has been used: turn t starts at t times a step that shares no divisor with
    their number. The step is near the golden section of it, which also keeps
    the starts of any run of turns apart.

    Arguments
    ---------
    source : SpeechSource
        Reads the recordings.
    recordings : list of Recording
        Those of the subset.
    length, rate : int
        A segment's length in samples, and Hz.
    """

    def __init__(self, source, recordings, length, rate):
        self.source = source
        self.length = length
        self.rate = rate
        self.by_speaker = defaultdict(list)
        for recording in recordings:
            self.by_speaker[recording.group].append(recording)
        self.speakers = sorted(self.by_speaker)

    def cut(self, speaker, turn, rng):
        """Cuts a segment of a speaker.

        Arguments
        ---------
        speaker : str
        turn : int
            Different turns give different segments.
        rng : numpy.random.Generator
            Orders the recordings that are joined, if one is too short.

        Returns
        -------
        Segment
        """
        recordings = self.by_speaker[speaker]
        first, start = self._start(recordings, turn)
        recording = recordings[first]
        if recording.samples >= self.length:
            samples = self.source.read(recording, start, self.length, self.rate)
            return Segment(samples, recording.path, start, start + self.length)
        others = [recordings[i] for i in rng.permutation(len(recordings)) if i != first]
        return self._join(recording, start, others, rng)

    def _start(self, recordings, turn):
        """Which recording a turn begins in, and at which of its samples."""
        choices = [self._starts_in(recording) for recording in recordings]
        total = sum(choices)
        position = turn * _step(total) % total
        for index, number in enumerate(choices):
            if position < number:
                return index, position
            position -= number
        raise AssertionError("a position lies within the sum of all choices")

    def _starts_in(self, recording):
        # A short one is left at its half at the latest: more would be gaps.
        spare = recording.samples - self.length
        return spare + 1 if spare >= 0 else max(1, recording.samples // 2)

    def _join(self, recording, start, others, rng):
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


def _step(total):
    """The number nearest above the golden section that has no divisor in common."""
    step = max(1, round(GOLDEN_RATIO * total))
    while gcd(step, total) > 1:
        step += 1
    return step


def cut_background(source, recording, length, rate, rng):
    """A random stretch of a scene; one that is too short is repeated.

    Arguments
    ---------
    source : SceneSource
    recording : Recording
    length, rate : int
        Samples wanted, and Hz.
    rng : numpy.random.Generator

    Returns
    -------
    Segment
    """
    start = int(rng.integers(max(0, recording.samples - length) + 1))
    size = min(length, recording.samples)
    samples = source.read(recording, start, size, rate)
    return Segment(np.resize(samples, length), recording.path, start, start + size)


def cut_event(source, recording, length, rate, rng):
    """A random stretch of an event; a shorter one is placed at a random time.

    Arguments
    ---------
    source : EventSource
    recording : Recording
    length, rate : int
        Samples wanted, and Hz.
    rng : numpy.random.Generator

    Returns
    -------
    Segment
    """
    spare = recording.samples - length
    start = int(rng.integers(max(0, spare) + 1))
    offset = int(rng.integers(max(0, -spare) + 1))
    size = min(length, recording.samples)
    samples = np.zeros(length)
    samples[offset : offset + size] = source.read(recording, start, size, rate)
    return Segment(samples, recording.path, start, start + size)
