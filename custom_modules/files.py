"""Writing files so that a killed process never leaves half of one."""

import errno
import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from soundfile import SoundFileError

from custom_modules.errors import InputError

PARTIAL_SUFFIX = ".partial"
_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
_KINDS |= dict.fromkeys((stat.S_IFCHR, stat.S_IFBLK), "a device")


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
        if partial.exists():
            partial.unlink()


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
