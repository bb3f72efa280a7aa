"""Audio files to their very end, whatever their headers say.

libsndfile stops where a header says so. That of an mp3 is an estimate or a tag, and where files
were joined (mp3, ogg, opus, flac) it is the first one's. So an mp3 is decoded once to know its
length, and what was joined is taken apart. Start reading at :class:`Decoder`.
"""

import io
import os
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
LOWEST_RATE, HIGHEST_RATE = 1000, 768_000
#: How files begin that can be joined.
_BEGINNINGS = {"FLAC": re.compile(rb"fLaC[\0\x80]\0\0\x22"), "OGG": re.compile(rb"OggS\0\x02")}
#: The streams of one ogg file begin nearer to each other than joined files do, in bytes.
_NEAREST = 120
_BLOCK_BYTES = 2**20
#: An mp3 that claims so many bytes is read to its end; mpg123 looks for a tag there.
_ENDLESS, _TAG_BYTES = 2**50, 128
#: libsndfile gives more where it does not know how many there are.
_MOST_FRAMES = 2**40
_TAG = re.compile(rb"(?s)(\xff[\xe2-\xff]).{11,36}?(?:Xing|Info)\0{3}(.)")


@contextmanager
def reading(path: str | Path, remedy: str = "fix or remove it") -> Iterator[None]:
    """Names the file that soundfile cannot read; only its calls belong inside."""
    try:
        yield
    except (sf.SoundFileError, OSError, TypeError, ValueError) as error:
        reason = re.sub(r"^Error opening .*?: ", "", str(error)).strip().rstrip(".")
        if isinstance(error, UnicodeEncodeError):
            reason = "its name is not UTF-8"
        raise InputError(f"{path}: cannot be read ({reason}); {remedy}") from error


class Decoder:
    """An open audio file of ``frames`` samples; one that was cut off may end before."""

    def __init__(self, path: str | Path) -> None:
        self.name, status = str(regular_file(path)), os.stat(path)
        with reading(path):
            self._parts = _find_parts(self.name, status.st_size, status.st_mtime_ns)
            self._index, self._file = 0, _File(self.name, self._parts[0])
            self.samplerate, self.channels = self._file.form
            if not LOWEST_RATE <= self.samplerate <= HIGHEST_RATE:
                raise ValueError(f"a rate of {self.samplerate} Hz")
        self.subtype, self.extra_info = self._file.subtype, self._file.extra_info
        self.frames = sum(part.frames for part in self._parts)
        self._position = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def tell(self) -> int:
        """The sample of each channel that is read next."""
        return self._position

    def seek(self, position: int) -> None:
        """Goes to a sample, at most to the end."""
        index, rest = 0, min(position, self.frames)
        self._position = rest
        while index + 1 < len(self._parts) and rest >= self._parts[index].frames:
            rest -= self._parts[index].frames
            index += 1
        with reading(self.name):
            self._open(index)
            self._file.pass_over(rest)

    def read(self, size: int, dtype: str = "float64") -> np.ndarray:
        """The next samples ``[time, channels]``, fewer only at the end."""
        wanted, pieces = min(size, self.frames - self._position), []
        with reading(self.name):
            while wanted > 0:
                pieces.append(self._file.decode(wanted, dtype))
                wanted -= len(pieces[-1])
                if not len(pieces[-1]):
                    if self._index + 1 == len(self._parts):
                        break
                    self._open(self._index + 1)
                    if (self._file.samplerate, self._file.channels) != (
                        self.samplerate,
                        self.channels,
                    ):
                        raise ValueError("joined of files of different rates or channels")
            self._position += sum(map(len, pieces))
            if self._position == self.frames and self._file.is_cut_short():
                raise ValueError("it holds more than its header says")
        return np.concatenate([np.zeros((0, self.channels), dtype), *pieces])

    def _open(self, index: int) -> None:
        self._file.close()
        self._index, self._file = index, _File(self.name, self._parts[index])


class _Part(NamedTuple):
    """A stretch of a file, one of those that were joined or all of it."""

    start: int = 0  # its first byte
    stop: int = 0  # behind its last byte; 0: the file is read as it is
    claim: int = 0  # bytes that it claims to have
    frames: int = 0


class _Stretch(io.FileIO):
    """A part as a file of its own; where it claims to end are zeros, no tag."""

    def __init__(self, path: str, part: _Part) -> None:
        super().__init__(path)
        self.start, self.size, self.at = part.start, part.stop - part.start, 0
        self.claim = part.claim or self.size

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


class _File(sf.SoundFile):
    """A part that is decoded on: soundfile itself seeks after each read, and stops early."""

    def __init__(self, path: str, part: _Part) -> None:
        self.stretch = _Stretch(path, part) if part.stop else None
        super().__init__(self.stretch or path)
        self.form = self.samplerate, self.channels

    def seekable(self) -> bool:
        return False

    def close(self) -> None:
        super().close()
        if self.stretch:
            self.stretch.close()

    def bytes_left(self) -> int:
        return self.stretch.size - self.stretch.at if self.stretch else 0

    def is_cut_short(self) -> bool:
        """Whether a header ends a flac before its audio does, of which a block is read ahead."""
        return self.format == "FLAC" and self.bytes_left() > _BLOCK_BYTES // 16

    def decode(self, size: int, dtype: str = "float32") -> np.ndarray:
        """The next samples ``[time, channels]``; what is damaged of an mp3 is passed over."""
        out = np.full((size, self.channels), np.nan, dtype)
        while True:
            left = self.bytes_left()
            try:
                return self.read(out=out)
            except sf.SoundFileError:
                if self.format != "MP3":
                    raise
                came = int(np.argmax(np.isnan(out[:, 0])))
                if came or self.bytes_left() >= left:
                    return out[:came]

    def count(self) -> int:
        """Samples of each channel; all are read where no header says how many."""
        return self.frames if self.frames < _MOST_FRAMES else self._decode_on(_MOST_FRAMES)

    def pass_over(self, samples: int) -> None:
        """Goes on by so many; seeking misses the place in an mp3 of variable rate."""
        if self.format == "MP3" or self.frames >= _MOST_FRAMES:
            self._decode_on(samples)
        else:
            self.seek(samples)

    def _decode_on(self, samples: int) -> int:
        left = samples
        while left and (size := len(self.decode(min(10 * self.samplerate, left)))):
            left -= size
        return samples - left


def _counted(path: str, part: _Part) -> _Part:
    with _File(path, part) as file:
        return part._replace(frames=file.count())


@lru_cache(maxsize=2**16)
def _find_parts(path: str, size: int, _changed: int) -> tuple[_Part, ...]:
    """What a file was joined of; of an mp3 with a wrong length, all but its header's tag."""
    with _File(path, _Part()) as file:
        kind, whole = file.format, _Part(frames=file.count())
    if kind == "MP3":
        start, added = _first_frame(path)
        endless = _counted(path, _Part(start, size, _ENDLESS))
        return (whole if endless.frames - added == whole.frames else endless,)
    if kind not in _BEGINNINGS:
        return (whole,)
    ends = [*_find_all(path, _BEGINNINGS[kind]), size]
    return tuple(_counted(path, _Part(*pair)) for pair in pairwise(ends))


def _find_all(path: str, beginning: re.Pattern[bytes]) -> list[int]:
    """Where joined files begin, in bytes; the first at 0, whatever is before it."""
    starts: list[int] = []
    passed, held = 0, b""
    with open(path, "rb") as file:
        while block := file.read(_BLOCK_BYTES):
            held += block
            for match in beginning.finditer(held):
                at = passed + match.start()
                if not starts or at > starts[-1] + _NEAREST:
                    starts.append(at)
            passed += max(0, len(held) - 7)
            held = held[-7:]
    return [0, *starts[1:]]


def _first_frame(path: str) -> tuple[int, int]:
    """The byte behind an mp3's tag of its length, and the samples that its encoder added."""
    with open(path, "rb") as file:
        head, begin = file.read(10), 0
        if head[:3] == b"ID3":  # its size is in four times seven bits
            begin = 10 + sum(byte << 7 * i for i, byte in enumerate(head[:5:-1]))
        file.seek(begin)
        head = file.read(4096)
    if not (tag := _TAG.search(head)):
        return 0, 0
    flags = tag[2][0]
    fields = tag.end() + 4 * (flags & 1) + 2 * (flags & 2) + 25 * (flags & 4) + (flags & 8) // 2
    added = int.from_bytes(head[fields + 21 : fields + 24])
    return begin + max(0, head.find(tag[1], fields + 24)), (added >> 12) + (added & 0xFFF)
