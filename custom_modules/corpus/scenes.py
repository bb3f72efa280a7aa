"""Procedural scenes: every one of PolSESS's scene classes from a few layers.

``data/scenes.csv`` says which layers a class has, and their levels in dB. Each
recording draws its own parameters, so that recordings differ as places do.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from scipy.signal import fftconvolve

from custom_modules.audio import from_db, resample
from custom_modules.corpus import sources, splitting, synth
from custom_modules.corpus.sources import Listing, Recording, Samples, Setup
from custom_modules.mmipc import generator


@dataclass
class ProceduralScenes(sources.Source):
    """Scenes made from nothing."""

    recordings_per_class: int = 10
    seconds: float = 8.0  # of a recording; it is as long as a mixture at least

    def prepare(self, setup: Setup) -> Listing:
        samples = max(round(self.seconds * setup.rate), setup.length)
        recordings = [  # cafe/restaurant has a slash
            Recording(f"procedural/{name.replace('/', '_')}/{n:03d}", name, samples)
            for name in sources.scene_classes()
            for n in range(self.recordings_per_class)
        ]
        return splitting.split_by_class(recordings, setup)

    def read(self, recording: Recording, start: int, length: int, rate: int) -> Samples:
        return render(recording, rate)[start : start + length]


@lru_cache(maxsize=16)
def render(recording: Recording, rate: int) -> np.ndarray:
    """The samples of a recording, their peak 0.5; what they draw depends on its path."""
    layers = SceneLayers(generator("scene", recording.path), recording.samples, rate)
    mixed = np.zeros(recording.samples)
    for layer, level in sources.scene_classes()[recording.group].layers.items():
        gain = from_db(level + layers.uniform(-3, 3))
        mixed += gain * synth.unit(getattr(layers, layer)())
    return mixed * (0.5 / np.abs(mixed).max())


class SceneLayers(synth.Synth):
    """A method for each layer that ``data/scenes.csv`` names."""

    def air(self) -> np.ndarray:
        slope, high = self.uniform(-7, -3), self.uniform(800, 5000)
        return self.noise(slope, self.uniform(30, 120), high)

    def hum(self) -> np.ndarray:
        frequency = np.full(self.length, 50.0 * self.rng.choice([1, 2]))
        strength = self.wander(0.5, 0.6, 1.0)
        return self.tone(frequency, int(self.rng.integers(4, 12))) * strength

    def motor(self) -> np.ndarray:
        top = self.uniform(200, 700)
        pitch = self.wander(0.3, 0.6 * top, top)
        return self.tone(pitch, 6) * self.wander(1.0, 0.4, 1.0)

    def engine(self) -> np.ndarray:
        top = self.uniform(35, 90)
        pitch = self.wander(0.4, 0.8 * top, top)
        rough = 1 + 0.5 * self.noise(-6, 5, 30)
        rumble = self.noise(-6, 30, 300)
        return self.tone(pitch, 20) * rough + 0.5 * rumble

    def road(self) -> np.ndarray:
        base = self.noise(self.uniform(-9, -5), 25, self.uniform(400, 1500))
        return base * self.wander(1.5, 0.6, 1.0)

    def rails(self) -> np.ndarray:
        """Wheels over joints, in pairs, above a roar."""
        grain = self.burst(0.08, 80, self.uniform(600, 1500))
        gap, period = int(0.12 * self.rate), int(self.uniform(0.5, 0.9) * self.rate)
        impulses = np.zeros(self.length)
        impulses[::period] = 1.0
        impulses[gap::period] += 0.7
        clatter = fftconvolve(impulses, grain)[: self.length]
        return synth.unit(clatter) + 0.5 * self.noise(-4, 60, 1500)

    def traffic(self) -> np.ndarray:
        roar = self.noise(-6, 40, 600)
        passing = self.noise(-2, 100, self.uniform(1200, 2500))
        swell = self.swells(self.uniform(0.1, 0.3), self.uniform(0.6, 1.5))
        return 0.5 * roar + passing * swell

    def wind(self) -> np.ndarray:
        gusts = self.wander(self.uniform(0.3, 1.0), 0.1, 1.0)
        return self.noise(-6, 30, self.uniform(200, 700)) * gusts**2

    def leaves(self) -> np.ndarray:
        flutter = self.wander(self.uniform(3, 8), 0.2, 1.0)
        return self.noise(-1, 1000, 6000) * flutter

    def waves(self) -> np.ndarray:
        swell = self.swells(self.uniform(0.15, 0.3), self.uniform(0.7, 1.2))
        return self.noise(-3, 200, 4000) * (0.15 + swell)

    def hall(self) -> np.ndarray:
        murmur = self.noise(-4, 120, self.uniform(700, 1500))
        return murmur * self.wander(2.0, 0.6, 1.0)

    def babble(self) -> np.ndarray:
        """People who talk at once: buzzes with a syllable rhythm, no words."""
        # At a low rate, then resampled: several voices are the dearest layer of all.
        rate = min(self.rate, 8000)
        low = replace(self, length=-(-self.length * rate // self.rate), rate=rate)
        voices = np.sum([low.murmur() for _ in range(6)], axis=0)
        return resample(voices, rate, self.rate)[: self.length]

    def murmur(self) -> np.ndarray:
        pitch = self.rng.choice([110.0, 200.0]) * self.uniform(0.8, 1.3)
        phase = np.cumsum(self.wander(2.0, 0.85 * pitch, 1.15 * pitch)) / self.rate
        buzz = 2 * (phase % 1.0) - 1 + 0.3 * self.rng.standard_normal(self.length)
        syllables = self.wander(self.uniform(5, 9), -0.6, 1.0)
        voiced = buzz * np.maximum(syllables, 0)
        first = self.uniform(300, 800)
        second = first * self.uniform(1.8, 2.8)
        low, high = (synth.resonate(voiced, self.rate, f, 150) for f in (first, second))
        return low + high

    def steps(self) -> np.ndarray:
        grain = self.burst(0.06, 150, self.uniform(800, 2500))
        return self.strokes(self.uniform(2, 5), grain)

    def dishes(self) -> np.ndarray:
        grain = self.lasting(0.15).ring(self.rng.uniform(1200, 3600, 5), 0.15)
        return self.strokes(self.uniform(0.7, 2.5), grain, 18)

    def birds(self) -> np.ndarray:
        short = self.lasting(0.12)
        start, stop = self.rng.uniform(1800, 3400, 2)
        chirp = short.glide(start, stop, 1) * np.hanning(short.length)
        return self.strokes(self.uniform(1, 3), chirp, 15)
