"""Procedural events: sixteen families of sounds behind PolSESS's event classes.

``data/events.csv`` says which family stands for a class. A recording draws its
own pitch, length and rhythm, so that recordings of a class differ.
"""

from dataclasses import dataclass

import numpy as np

from custom_modules.corpus import sources, splitting, synth
from custom_modules.corpus.sources import Listing, Recording, Samples, Setup
from custom_modules.mmipc import generator


@dataclass
class ProceduralEvents(sources.Source):
    """Events made from nothing."""

    recordings_per_class: int = 6
    #: Between which a recording's peak lies, full scale being 1. Events keep their
    #: level in a mixture, so this is how loud they are in it.
    quietest: float = 0.05
    loudest: float = 0.35

    def prepare(self, setup: Setup) -> Listing:
        recordings = []
        for name in sources.event_families():
            for number in range(self.recordings_per_class):
                path = f"procedural/{name}/{number:03d}"
                seconds = generator("event length", path).uniform(0.8, 3.2)
                recordings.append(Recording(path, name, round(seconds * setup.rate)))
        return splitting.split_by_class(recordings, setup)

    def read(self, recording: Recording, start: int, length: int, rate: int) -> Samples:
        families = EventFamilies(generator("event", recording.path), recording.samples, rate)
        family = sources.event_families()[recording.group]
        sound = synth.fade_edges(getattr(families, family)(), rate)
        peak = np.abs(sound).max()
        level = np.exp(families.uniform(np.log(self.quietest), np.log(self.loudest)))
        sound = sound * (level / peak if peak > 0 else 0.0)
        return sound[start : start + length]


class EventFamilies(synth.Synth):
    """A method for each family that ``data/events.csv`` names."""

    def bell(self) -> np.ndarray:
        partials = self.uniform(350, 1200) * np.array([1.0, 2.0, 2.4, 3.0, 4.5])
        partials = partials * self.rng.uniform(0.98, 1.02, 5)
        grain = self.ring(partials, self.uniform(0.5, 2.5))
        return self.repeated(grain, self.uniform(0.3, 0.9))

    def chirp(self) -> np.ndarray:
        short = self.lasting(self.uniform(0.06, 0.25))
        start, stop = self.rng.uniform(1200, 3400, 2)
        sweep = short.glide(start, stop, 2) * np.hanning(short.length)
        return self.repeated(sweep, self.uniform(0.15, 0.4))

    def bark(self) -> np.ndarray:
        short = self.lasting(self.uniform(0.15, 0.3))
        pitch = self.uniform(200, 550) * np.linspace(1.2, 0.7, short.length)
        breath = short.noise(-3, 300, 2500)
        call = (short.tone(pitch, 10) + 0.6 * breath) * np.hanning(short.length) ** 0.5
        return self.repeated(call, self.uniform(0.35, 0.7))

    def cry(self) -> np.ndarray:
        pitch = self.wander(3.0, 0.75, 1.15) * self.uniform(180, 600)
        return self.tone(pitch, 12) * self.arch() ** 0.5

    def insect(self) -> np.ndarray:
        carrier = np.full(self.length, self.uniform(1500, 3400))
        pulses = self.sine(self.uniform(12, 40))
        return self.tone(carrier, 1) * np.maximum(pulses, 0)

    def click(self) -> np.ndarray:
        grain = self.burst(0.02, 800, 6000)
        return self.repeated(grain, self.uniform(0.1, 0.6), jitter=0.4)

    def knock(self) -> np.ndarray:
        body = self.burst(0.15, 60, self.uniform(300, 900))
        return self.repeated(body, self.uniform(0.25, 0.6), jitter=0.1)

    def drum(self) -> np.ndarray:
        short = self.lasting(self.uniform(0.3, 0.8))
        drop = np.exp(-np.arange(short.length) / (0.03 * self.rate))
        skin = short.tone(self.uniform(60, 180) * (1 + drop), 2)
        stroke = (skin + 0.5 * short.noise(-3, 100, 3000)) * short.dying()
        return self.repeated(stroke, self.uniform(0.4, 1.0))

    def shimmer(self) -> np.ndarray:
        pitches = self.rng.uniform(900, 3800, 24)
        metal = self.ring(pitches, self.uniform(0.3, 1.2))
        hiss = self.burst(min(0.6, self.length / self.rate), 1500, 9000)
        metal[: len(hiss)] += 3 * hiss[: self.length]
        return self.repeated(metal, self.uniform(0.3, 1.0))

    def pluck(self) -> np.ndarray:
        base = 82.4 * 2 ** (self.rng.integers(0, 30) / 12)
        string = self.ring(base * np.arange(1, 12), self.uniform(1, 3))
        return self.repeated(string, self.uniform(0.25, 0.8))

    def blown(self) -> np.ndarray:
        base = 130.8 * 2 ** (self.rng.integers(0, 24) / 12)
        pitch = base * self.wander(5.0, 0.99, 1.01)
        sound = self.tone(pitch, 12, odd_only=bool(self.rng.integers(2)))
        return sound * self.arch() ** 0.25

    def siren(self) -> np.ndarray:
        low = self.uniform(400, 900)
        swing = self.sine(self.uniform(0.4, 3.0))
        bent = np.sign(swing) * np.abs(swing) ** self.uniform(0.1, 1)
        return self.tone(low * (1.25 + 0.25 * bent), 5)

    def rattle(self) -> np.ndarray:
        grain = self.burst(self.uniform(0.01, 0.05), 500, 5000)
        return self.strokes(self.uniform(15, 80), grain)

    def whoosh(self) -> np.ndarray:
        swell = self.arch() ** self.uniform(1, 4)
        return self.noise(-3, self.uniform(80, 400), 3000) * swell

    def motor(self) -> np.ndarray:
        pitch = self.uniform(40, 220) * self.wander(1.0, 0.85, 1.1)
        hiss = self.noise(-3, 100, self.uniform(1000, 4000))
        return self.tone(pitch, 15) + self.uniform(0.3, 1.0) * hiss

    def water(self) -> np.ndarray:
        short = self.lasting(0.05)
        bubble = short.glide(500, self.uniform(900, 1800), 1) * short.dying()
        drops = self.strokes(self.uniform(10, 50), bubble)
        return synth.unit(drops) + 0.3 * self.noise(-2, 400, 3500)
