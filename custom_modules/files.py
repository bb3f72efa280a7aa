"""Writing files so that a killed process never leaves half of one, and digests of them."""

import errno
import fcntl
import hashlib
import logging
import math
import os
import stat
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from soundfile import SoundFileError

from custom_modules.errors import InputError

PARTIAL_SUFFIX = ".partial"
_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
_KINDS |= dict.fromkeys((stat.S_IFCHR, stat.S_IFBLK), "a device")

logger = logging.getLogger(__name__)

#: Descriptor of each of this process's locks → the thread that has it, and its file.
_held: dict[int, tuple[int, str]] = {}


@contextmanager
def atomic_path(target: str | Path) -> Iterator[Path]:
    """Yields a path beside ``target`` and renames it to ``target`` at the end.

    If the block raises, or the process dies, ``target`` is as it was before. Its folder
    is made. The path is this process's own.
    """
    check_output(target)
    target = Path(target)
    partial = target.with_name(f"{target.name}.{os.getpid()}{PARTIAL_SUFFIX}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        os.replace(partial, target)
    except (OSError, SoundFileError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"{target}: cannot be written ({reason}); "
            "check the folder, its permissions and the free space"
        ) from error
    finally:
        if os.path.exists(partial):  # Path's own raises, if the name is too long
            partial.unlink()


@contextmanager
def lock(folder: str | Path, wait: bool = False, beside: bool = False) -> Iterator[None]:
    """Holds a folder, made if it is missing, for this command; another is refused, or waits.

    The kernel lets it go when this process dies. Over NFS it holds between machines if the
    server keeps locks (not with ``nolock``, which keeps them within one machine); a file
    system without locks is a warning. The first process of torchrun holds it for all, unless
    they wait. Its file lies in the folder, or ``beside`` one that is renamed, and goes with
    it, as does a folder that was made for it and is empty.
    """
    if os.environ.get("RANK", "0") != "0" and not wait:
        yield
        return
    folder = Path(folder).absolute()
    path = folder.with_name(f".{folder.name}.lock") if beside else folder / ".lock"
    mine = threading.get_ident(), os.path.realpath(path)
    if wait and mine in _held.values():  # it would wait for itself
        yield
        return
    made = [place for place in path.parents if not place.exists()]
    descriptor = _locked(path, folder, wait)
    _held[descriptor] = mine
    try:
        yield
    finally:
        with suppress(OSError):  # of a folder that is used, or gone
            path.unlink()
            for place in made:
                place.rmdir()
        _held.pop(descriptor, None)
        os.close(descriptor)


def _locked(path: Path, folder: Path, wait: bool) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written ({error.strerror}); "
            "check the folder, its permissions and the free space"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(descriptor)
        raise InputError(
            f"{folder}: another command writes into it; wait for its end, or name another folder"
        ) from None
    except OSError as error:
        logger.warning("%s: cannot be locked (%s); run one command there", folder, error.strerror)
    if os.fstat(descriptor).st_nlink:
        return descriptor
    os.close(descriptor)  # its holder removed the file when it was done
    return _locked(path, folder, wait)


def _close_locks() -> None:
    while _held:
        os.close(_held.popitem()[0])


# A worker that outlives a killed command for a moment would hold its lock.
os.register_at_fork(after_in_child=_close_locks)


def nearest_existing(path: Path) -> Path:
    """A path itself if it exists, else the nearest folder above it that does."""
    return next(known for known in (path, *path.parents) if known.exists())


def prepare_folder(folder: str | Path) -> None:
    """Makes a folder, and makes sure that it can be written to."""
    probe = Path(folder) / f".writable.{os.getpid()}"
    try:
        with atomic_path(probe) as path:
            path.touch()
    except InputError as error:
        raise InputError(str(error).replace(str(probe), str(folder))) from error
    probe.unlink()


def not_a_file(path: str | Path) -> str:
    """What a path is instead of a regular file, such as ``a pipe``; empty for a file.

    Nothing is opened: opening a pipe waits until somebody writes to it.
    """
    return _KINDS.get(stat.S_IFMT(os.stat(path).st_mode), "")


def regular_file(path: str | Path, most_bytes: float = math.inf) -> Path:
    """The path, if it is of a file that can be read and is not larger; else one line."""
    path = Path(path)
    try:
        if kind := not_a_file(path):
            raise InputError(f"{path}: is {kind}; name a file")
        if not os.access(path, os.R_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        if (size := path.stat().st_size) > most_bytes:
            raise InputError(f"{path}: has {size} bytes; at most {most_bytes:g} are read")
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read ({reason})") from error
    return path


def check_output(target: str | Path) -> None:
    """Refuses a target that is there and is no file: a device would be replaced by one."""
    try:
        kind = not_a_file(target)
    except OSError:  # is not there yet, or its folder is refused later
        return
    except ValueError as error:  # a null byte
        raise InputError(f"{target!r}: cannot be a file's name ({error})") from error
    if kind:
        raise InputError(f"{target}: cannot be written (is {kind}); name a file")


def digest_of(pieces: Iterable[bytes], size: int = 16) -> str:
    """A hexadecimal digest of ``size`` bytes of pieces of bytes, one after another."""
    digest = hashlib.blake2b(digest_size=size)
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def digest_of_files(folder: Path, files: Iterable[Path]) -> str:
    """Of the names and contents of files in a folder, wherever it is; hidden ones left out."""

    def pieces() -> Iterator[bytes]:
        for path in sorted(files):
            if path.is_file() and not path.name.startswith("."):
                yield f"{path.relative_to(folder)}\n".encode()
                with open(path, "rb") as stream:
                    yield hashlib.file_digest(stream, "sha256").digest()

    return digest_of(pieces(), size=6)
