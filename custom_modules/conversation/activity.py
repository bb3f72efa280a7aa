"""Where somebody speaks: detectors behind one interface, one table.

A detector takes a stream of blocks ``[time]`` and returns spans in s. A new one is an entry
of :data:`DETECTORS`.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Protocol

import numpy as np
import torch

from custom_modules.audio import FRAME_SECONDS, resample_blocks
from custom_modules.conversation.packaged import packaged_file
from custom_modules.conversation.passages import Span, merge

#: Shorter speech is a click, shorter pauses are within words, s.
LEAST_SPEECH, LEAST_PAUSE = 0.1, 0.2
#: Speech begins softly: spans are widened by so much on both sides, s.
PADDING = 0.03


#: The network takes 8 kHz, too, and misses up to seven times as much speech in noise then.
_SILERO_RATE = 16000


class Detector(Protocol):
    """Says where somebody speaks."""

    def __call__(self, blocks: Iterable[np.ndarray], rate: int) -> list[Span]: ...


class Silero:
    """silero-vad (Silero Team 2024): a small recurrent network, of many languages and noises.

    Speech begins above ``threshold`` and goes on to ``threshold - 0.15``, as its authors do.
    """

    def __init__(self, threshold: float = 0.5) -> None:
        name = "data/silero_vad.jit"
        path = packaged_file("silero_vad", name, "pip install silero-vad")
        # Not by the package, whose import sets the threads of all of torch to one.
        self.network = torch.jit.load(str(path), map_location="cpu").eval()  # type: ignore[no-untyped-call]
        self.threshold = threshold

    def __call__(self, blocks: Iterable[np.ndarray], rate: int) -> list[Span]:
        rows = (block[None] for block in blocks)
        stream = (block[0] for block in resample_blocks(rows, rate, _SILERO_RATE))
        frame = _SILERO_RATE // 1000 * 32
        scores = self._scores(stream, _SILERO_RATE, frame)
        return _spans(_hysteresis(scores, self.threshold, self.threshold - 0.15), 0.032)

    @torch.no_grad()
    def _scores(self, stream: Iterable[np.ndarray], rate: int, frame: int) -> np.ndarray:
        """The probability of speech in each frame of 32 ms."""
        self.network.reset_states()
        scores: list[float] = []
        held = np.zeros(0, "float32")
        for block in chain(stream, [np.zeros(frame - 1, "float32")]):  # the last is whole, too
            held = np.concatenate([held, block.astype("float32")])
            whole = len(held) // frame * frame
            for samples in torch.from_numpy(held[:whole]).view(-1, 1, frame):
                scores.append(float(self.network(samples, rate)))
            held = held[whole:]
        return np.array(scores)


class EnergyGate:
    """Frames of 20 ms that are loud enough: within 35 dB of the loud ones and above the floor.

    It needs no package, and takes noise that is as loud as speech for speech.
    """

    def __init__(self, range_db: float = 35.0, above_floor_db: float = 8.0) -> None:
        self.range_db, self.above_floor_db = range_db, above_floor_db

    def __call__(self, blocks: Iterable[np.ndarray], rate: int) -> list[Span]:
        size = max(1, round(FRAME_SECONDS * rate))
        levels = np.array([*_levels(blocks, size)])
        heard = levels[np.isfinite(levels)]
        if not len(heard):
            return []
        loud, floor = np.percentile(heard, 95), np.percentile(heard, 5)
        # Speech without pauses has no floor: half-way is the most that one may ask for.
        least = max(loud - self.range_db, min(floor + self.above_floor_db, (loud + floor) / 2))
        return _spans(levels > least, size / rate)


def _levels(blocks: Iterable[np.ndarray], size: int) -> Iterator[float]:
    """The level of each frame in dB, minus infinity for silence."""
    held = np.zeros(0, "float32")
    for block in blocks:
        held = np.concatenate([held, block])
        frames = held[: len(held) // size * size].reshape(-1, size).astype("float64")
        with np.errstate(divide="ignore"):
            yield from 10 * np.log10(np.square(frames).mean(1))
        held = held[len(frames) * size :]
    if len(held):
        with np.errstate(divide="ignore"):
            yield float(10 * np.log10(np.square(held.astype("float64")).mean()))


def _hysteresis(scores: np.ndarray, begin: float, go_on: float) -> np.ndarray:
    """Frames from where scores rise above one value to where they fall below another.

    >>> _hysteresis(np.array([0.4, 0.6, 0.4, 0.2, 0.4]), 0.5, 0.3)
    array([False,  True,  True, False, False])
    """
    active, speaking = np.zeros(len(scores), bool), False
    for i, score in enumerate(scores):
        speaking = bool(score > begin or (speaking and score > go_on))
        active[i] = speaking
    return active


def runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """First frame of each run of true ones, and the one behind its last.

    >>> runs(np.array([True, False, True, True]))
    [(0, 1), (2, 4)]
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(int)))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def _spans(active: np.ndarray, hop: float) -> list[Span]:
    """Spans of frames that are active, without clicks and short pauses."""
    joined = merge(((a * hop, b * hop) for a, b in runs(active)), LEAST_PAUSE)
    kept = [(a, b) for a, b in joined if b - a >= LEAST_SPEECH - 1e-9]
    last = len(active) * hop
    return merge((max(0.0, a - PADDING), min(last, b + PADDING)) for a, b in kept)


#: What ``--activity`` may be.
DETECTORS: dict[str, Callable[[], Detector]] = {"silero": Silero, "energy": EnergyGate}
