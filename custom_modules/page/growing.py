"""Wav files that can be listened to while they are being made."""

import struct
from pathlib import Path

import numpy as np

_HEADER_BYTES = 44
#: Of 16 bits, in what a wav file holds.
MOST_FRAMES = (2**32 - _HEADER_BYTES) // 2 - 1


class Track:
    """A wav file of one channel and 16 bits, whose length is known before its samples.

    One thread writes, and any number read what is there. ``size`` is in bytes.
    """

    def __init__(self, path: Path, rate: int, frames: int) -> None:
        self.path, self.size = path, _HEADER_BYTES + 2 * frames
        form = struct.pack("<IHHIIHH", 16, 1, 1, rate, 2 * rate, 2, 16)
        header = b"RIFF" + struct.pack("<I", self.size - 8) + b"WAVEfmt " + form
        path.write_bytes(header + b"data" + struct.pack("<I", 2 * frames))
        self.ready = _HEADER_BYTES

    def write(self, samples: np.ndarray) -> None:
        """Appends ``[time]``; what is beyond full scale is cut off, as is what is too long."""
        whole = np.round(np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()
        self._append(whole[: self.size - self.ready])

    def finish(self) -> None:
        """Fills up with silence what was announced and did not come."""
        while missing := self.size - self.ready:
            self._append(bytes(min(missing, 2**20)))

    def read(self, start: int, most: int) -> bytes:
        """What is there from a byte on, perhaps nothing yet."""
        with open(self.path, "rb") as file:
            file.seek(start)
            return file.read(max(0, min(most, self.ready - start)))

    def _append(self, data: bytes) -> None:
        with open(self.path, "ab") as file:
            file.write(data)
        self.ready += len(data)
