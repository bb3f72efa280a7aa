"""Procedural events: sixteen families of sounds behind PolSESS's event classes.

``data/events.csv`` says which family stands for a class. A recording draws its
own pitch, length and rhythm, so that recordings of a class differ.
"""

import numpy as np

from custom_modules.corpus import sources as tables
from custom_modules.corpus import splitting, synth
from custom_modules.corpus.sources import EventSource, Recording
from custom_modules.mmipc import generator


class ProceduralEvents(EventSource):
    """Events made from nothing.

    Arguments
    ---------
    recordings_per_class : int
        How many different recordings of each class there are.
    quietest, loudest : float
        Between which a recording's peak lies, full scale being 1. Events keep
        their level in a mixture, so this is how loud they are in it.
    """

    def __init__(self, recordings_per_class=6, quietest=0.05, loudest=0.35):
        self.recordings_per_class = recordings_per_class
        self.quietest = quietest
        self.loudest = loudest

    def prepare(self, setup):
        """See :meth:`custom_modules.corpus.sources.Source.prepare`."""
        recordings = [
            self._recording(name, number, setup.rate)
            for name in tables.event_families()
            for number in range(self.recordings_per_class)
        ]
        return splitting.split_by_class(recordings, setup.subsets, setup.seed)

    def read(self, recording, start, length, rate):
        """See :meth:`custom_modules.corpus.sources.Source.read`."""
        family = FAMILIES[tables.event_families()[recording.group]]
        rng = generator("event", recording.path)
        sound = synth.fade_edges(family(rng, recording.samples, rate), rate)
        peak = np.abs(sound).max()
        level = np.exp(rng.uniform(np.log(self.quietest), np.log(self.loudest)))
        sound = sound * (level / peak if peak > 0 else 0.0)
        return sound[start : start + length]

    def _recording(self, name, number, rate):
        path = f"procedural/{name}/{number:03d}"
        seconds = generator("event length", path).uniform(0.8, 3.2)
        return Recording(path, name, round(seconds * rate))


def _bell(rng, length, rate):
    base = rng.uniform(350, 1200)
    partials = base * np.array([1.0, 2.0, 2.4, 3.0, 4.5]) * rng.uniform(0.98, 1.02, 5)
    grain = synth.ring(rng, length, rate, partials, rng.uniform(0.5, 2.5))
    return _repeated(grain, rng, length, rate, rng.uniform(0.3, 0.9))


def _chirp(rng, length, rate):
    size = int(rng.uniform(0.06, 0.25) * rate)
    start, stop = rng.uniform(1200, 3400, 2)
    sweep = synth.tone(np.linspace(start, stop, size), rate, 2) * np.hanning(size)
    return _repeated(sweep, rng, length, rate, rng.uniform(0.15, 0.4))


def _bark(rng, length, rate):
    size = int(rng.uniform(0.15, 0.3) * rate)
    pitch = rng.uniform(200, 550) * np.linspace(1.2, 0.7, size)
    breath = synth.noise(rng, size, rate, -3, 300, 2500)
    call = (synth.tone(pitch, rate, 10) + 0.6 * breath) * np.hanning(size) ** 0.5
    return _repeated(call, rng, length, rate, rng.uniform(0.35, 0.7))


def _cry(rng, length, rate):
    pitch = synth.wander(rng, length, rate, 3.0, 0.75, 1.15) * rng.uniform(180, 600)
    swell = np.sin(np.pi * np.linspace(0, 1, length)) ** 0.5
    return synth.tone(pitch, rate, 12) * swell


def _insect(rng, length, rate):
    carrier = np.full(length, rng.uniform(1500, 3400))
    pulses = np.sin(2 * np.pi * rng.uniform(12, 40) * np.arange(length) / rate)
    return synth.tone(carrier, rate, 1) * np.maximum(pulses, 0)


def _click(rng, length, rate):
    grain = synth.burst(rng, rate, 0.02, 800, 6000)
    return _repeated(grain, rng, length, rate, rng.uniform(0.1, 0.6), jitter=0.4)


def _knock(rng, length, rate):
    body = synth.burst(rng, rate, 0.15, 60, rng.uniform(300, 900))
    return _repeated(body, rng, length, rate, rng.uniform(0.25, 0.6), jitter=0.1)


def _drum(rng, length, rate):
    size = int(rng.uniform(0.3, 0.8) * rate)
    fade = np.exp(-6.9 * np.arange(size) / size)
    pitch = rng.uniform(60, 180) * (1 + np.exp(-np.arange(size) / (0.03 * rate)))
    skin = synth.tone(pitch, rate, 2)
    stroke = (skin + 0.5 * synth.noise(rng, size, rate, -3, 100, 3000)) * fade
    return _repeated(stroke, rng, length, rate, rng.uniform(0.4, 1.0))


def _shimmer(rng, length, rate):
    pitches = rng.uniform(900, 3800, 24)
    metal = synth.ring(rng, length, rate, pitches, rng.uniform(0.3, 1.2))
    hiss = synth.burst(rng, rate, min(0.6, length / rate), 1500, 9000)
    metal[: len(hiss)] += 3 * hiss[:length]
    return _repeated(metal, rng, length, rate, rng.uniform(0.3, 1.0))


def _pluck(rng, length, rate):
    base = 82.4 * 2 ** (rng.integers(0, 30) / 12)
    string = synth.ring(rng, length, rate, base * np.arange(1, 12), rng.uniform(1, 3))
    return _repeated(string, rng, length, rate, rng.uniform(0.25, 0.8))


def _blown(rng, length, rate):
    base = 130.8 * 2 ** (rng.integers(0, 24) / 12)
    pitch = base * synth.wander(rng, length, rate, 5.0, 0.99, 1.01)
    sound = synth.tone(pitch, rate, 12, odd_only=bool(rng.integers(2)))
    return sound * np.sin(np.pi * np.linspace(0, 1, length)) ** 0.25


def _siren(rng, length, rate):
    low = rng.uniform(400, 900)
    swing = np.sin(2 * np.pi * rng.uniform(0.4, 3.0) * np.arange(length) / rate)
    pitch = low * (1.25 + 0.25 * np.sign(swing) * np.abs(swing) ** rng.uniform(0.1, 1))
    return synth.tone(pitch, rate, 5)


def _rattle(rng, length, rate):
    grain = synth.burst(rng, rate, rng.uniform(0.01, 0.05), 500, 5000)
    return synth.strokes(rng, length, rate, rng.uniform(15, 80), grain)


def _whoosh(rng, length, rate):
    swell = np.sin(np.pi * np.linspace(0, 1, length)) ** rng.uniform(1, 4)
    return synth.noise(rng, length, rate, -3, rng.uniform(80, 400), 3000) * swell


def _motor(rng, length, rate):
    pitch = rng.uniform(40, 220) * synth.wander(rng, length, rate, 1.0, 0.85, 1.1)
    hiss = synth.noise(rng, length, rate, -3, 100, rng.uniform(1000, 4000))
    return synth.tone(pitch, rate, 15) + rng.uniform(0.3, 1.0) * hiss


def _water(rng, length, rate):
    size = int(0.05 * rate)
    bubble = synth.tone(np.linspace(500, rng.uniform(900, 1800), size), rate, 1)
    bubble *= np.exp(-6.9 * np.arange(size) / size)
    drops = synth.strokes(rng, length, rate, rng.uniform(10, 50), bubble)
    return synth.unit(drops) + 0.3 * synth.noise(rng, length, rate, -2, 400, 3500)


def _repeated(grain, rng, length, rate, period, jitter=0.0):
    """A few repetitions at about equal distances, the first at once."""
    result = np.zeros(length)
    position = 0
    while position < length:
        piece = grain[: length - position]
        result[position : position + len(piece)] += rng.uniform(0.6, 1.0) * piece
        position += max(1, int(period * rate * (1 + jitter * rng.uniform(-1, 1))))
    return result


FAMILIES = {
    "bark": _bark,
    "bell": _bell,
    "blown": _blown,
    "chirp": _chirp,
    "click": _click,
    "cry": _cry,
    "drum": _drum,
    "insect": _insect,
    "knock": _knock,
    "motor": _motor,
    "pluck": _pluck,
    "rattle": _rattle,
    "shimmer": _shimmer,
    "siren": _siren,
    "water": _water,
    "whoosh": _whoosh,
}
