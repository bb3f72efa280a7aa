"""Audio files to their very end, whatever their headers say.

libsndfile stops where a header says so. That of an mp3 is an estimate or a tag, and of
files that were joined (mp3, ogg, opus, flac) it is the first one's. So an mp3 is scanned,
and what was joined is taken apart again.
"""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import soundfile as sf

from custom_modules.errors import InputError
from custom_modules.files import regular_file

#: Lowest and highest rate of a recording, Hz; others are of a damaged header.
RATES = 1000, 768_000
#: How the files begin that a file was joined of.
_BEGINNINGS = {"FLAC": re.compile(rb"fLaC[\0\x80]\0\0\x22"), "OGG": re.compile(rb"OggS\0\x02")}
#: Beginnings of one ogg file that holds several streams are nearer to each other, in bytes.
_NEAREST = 120
_SCAN_BYTES = 2**20
#: No file is as long: mpg123 finds the length by a scan then, and looks for a tag at the end.
_ENDLESS, _TAG_BYTES = 2**62, 128
#: No header's number of samples is larger; libsndfile gives 2**63 for an unknown one.
_MOST_FRAMES = 2**40


@contextmanager
def reading(path: str | Path, remedy: str = "fix or remove it") -> Iterator[None]:
    """Names the file that soundfile cannot read; only its calls belong inside."""
    try:
        yield
    except (sf.SoundFileError, OSError, TypeError, ValueError) as error:
        reason = re.sub(r"^Error opening .*?: ", "", str(error)).strip().rstrip(".")
        raise InputError(f"{path}: cannot be read ({reason}); {remedy}") from error


class Decoder:
    """An open audio file, decoded until nothing comes.

    ``frames`` is its length; a file that was cut off has fewer.
    """

    def __init__(self, path: str | Path) -> None:
        self.name = str(regular_file(path))
        status = Path(path).stat()
        with reading(path):
            self._parts = _find_parts(self.name, status.st_size, status.st_mtime_ns)
            self._index, self._stream = 0, self._parts[0].open(self.name)
        self.samplerate, self.channels = self._stream.samplerate, self._stream.channels
        self.subtype, self.extra_info = self._stream.subtype, self._stream.extra_info
        self.frames = sum(part.frames for part in self._parts)
        self._position = 0
        if not RATES[0] <= self.samplerate <= RATES[1]:
            self.close()
            least, most = RATES
            raise InputError(
                f"{path}: a rate of {self.samplerate} Hz, not {least} to {most}; fix or remove it"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._stream.close()

    def tell(self) -> int:
        """How many samples of each channel have been read or passed over."""
        return self._position

    def seek(self, position: int) -> None:
        """Goes to a sample, or to the end."""
        rest = self._position = min(position, self.frames)
        index = 0
        while index + 1 < len(self._parts) and rest >= self._parts[index].frames:
            rest -= self._parts[index].frames
            index += 1
        self._go_to(index)
        with reading(self.name):
            self._stream.pass_over(rest)

    def read(self, size: int, dtype: str = "float64") -> np.ndarray:
        """The next samples ``[time, channels]``, fewer only at the end."""
        wanted = min(size, self.frames - self._position)
        pieces = [np.zeros((0, self.channels), dtype)]
        while wanted > 0:
            with reading(self.name):
                pieces.append(self._stream.decode(wanted, dtype))
            wanted -= len(pieces[-1])
            self._position += len(pieces[-1])
            if not len(pieces[-1]):
                if self._index + 1 == len(self._parts):
                    break
                self._go_to(self._index + 1)
        if self._position == self.frames and self._stream.left() > _SCAN_BYTES // 16:
            raise InputError(f"{self.name}: holds more than its header says; convert it again")
        return pieces[1] if len(pieces) == 2 else np.concatenate(pieces)

    def _go_to(self, index: int) -> None:
        self.close()
        with reading(self.name):
            self._index, self._stream = index, self._parts[index].open(self.name)
        form = self._stream.samplerate, self._stream.channels
        if form != (self.samplerate, self.channels):
            raise InputError(
                f"{self.name}: was joined of files of different rates or channels; take it apart"
            )


class _Part(NamedTuple):
    """A file, or one of those that it was joined of."""

    frames: int
    start: int = 0  # its first byte
    stop: int = 0  # behind its last byte; 0: the file is read as it is
    claim: int = 0  # bytes that it claims to have

    def open(self, path: str) -> "_Stream":
        return _Stream(_Stretch(path, *self[1:]) if self.stop else path)


class _Stretch(io.FileIO):
    """Bytes of a file as a file; 128 zeros, no tag, where it claims to end."""

    def __init__(self, path: str, start: int, stop: int, claim: int) -> None:
        super().__init__(path)
        self.start, self.size, self.at = start, stop - start, 0
        self.claim = claim or self.size

    def seek(self, offset: int, whence: int = 0) -> int:
        self.at = offset + (0, self.at, self.claim)[whence]
        return self.at

    def tell(self) -> int:
        return self.at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        super().seek(self.start + min(self.at, self.size))
        data = super().read(min(len(buffer), max(self.size - self.at, 0)))
        if self.size < self.claim - _TAG_BYTES <= self.at:
            data = bytes(min(len(buffer), self.claim - self.at))
        buffer[: len(data)] = data
        self.at += len(data)
        return len(data)


class _Stream(sf.SoundFile):
    """Reads on: soundfile itself stops where a header says so, and seeks after each read."""

    def __init__(self, file: str | _Stretch) -> None:
        self.file = file
        super().__init__(file)

    def seekable(self) -> bool:
        return False

    def close(self) -> None:
        super().close()
        if isinstance(self.file, _Stretch):
            self.file.close()

    def decode(self, size: int, dtype: str = "float32") -> np.ndarray:
        """The next samples ``[time, channels]``; what cannot be decoded of an mp3 is left out."""
        if not (isinstance(self.file, _Stretch) and self.file.claim > self.file.size):
            return self.read(size, dtype, always_2d=True)
        out = np.full((size, self.channels), np.nan, dtype)
        while True:
            at = self.file.at
            try:
                return self.read(out=out)
            except sf.SoundFileError:
                came = int(np.argmax(np.isnan(out[:, 0])))
                if came or self.file.at <= at:
                    return out[:came]

    def left(self) -> int:
        """Bytes of a stretch that have not been read."""
        return self.file.size - self.file.at if isinstance(self.file, _Stretch) else 0

    def count(self) -> int:
        """Samples of each channel; all are read where no header says how many."""
        return self.frames if self.frames < _MOST_FRAMES else self._read_on(_MOST_FRAMES)

    def pass_over(self, samples: int) -> None:
        """Goes on by so many; seeking misses the place in an mp3 of variable rate."""
        if self.format == "MP3" or self.frames >= _MOST_FRAMES:
            self._read_on(samples)
        else:
            self.seek(samples)

    def _read_on(self, samples: int) -> int:
        """Reads so many or to the end; how many that were."""
        passed = 0
        while wanted := min(10 * self.samplerate, samples - passed):
            if not (size := len(self.decode(wanted))):
                break
            passed += size
        return passed


@lru_cache(maxsize=1024)
def _find_parts(path: str, size: int, _changed: int) -> tuple[_Part, ...]:
    """What a file was joined of; of an mp3, one part whose length is that of a scan."""
    with _Stream(path) as whole:
        if whole.format == "MP3" and (scanned := _scan_mp3(path, size, whole.frames)):
            return (scanned,)
        starts = [0, size]
        if whole.format in _BEGINNINGS:
            starts = [*_find_all(path, _BEGINNINGS[whole.format]), size]
        if len(starts) == 2 and whole.format != "FLAC":
            return (_Part(whole.count()),)
    return tuple(_part_of(path, *ends, 0) for ends in pairwise(starts))


def _part_of(path: str, start: int, stop: int, claim: int) -> _Part:
    with _Part(0, start, stop, claim).open(path) as stream:
        return _Part(stream.count(), start, stop, claim)


def _find_all(path: str, beginning: re.Pattern[bytes]) -> list[int]:
    """Where joined files begin, in bytes; the first at 0, whatever is before it."""
    starts, passed, held = [0], 0, b""
    with open(path, "rb") as file:
        while block := file.read(_SCAN_BYTES):
            data = held + block
            for found in beginning.finditer(data):
                if (at := passed + found.start()) > starts[-1] + _NEAREST:
                    starts.append(at)
            held = data[-7:]
            passed += len(data) - len(held)
    return starts


def _scan_mp3(path: str, size: int, frames: int) -> _Part | None:
    """The part of an mp3 of which a scan finds another length than its header claims.

    A header's is that of a tag in the first frame, which also says what the encoder has
    added at both ends; a file with a right one is best read as it is.
    """
    with open(path, "rb") as file:
        head = file.read(10)
        if head[:3] == b"ID3":  # its size is in four times seven bits
            file.seek(10 + sum(byte << 7 * i for i, byte in enumerate(reversed(head[6:]))))
            head = b""
        first = file.tell() - len(head)
        head += file.read(4096)
    start = added = 0
    if tag := re.search(rb"(?s)(?:Xing|Info)\0{3}(.)", head):
        flags = tag[1][0]
        fields = 4 * (flags & 1) + 4 * (flags >> 1 & 1) + 100 * (flags >> 2 & 1) + 4 * (flags >> 3)
        ends = int.from_bytes(head[tag.end() + fields + 21 :][:3])
        added = (ends >> 12) + (ends & 0xFFF)
        sync = head.rfind(b"\xff", 0, tag.start())
        start = max(0, first + head.find(head[sync : sync + 2], tag.end() + fields))
    scanned = _part_of(path, start, size, _ENDLESS)
    return None if scanned.frames - added == frames else scanned
