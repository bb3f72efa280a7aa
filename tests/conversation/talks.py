"""Conversations whose tracks are known, and separators that know them, or nothing."""

import numpy as np

from custom_modules.conversation.passages import Passage
from tests.longform.conversations import RATE, Voice

__all__ = ["RATE", "Counting", "Oracle", "Twice", "talk"]


def talk(seed=0, turns=((0, 0.5, 4.0), (1, 3.0, 7.0), (0, 6.0, 9.5)), seconds=10.5, voices=2):
    """Tracks ``[voices, time]`` and who speaks when, of turns (voice, start, end)."""
    rng = np.random.default_rng(seed)
    speakers = [Voice(rng, low=place % 2 == 0) for place in range(voices)]
    tracks = np.zeros((voices, round(seconds * RATE)), "float32")
    for who, start, end in turns:
        first, last = round(start * RATE), round(end * RATE)
        tracks[who, first:last] = 0.3 * speakers[who].say(last - first)
    return tracks, [Passage("abc"[who], s, e) for who, s, e in turns]


class Oracle:
    """Returns the true tracks, in another order and of another level in each stretch."""

    rate = RATE

    def __init__(self, tracks, seed=0, rate=RATE):
        self.tracks, self.sources, self.rate = tracks, len(tracks), rate
        self.rng = np.random.default_rng(seed)
        self.asked = 0.0  # s

    def separate(self, blocks, start):
        length = sum(len(block) for block in blocks)
        self.asked += length / self.rate
        order = self.rng.permutation(self.sources)
        levels = self.rng.uniform(0.6, 1.5, (self.sources, 1))
        levels *= self.rng.choice([-1, 1], (self.sources, 1))
        yield (levels * self.tracks[order, start : start + length]).astype("float32")


class Twice:
    """Returns the mixture, twice."""

    rate, sources = RATE, 2

    def separate(self, blocks, start):
        for block in blocks:
            yield np.stack([block, block])


class Counting:
    """A recogniser that says how long what it was given is."""

    gives_times = False

    def __init__(self):
        self.given = []

    def transcribe(self, waveforms, rate):
        self.given += [(len(waveform) / rate, waveform) for waveform in waveforms]
        return [f"{len(waveform) / rate:.1f} sekund" for waveform in waveforms]
