"""Conversations of two synthetic voices, and a model that knows their sources."""

import numpy as np
import torch
from scipy.signal import lfilter

RATE = 8000


class Voice:
    """Pulses through formants that change from syllable to syllable."""

    def __init__(self, rng, low):
        self.rng = rng
        self.pitch = rng.uniform(90, 140) if low else rng.uniform(180, 250)
        self.tract = rng.uniform(0.85, 0.95) if low else rng.uniform(1.05, 1.2)

    def say(self, samples):
        syllables = []
        while sum(map(len, syllables)) < samples:
            syllables.append(self._syllable(int(self.rng.uniform(0.1, 0.3) * RATE)))
        return np.concatenate(syllables)[:samples]

    def _syllable(self, samples):
        glide = np.linspace(*self.rng.uniform(0.9, 1.1, 2), samples)
        phase = np.cumsum(self.pitch * glide / RATE)
        sound = np.diff(np.floor(phase), prepend=0) + self.rng.normal(0, 0.02, samples)
        for low, high in ((300, 800), (900, 2300), (2400, 3000)):
            centre = self.tract * self.rng.uniform(low, high)
            radius = np.exp(-np.pi * 100 / RATE)
            poles = [1, -2 * radius * np.cos(2 * np.pi * centre / RATE), radius**2]
            sound = lfilter([1 - radius], poles, sound)
        return sound * np.hanning(samples) / (np.abs(sound).max() + 1e-9)


def converse(seed, seconds=60, longest_pause=8.0):
    """Two sources, ``[time, 2]``: turns, double talk, and pauses of both."""
    rng = np.random.default_rng(seed)
    voices = [Voice(rng, low=True), Voice(rng, low=False)]
    rng.shuffle(voices)
    sources = np.zeros((seconds * RATE, 2))
    place = 0
    while place < len(sources):
        length = int(rng.uniform(0.5, 12.0) * RATE)
        end = min(place + length, len(sources))
        kind = rng.choice(["first", "second", "both", "pause"])
        if kind == "pause":
            end = min(place + int(rng.uniform(1, longest_pause) * RATE), len(sources))
        for i, speaks in enumerate((("first", "both"), ("second", "both"))):
            if kind in speaks:
                sources[place:end, i] = 0.3 * voices[i].say(end - place)
        # Both may be silent for as long as the longest pause, and no longer.
        place = end
        if kind == "pause" and place < len(sources):
            end = min(place + RATE, len(sources))
            who = rng.integers(2)
            sources[place:end, who] = 0.3 * voices[who].say(end - place)
            place = end
    return torch.from_numpy(sources).float()


class KnowingModel:
    """Returns the true sources of a chunk, in random order, perhaps of random sign."""

    def __init__(self, sources, seed, signs=(1,)):
        self.sources, self.signs = sources, signs
        self.rng = np.random.default_rng(seed)
        # What is inaudible tells where in the mixture a chunk is from.
        noise = self.rng.normal(0, 1e-6, len(sources))
        self.mixture = (sources.sum(1) + torch.from_numpy(noise)).float()
        keys = self.mixture.unfold(0, 4, 1).numpy()
        self.places = {key.tobytes(): place for place, key in enumerate(keys)}

    def __call__(self, mixtures):
        estimates = []
        for chunk in mixtures:
            start = self.places[chunk[:4].numpy().tobytes()]
            order = self.rng.permutation(self.sources.shape[1]).tolist()
            estimate = self.sources[start : start + len(chunk), order]
            signs = self.rng.choice(self.signs, len(order)).astype("float32")
            estimates.append(estimate * torch.from_numpy(signs))
        return torch.stack(estimates)
