"""Adding up what a sketch of remixing says: layers, read, at their levels and speeds."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

from custom_modules.audio import LIMIT, fit, from_db, read_layer, resample, rms
from custom_modules.mmipc import CANCELLED_LAYERS
from custom_modules.remixing import ROLES, Sketch

Entry = Mapping[str, Any]


class Part(NamedTuple):
    """A layer of a sum: the file's samples, at a speed, cut or padded, times the gain."""

    layer: str
    path: str
    gain: float
    speed: float


class Example(NamedTuple):
    """A mixture ``[time]``, its speakers ``[time]`` each, and what it is the sum of."""

    mixture: np.ndarray
    s1: np.ndarray
    s2: np.ndarray
    recipe: list[Part]


def layer_paths(entry: Entry) -> dict[str, str]:
    """Layer → path of all that a manifest's entry is the sum of."""
    backgrounds = CANCELLED_LAYERS[entry["environment"]]["C"]
    paths = dict(zip(backgrounds, entry["variants"]["C"], strict=True))
    return {"s1": entry["s1"], "s2": entry["s2"], **paths}


def compose(
    sketch: Sketch,
    entry_of: Callable[[str], Entry],
    kept: Collection[str],
    mixture_id: str,
    segment: tuple[int, int],
) -> Example:
    """Adds up the layers that a variant of a mixture keeps; as long as the stored one.

    ``segment`` is the crop: first sample and number of samples. Levels are those of whole
    layers. What reaches full scale is scaled as a whole.
    """
    layers = _Layers(sketch, entry_of, mixture_id)
    heard = [layer for layer in kept if ROLES[layer] not in sketch.silent]
    gains = layers.gains({ROLES[layer] for layer in heard})
    parts = {x: layers.part(x, *segment) * np.float32(gains[ROLES[x]]) for x in heard}
    mixture = np.zeros(segment[1], np.float32)
    for part in parts.values():
        mixture += part
    nothing = np.zeros(segment[1], np.float32)
    speakers = [parts.get(role, nothing) for role in ("s1", "s2")]
    peak = max(float(np.abs(x).max(initial=0)) for x in (mixture, *speakers))
    scale = np.float32(LIMIT / peak if peak >= LIMIT else 1.0)
    recipe = [
        Part(x, layers.path(x), float(gains[ROLES[x]] * scale), layers.speed(x)) for x in heard
    ]
    return Example(mixture * scale, speakers[0] * scale, speakers[1] * scale, recipe)


def as_played(samples: np.ndarray, speed: float, frames: int) -> np.ndarray:
    """A layer ``[time]`` at a speed, cut or padded at its end, ``[frames]``."""
    if speed != 1:
        samples = resample(samples, round(100 * speed), 100).astype(np.float32)
    return samples if len(samples) == frames else fit(samples, frames)


class _Layers:
    """The layers of a sketch, each read once."""

    def __init__(self, sketch: Sketch, entry_of: Callable[[str], Entry], mixture_id: str) -> None:
        self.sketch = sketch
        names = {mixture_id, *(name for name, _ in sketch.donors.values())}
        entries = {name: entry_of(name) for name in names}
        self._paths = {name: layer_paths(entry) for name, entry in entries.items()}
        self._frames = {n: round(e["duration"] * e["sample_rate"]) for n, e in entries.items()}
        self.frames = self._frames[mixture_id]
        self._whole: dict[str, np.ndarray] = {}

    def path(self, layer: str) -> str:
        donor, name = self.sketch.donors[layer]
        return self._paths[donor][name]

    def speed(self, layer: str) -> float:
        return self.sketch.speeds.get(ROLES[layer], 1.0)

    def whole(self, layer: str) -> np.ndarray:
        """All of a layer, as long as the mixture."""
        if layer not in self._whole:
            samples = read_layer(self.path(layer), start=0, frames=self._frames_of(layer))
            self._whole[layer] = as_played(samples, self.speed(layer), self.frames)
        return self._whole[layer]

    def part(self, layer: str, start: int, frames: int) -> np.ndarray:
        """A crop of a layer; nothing else of it is read where nothing else is needed."""
        stored = self._frames_of(layer)
        if layer in self._whole or self.speed(layer) != 1 or stored < start + frames:
            return self.whole(layer)[start : start + frames]
        return read_layer(self.path(layer), start=start, frames=frames)

    def gains(self, roles: Collection[str]) -> dict[str, float]:
        """Role → gain, of what is heard; speaker 1 and events stay as loud as they are."""
        gains = dict.fromkeys(("s1", "s2", "scene", "event"), 1.0)
        sketch = self.sketch
        if sketch.ssr_db is not None and {"s2", "scene"} & set(roles):
            levels = rms(self.whole("s1")), rms(self.whole("s2"))
            gains["s2"] = _ratio(*levels) / from_db(sketch.ssr_db)
        if sketch.scene_db is not None and "scene" in roles:
            speech = self.whole("s1") + np.float32(gains["s2"]) * self.whole("s2")
            level = _ratio(rms(speech), rms(self.whole("scene")))
            gains["scene"] = level * from_db(sketch.scene_db)
        return gains

    def _frames_of(self, layer: str) -> int:
        return self._frames[self.sketch.donors[layer][0]]


def _ratio(wanted: float, level: float) -> float:
    """The gain from a level to another; 1 where either is silent, and has no level."""
    return wanted / level if wanted > 0 and level > 0 else 1.0
