"""Building blocks of procedural sound: noise, envelopes, tones and grains.

All are ``[time]``; frequencies are in Hz. Levels are settled by whoever combines them.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.random import Generator
from scipy.fft import irfft, next_fast_len, rfft
from scipy.signal import fftconvolve, lfilter

from custom_modules.audio import rms

CURVE_RATE = 100  # Hz, at which slow curves are computed, then interpolated
SPECTRUM_CORNER = 20.0  # Hz: below it no block puts energy
DECAY_60_DB = 6.9  # nepers


@dataclass(frozen=True)
class Synth:
    """Makes sounds of ``length`` samples at ``rate`` Hz from one generator's draws."""

    rng: Generator
    length: int
    rate: int

    def lasting(self, seconds: float) -> Self:
        """The same for sounds of another length."""
        return replace(self, length=int(seconds * self.rate))

    def uniform(self, low: float, high: float) -> float:
        return self.rng.uniform(low, high)

    def noise(
        self, slope: float = 0.0, low: float = SPECTRUM_CORNER, high: float = 20000.0
    ) -> np.ndarray:
        """Gaussian noise of RMS 1 with a sloping spectrum between two edges.

        The slope is in dB per octave: 0 white, -3 pink, -6 brown; edges have 12 dB.
        """
        size = next_fast_len(self.length, real=True)
        spectrum = rfft(self.rng.standard_normal(size))
        frequency = np.fft.rfftfreq(size, 1 / self.rate)
        frequency = np.maximum(frequency, SPECTRUM_CORNER)
        gain = (frequency / 1000.0) ** (slope / 6.0206)
        gain /= (1 + (low / frequency) ** 2) * (1 + (frequency / high) ** 2)
        gain[0] = 0.0
        return unit(irfft(spectrum * gain, size)[: self.length])

    def wander(self, speed: float, low: float, high: float) -> np.ndarray:
        """A drift between two values, with ``speed`` new targets per second."""
        knots = self.rng.uniform(low, high, int(self.length / self.rate * speed) + 3)
        coarse = self._coarse_times() * speed
        index = coarse.astype(int)
        blend = 0.5 - 0.5 * np.cos(np.pi * (coarse - index))
        following = knots[np.minimum(index + 1, len(knots) - 1)]
        return self._refined(knots[index] * (1 - blend) + following * blend)

    def swells(self, per_second: float, width: float) -> np.ndarray:
        """An envelope of bumps, of a standard deviation in s, at random times."""
        seconds = self.length / self.rate
        margin = 2 * width
        number = max(1, self.rng.poisson(per_second * (seconds + 2 * margin)))
        centres = self.rng.uniform(-margin, seconds + margin, number)
        heights = self.rng.uniform(0.4, 1.0, number)
        distance = (self._coarse_times()[:, None] - centres) / width
        return self._refined((np.exp(-0.5 * distance**2) * heights).sum(axis=1))

    def _coarse_times(self) -> np.ndarray:
        return np.arange(0, self.length / self.rate + 1 / CURVE_RATE, 1 / CURVE_RATE)

    def _refined(self, curve: np.ndarray) -> np.ndarray:
        wanted = np.arange(self.length) * (CURVE_RATE / self.rate)
        return np.interp(wanted, np.arange(len(curve)), curve)

    def arch(self) -> np.ndarray:
        """An envelope that rises from 0 to 1 and falls again, as half a sine does."""
        return np.sin(np.pi * np.linspace(0, 1, self.length))

    def sine(self, frequency: float) -> np.ndarray:
        return np.sin(2 * np.pi * frequency * np.arange(self.length) / self.rate)

    def dying(self) -> np.ndarray:
        """An envelope that loses 60 dB over its length."""
        return np.exp(-DECAY_60_DB * np.arange(self.length) / self.length)

    def tone(self, frequency: np.ndarray, partials: int, odd_only: bool = False) -> np.ndarray:
        """A harmonic tone whose fundamental follows a curve, ``[time]``.

        Partials fall with 6 dB per octave; those above 0.45 of the rate are left out.
        """
        phase = 2 * np.pi * np.cumsum(frequency) / self.rate
        result = np.zeros(len(frequency))
        for number in range(1, partials + 1, 2 if odd_only else 1):
            if number * frequency.max() < 0.45 * self.rate:
                result += np.sin(number * phase) / number
        return result

    def glide(self, start: float, stop: float, partials: int) -> np.ndarray:
        """A tone from one pitch to another."""
        return self.tone(np.linspace(start, stop, self.length), partials)

    def ring(self, frequencies: Collection[float], seconds: float) -> np.ndarray:
        """Partials that ring and die away, the lowest by 60 dB in ``seconds``.

        The higher the faster; those above 0.45 of the rate are left out.
        """
        time = np.arange(self.length) / self.rate
        result = np.zeros(self.length)
        for frequency in frequencies:
            if frequency < 0.45 * self.rate:
                faster = (frequency / min(frequencies)) ** 0.5
                fade = np.exp(-DECAY_60_DB * time / seconds * faster)
                phase = self.uniform(0, 2 * np.pi)
                result += fade * np.sin(2 * np.pi * frequency * time + phase)
        return result

    def burst(self, seconds: float, low: float, high: float) -> np.ndarray:
        """Noise that dies away: the grain of knocks, clicks and drops."""
        short = replace(self, length=max(8, round(seconds * self.rate)))
        return short.noise(0.0, low, high) * short.dying()

    def strokes(self, per_second: float, grain: np.ndarray, spread_db: float = 12.0) -> np.ndarray:
        """A grain repeated at random times and levels: rain, steps, crackle."""
        number = max(1, self.rng.poisson(per_second * self.length / self.rate))
        impulses = np.zeros(self.length)
        times = self.rng.integers(0, self.length, number)
        levels = 10 ** (-self.rng.uniform(0, spread_db, number) / 20)
        np.add.at(impulses, times, levels * self.rng.choice([-1, 1], number))
        return fftconvolve(impulses, grain)[: self.length]

    def repeated(self, grain: np.ndarray, period: float, jitter: float = 0.0) -> np.ndarray:
        """Repetitions of a grain about every ``period`` s, the first at once."""
        result = np.zeros(self.length)
        position = 0
        while position < self.length:
            piece = grain[: self.length - position]
            result[position : position + len(piece)] += self.uniform(0.6, 1.0) * piece
            late = 1 + jitter * self.uniform(-1, 1)
            position += max(1, int(period * self.rate * late))
        return result


def unit(samples: np.ndarray) -> np.ndarray:
    """Scales to RMS 1; silence stays silence."""
    level = rms(samples)
    return samples / level if level > 0 else samples


def resonate(samples: np.ndarray, rate: int, frequency: float, width: float) -> np.ndarray:
    """A resonance of two poles: one formant of a bandwidth."""
    radius = np.exp(-np.pi * width / rate)
    poles = [1.0, -2 * radius * np.cos(2 * np.pi * frequency / rate), radius**2]
    return lfilter([1.0 - radius], poles, samples)


def fade_edges(samples: np.ndarray, rate: int, seconds: float = 0.005) -> np.ndarray:
    """Takes the clicks off the start and the end.

    >>> fade_edges(np.ones(5), rate=1, seconds=2)
    array([0. , 0.5, 1. , 0.5, 0. ])
    """
    distance = np.minimum(np.arange(len(samples)), np.arange(len(samples))[::-1])
    return samples * np.minimum(distance / max(1.0, seconds * rate), 1.0)
