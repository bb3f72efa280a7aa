"""Reading files of a packed corpus: a few large Arrow files and an index.

``polsess_prepare.py --pack`` writes one. Paths stay as they were: ``PACK/train/mix/a.wav`` is
found in the index of ``PACK``. Samples are read by their place, so pyarrow is not needed.
"""

import functools
import hashlib
import io
import json
import os
import struct
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np

from custom_modules.errors import InputError
from custom_modules.files import regular_file

#: In the folder of a pack; it makes one.
PACK_FILE = "polsess_pack.json"
INDEX_FILE = "index.npy"
#: Raise it when another reader is needed.
FORMAT = 1
AGAIN = "pack again by polsess_prepare.py --pack"

#: The rows of the index, int64 ``[rows, files]``. The first two are a digest of the path, by
#: which files are sorted; ``rate`` is 0 where a file is kept as it was, and not as samples.
INDEX_ROWS = ("digest", "digest2", "shard", "start", "length", "rate", "sum", "size", "mtime")
#: The digest of a shard's sources is in its schema, which it begins with, in bytes.
_HEAD = 4096


class Packed(NamedTuple):
    """Where a file of a pack is, and what is known of it."""

    pack: "Pack"
    row: int  # of the index
    shard: int
    start: int  # byte of the shard
    length: int  # in samples, or bytes if it is kept as it was
    rate: int  # Hz; 0 if it is kept as it was
    sum: int  # of its samples, or bytes
    size: int  # bytes of the file that was packed
    mtime: int  # when that was changed, ns

    @property
    def is_samples(self) -> bool:
        """Whether it is 16 bit samples of one channel, and no longer a file."""
        return self.rate > 0

    def samples(self, start: int = 0, frames: int | None = None) -> np.ndarray:
        """A stretch of its samples, int16 ``[frames]``; fewer at the end."""
        rest = max(self.length - start, 0)
        wanted = rest if frames is None else min(frames, rest)
        return np.frombuffer(self.pack.read(self.shard, self.start + 2 * start, 2 * wanted), "<i2")

    def content(self) -> bytes:
        """All of its bytes: of the samples, or of the file as it was."""
        size = 2 * self.length if self.is_samples else self.length
        return self.pack.read(self.shard, self.start, size)

    def checked(self) -> Self:
        """Itself; ValueError if the sum of its samples is not that of the file."""
        dtype = "<i2" if self.is_samples else "u1"
        found = int(np.frombuffer(self.content(), dtype).sum(dtype=np.int64))
        if found != self.sum:
            raise ValueError(f"its samples in {self.pack.root} sum up to {found}, not {self.sum}")
        return self


class Pack:
    """An open pack. Forked processes share what it has opened."""

    def __init__(self, root: str) -> None:
        self.root = root
        facts = read_facts(root)
        if not facts["complete"]:
            raise InputError(f"{root}: its packing did not end; the same command goes on")
        self._shards = [(x["name"], x["size"], x["digest"].encode()) for x in facts["shards"]]
        for name, size, _ in self._shards:
            self._check_size(name, size)
        path = Path(root, INDEX_FILE)
        try:
            mapped = np.load(path, mmap_mode="r")
            # memmap's own indexing is slower than that of an array
            self.index = np.asarray(mapped)
            if self.index.shape != (len(INDEX_ROWS), facts["files"]) or mapped.dtype != "<i8":
                raise ValueError("of another shape")
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"{path}: is damaged ({error}); {AGAIN}") from error
        self._files: dict[int, io.FileIO] = {}

    def _check_size(self, name: str, size: int) -> None:
        path = Path(self.root, name)
        found = regular_file(path).stat().st_size
        if found != size:
            reason = "is cut off" if found < size else "is too long"
            raise InputError(f"{path}: {reason}, {found} bytes instead of {size}; {AGAIN}")

    def find(self, path: str) -> Packed | None:
        """A file by its path in the corpus, or None."""
        first, second = digest_of_path(path)
        digests = self.index[0]
        row = int(digests.searchsorted(first))
        while row < len(digests) and digests[row] == first:
            if self.index[1, row] == second:
                return Packed(self, row, *self.index[2:, row].tolist())
            row += 1
        return None

    def read(self, shard: int, start: int, size: int) -> bytes:
        """Bytes of a shard. Not by a memory map: of a file cut off later, that would be SIGBUS."""
        if shard not in self._files:
            self._files[shard] = self._open(shard)
        descriptor = self._files[shard].fileno()
        data = os.pread(descriptor, size, start)
        while len(data) < size:  # more than the kernel gives at once
            more = os.pread(descriptor, size - len(data), start + len(data))
            if not more:
                self._check_size(*self._shards[shard][:2])
                raise InputError(f"{self.root}: is cut off; {AGAIN}")
            data += more
        return data

    def _open(self, shard: int) -> io.FileIO:
        name, size, digest = self._shards[shard]
        self._check_size(name, size)
        file = io.FileIO(os.path.join(self.root, name))
        if digest not in os.pread(file.fileno(), _HEAD, 0):
            raise InputError(f"{self.root}/{name}: is of another pack; {AGAIN}")
        return file


def digest_of_path(path: str) -> tuple[int, int]:
    """What the index is sorted by; 128 bits are as good as the path."""
    digest = hashlib.blake2b(path.encode("utf-8", "surrogateescape"), digest_size=16)
    first, second = struct.unpack("<qq", digest.digest())
    return first, second


def read_facts(root: str | Path) -> dict:
    """What the file that makes a folder a pack says."""
    path = Path(root, PACK_FILE)
    try:
        facts = json.loads(regular_file(path).read_text("utf-8"))
        if facts["format"] != FORMAT:
            raise ValueError(f"of format {facts['format']}")
        return {key: facts[key] for key in ("complete", "corpus", "files", "shards", "tables")}
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        remedy = "remove the folder and pack again"
        raise InputError(f"{path}: is not that of a pack ({error}); {remedy}") from error


@functools.cache
def open_pack(root: str) -> Pack | None:
    """The pack that a folder is, opened once in a process and its forks; None if it is none."""
    return Pack(root) if os.path.exists(os.path.join(root, PACK_FILE)) else None


@functools.lru_cache(maxsize=2**16)
def _pack_above(folder: str) -> tuple[Pack, str] | None:
    """The pack that a folder would be in, and its path there."""
    root = folder = os.path.abspath(folder)
    while (pack := open_pack(root)) is None:
        root, below = os.path.dirname(root), root
        if root == below:
            return None
    inside = os.path.relpath(folder, root)
    return pack, "" if inside == "." else f"{inside}/"


def forget() -> None:
    """Closes all packs: one was written."""
    _pack_above.cache_clear()
    open_pack.cache_clear()


def find_packed(path: str | Path) -> Packed | None:
    """A file by its path below a pack; None if it is a file as others are."""
    path = os.fspath(path)
    if not path.startswith("/"):  # its folder depends on where the command runs
        path = os.path.abspath(path)
    folder, _, name = path.rpartition("/")
    if (above := _pack_above(folder)) is None:
        return None
    pack, inside = above
    return pack.find(inside + name)


def exists(path: str) -> bool:
    """Whether a path is of a file, or of one in a pack."""
    return find_packed(path) is not None or os.path.exists(path)


def state_of(path: str) -> tuple[int, int]:
    """Size and time of change, ns, of a file, or of the one that was packed."""
    if packed := find_packed(path):
        return packed.size, packed.mtime
    stat = os.stat(path)
    return stat.st_size, stat.st_mtime_ns


def content_of(path: str) -> bytes:
    """The bytes of a file, or of one in a pack, whose samples have no header there."""
    packed = find_packed(path)
    return packed.content() if packed else Path(path).read_bytes()
