"""Procedural scenes: every one of PolSESS's scene classes from a few layers.

A class is a recipe: layers with a level in dB. Each recording of a class draws
its own parameters, so that recordings differ from each other as places do.
"""

from functools import lru_cache

import numpy as np

from custom_modules.audio import from_db, resample
from custom_modules.corpus import sources as tables
from custom_modules.corpus import splitting, synth
from custom_modules.corpus.sources import Recording, SceneSource
from custom_modules.mmipc import generator

#: Scene class → layers (name, level in dB).
RECIPES = {
    "airport": (("hall", 0), ("babble", -3), ("steps", -14), ("air", -8)),
    "beach": (("waves", 0), ("wind", -10), ("air", -18)),
    "bus": (("engine", 0), ("road", -2), ("babble", -14)),
    "train": (("road", 0), ("rails", -6), ("engine", -12)),
    "tram": (("rails", -2), ("motor", -6), ("road", 0)),
    "car": (("road", 0), ("engine", -4), ("wind", -8)),
    "metro": (("rails", -3), ("motor", -3), ("road", 0)),
    "metro_station": (("hall", 0), ("babble", -5), ("steps", -8), ("motor", -14)),
    "cafe/restaurant": (("babble", 0), ("dishes", -14), ("hall", -12)),
    "city_center": (("traffic", 0), ("babble", -8), ("steps", -14)),
    "forest_path": (("leaves", 0), ("wind", -4), ("birds", -8)),
    "grocery_store": (("air", 0), ("babble", -4), ("dishes", -18), ("hum", -10)),
    "h": (("babble", 0), ("dishes", -12), ("air", -14)),
    "m": (("air", 0), ("babble", -3), ("dishes", -18)),
    "l": (("air", 0), ("hum", -6)),
    "home": (("air", 0), ("hum", -4), ("dishes", -18)),
    "library": (("air", 0), ("hum", -10), ("steps", -14)),
    "office": (("air", 0), ("hum", -6), ("babble", -12), ("steps", -18)),
    "park": (("leaves", 0), ("birds", -4), ("traffic", -10)),
    "public_square": (("traffic", 0), ("babble", -3), ("steps", -10)),
    "residential_area": (("traffic", 0), ("birds", -8), ("wind", -6)),
    "shopping_mall": (("hall", 0), ("babble", -2), ("steps", -10), ("hum", -14)),
    "street_pedestrian": (("babble", 0), ("steps", -6), ("traffic", -6)),
    "street_traffic": (("traffic", 0), ("road", -8), ("engine", -8)),
}


class ProceduralScenes(SceneSource):
    """Scenes made from nothing.

    Arguments
    ---------
    recordings_per_class : int
        How many different recordings of each class there are, at least one for
        each subset.
    seconds : float
        A recording's length in s.
    """

    def __init__(self, recordings_per_class=10, seconds=8.0):
        self.recordings_per_class = recordings_per_class
        self.seconds = seconds

    def prepare(self, setup):
        """See :meth:`custom_modules.corpus.sources.Source.prepare`."""
        samples = max(round(self.seconds * setup.rate), setup.length)
        recordings = [
            Recording(f"procedural/{folder_name(name)}/{number:03d}", name, samples)
            for name in RECIPES
            for number in range(self.recordings_per_class)
        ]
        return splitting.split_by_class(recordings, setup.subsets, setup.seed)

    def read(self, recording, start, length, rate):
        """See :meth:`custom_modules.corpus.sources.Source.read`."""
        whole = render(recording.path, recording.group, recording.samples, rate)
        return whole[start : start + length]


def folder_name(scene_class):
    """A scene class as a folder's name: ``cafe/restaurant`` has a slash.

    Example
    -------
    >>> folder_name("cafe/restaurant")
    'cafe_restaurant'
    """
    return scene_class.replace("/", "_")


@lru_cache(maxsize=16)
def render(name, scene_class, length, rate):
    """The samples of a recording.

    Arguments
    ---------
    name : str
        What its random parameters depend on.
    scene_class : str
        A key of :data:`RECIPES`.
    length, rate : int
        Samples, and Hz.

    Returns
    -------
    numpy.ndarray
        ``[length]``, RMS 1.
    """
    rng = generator("scene", name)
    mixed = np.zeros(length)
    for layer, level in RECIPES[scene_class]:
        level = level + rng.uniform(-3, 3)
        mixed += from_db(level) * synth.unit(LAYERS[layer](rng, length, rate))
    return synth.unit(mixed)


def _air(rng, length, rate):
    """Ventilation: steady, dull noise."""
    slope, high = rng.uniform(-7, -3), rng.uniform(800, 5000)
    return synth.noise(rng, length, rate, slope, rng.uniform(30, 120), high)


def _hum(rng, length, rate):
    """Mains and fridges: 50 Hz and its multiples, slowly beating."""
    frequency = np.full(length, 50.0 * rng.choice([1, 2]))
    strength = synth.wander(rng, length, rate, 0.5, 0.6, 1.0)
    return synth.tone(frequency, rate, int(rng.integers(4, 12))) * strength


def _motor(rng, length, rate):
    """An electric motor: a whine that goes up and down."""
    top = rng.uniform(200, 700)
    pitch = synth.wander(rng, length, rate, 0.3, 0.6 * top, top)
    return synth.tone(pitch, rate, 6) * synth.wander(rng, length, rate, 1.0, 0.4, 1.0)


def _engine(rng, length, rate):
    """A combustion engine: many partials of a low pitch, roughened."""
    top = rng.uniform(35, 90)
    pitch = synth.wander(rng, length, rate, 0.4, 0.8 * top, top)
    rough = 1 + 0.5 * synth.noise(rng, length, rate, -6, 5, 30)
    rumble = synth.noise(rng, length, rate, -6, 30, 300)
    return synth.tone(pitch, rate, 20) * rough + 0.5 * rumble


def _road(rng, length, rate):
    """Tyres and body: low noise that swells a little."""
    base = synth.noise(
        rng, length, rate, rng.uniform(-9, -5), 25, rng.uniform(400, 1500)
    )
    return base * synth.wander(rng, length, rate, 1.5, 0.6, 1.0)


def _rails(rng, length, rate):
    """Wheels over joints, in pairs, above a roar."""
    grain = synth.burst(rng, rate, 0.08, 80, rng.uniform(600, 1500))
    gap, period = int(0.12 * rate), int(rng.uniform(0.5, 0.9) * rate)
    impulses = np.zeros(length)
    impulses[:: max(period, 1)] = 1.0
    impulses[gap :: max(period, 1)] += 0.7
    clatter = np.convolve(impulses, [1.0])[:length]
    clatter = synth.fftconvolve(clatter, grain)[:length]
    return synth.unit(clatter) + 0.5 * synth.noise(rng, length, rate, -4, 60, 1500)


def _traffic(rng, length, rate):
    """Cars that pass over a distant roar."""
    roar = synth.noise(rng, length, rate, -6, 40, 600)
    passing = synth.noise(rng, length, rate, -2, 100, rng.uniform(1200, 2500))
    swell = synth.swells(
        rng, length, rate, rng.uniform(0.1, 0.3), rng.uniform(0.6, 1.5)
    )
    return 0.5 * roar + passing * swell


def _wind(rng, length, rate):
    """Gusts of low noise."""
    gusts = synth.wander(rng, length, rate, rng.uniform(0.3, 1.0), 0.1, 1.0)
    return synth.noise(rng, length, rate, -6, 30, rng.uniform(200, 700)) * gusts**2


def _leaves(rng, length, rate):
    """Rustling: bright noise that flutters."""
    flutter = synth.wander(rng, length, rate, rng.uniform(3, 8), 0.2, 1.0)
    return synth.noise(rng, length, rate, -1, 1000, 6000) * flutter


def _waves(rng, length, rate):
    """Breakers every few seconds."""
    swell = synth.swells(
        rng, length, rate, rng.uniform(0.15, 0.3), rng.uniform(0.7, 1.2)
    )
    foam = synth.noise(rng, length, rate, -3, 200, 4000)
    return foam * (0.15 + swell)


def _hall(rng, length, rate):
    """The murmur of a large room: band-limited, slowly moving noise."""
    murmur = synth.noise(rng, length, rate, -4, 120, rng.uniform(700, 1500))
    return murmur * synth.wander(rng, length, rate, 2.0, 0.6, 1.0)


def _babble(rng, length, rate):
    """People who talk at once: buzzes with a syllable rhythm, no words."""
    # At a low rate, then resampled: several voices are the dearest layer of all.
    low_rate = min(rate, 8000)
    size = -(-length * low_rate // rate)
    voices = sum(_murmur(rng, size, low_rate) for _ in range(6))
    return resample(voices, low_rate, rate)[:length]


def _murmur(rng, length, rate):
    pitch = rng.choice([110.0, 200.0]) * rng.uniform(0.8, 1.3)
    glide = synth.wander(rng, length, rate, 2.0, 0.85 * pitch, 1.15 * pitch)
    phase = np.cumsum(glide) / rate
    buzz = 2 * (phase % 1.0) - 1 + 0.3 * rng.standard_normal(length)
    syllables = synth.wander(rng, length, rate, rng.uniform(5, 9), -0.6, 1.0)
    voiced = buzz * np.maximum(syllables, 0)
    first = rng.uniform(300, 800)
    second = first * rng.uniform(1.8, 2.8)
    return sum(synth.resonate(voiced, rate, f, 150.0) for f in (first, second))


def _steps(rng, length, rate):
    """Footsteps of several people."""
    grain = synth.burst(rng, rate, 0.06, 150, rng.uniform(800, 2500))
    return synth.strokes(rng, length, rate, rng.uniform(2, 5), grain)


def _dishes(rng, length, rate):
    """Plates and cutlery."""
    pitches = rng.uniform(1200, 3600, 5)
    grain = synth.ring(rng, int(0.15 * rate), rate, pitches, 0.15)
    return synth.strokes(rng, length, rate, rng.uniform(0.7, 2.5), grain, 18)


def _birds(rng, length, rate):
    """Short chirps, rising or falling."""
    size = int(0.12 * rate)
    start, stop = rng.uniform(1800, 3400, 2)
    chirp = synth.tone(np.linspace(start, stop, size), rate, 1) * np.hanning(size)
    return synth.strokes(rng, length, rate, rng.uniform(1, 3), chirp, 15)


LAYERS = {
    "air": _air,
    "babble": _babble,
    "birds": _birds,
    "dishes": _dishes,
    "engine": _engine,
    "hall": _hall,
    "hum": _hum,
    "leaves": _leaves,
    "motor": _motor,
    "rails": _rails,
    "road": _road,
    "steps": _steps,
    "traffic": _traffic,
    "waves": _waves,
    "wind": _wind,
}

assert set(RECIPES) == set(tables.scene_classes())
