"""Signals in files: what is as long as a recording is never in memory as a whole."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

_BYTES = 4
#: Samples that are read at once.
BLOCK = 2**19


class Samples:
    """A mono signal of float32 in a file of its own, which begins as silence.

    What was never written takes no room on a disk.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     signal = Samples(Path(folder, "a.f32"), rate=8000, length=4)
    ...     signal.write(1, np.ones(2))
    ...     signal.read(0, 9)
    array([0., 1., 1., 0.], dtype=float32)
    """

    def __init__(self, path: Path, rate: int, length: int) -> None:
        self.path, self.rate, self.length = path, rate, length
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab"):  # made, or as it was
            pass
        with open(path, "r+b") as file:
            file.truncate(length * _BYTES)

    @classmethod
    def filled(cls, path: Path, rate: int, blocks: Iterable[np.ndarray]) -> "Samples":
        """Of a stream of ``[time]``."""
        path.parent.mkdir(parents=True, exist_ok=True)
        length = 0
        with open(path, "wb") as file:
            for block in blocks:
                file.write(np.ascontiguousarray(block, "<f4").tobytes())
                length += len(block)
        return cls(path, rate, length)

    @property
    def seconds(self) -> float:
        """Its length, s."""
        return self.length / self.rate

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Samples ``[time]``, as many of them as there are."""
        start, stop = max(start, 0), min(self.length if stop is None else stop, self.length)
        with open(self.path, "rb") as file:
            file.seek(start * _BYTES)
            data = file.read(max(stop - start, 0) * _BYTES)
        return np.frombuffer(data, "<f4").copy()

    def write(self, start: int, samples: np.ndarray) -> None:
        """Replaces what is there; what would be behind the end is left out."""
        samples = samples[: max(self.length - start, 0)]
        with open(self.path, "r+b") as file:
            file.seek(start * _BYTES)
            file.write(np.ascontiguousarray(samples, "<f4").tobytes())

    def blocks(
        self, start: int = 0, stop: int | None = None, size: int = BLOCK
    ) -> Iterator[np.ndarray]:
        """All of it, or a part, as a stream of ``[time]``."""
        stop = self.length if stop is None else min(stop, self.length)
        for place in range(start, stop, size):
            yield self.read(place, min(place + size, stop))
