"""Writing files so that a killed process never leaves half of one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from soundfile import SoundFileError

from custom_modules.errors import InputError

PARTIAL_SUFFIX = ".partial"


@contextmanager
def atomic_path(target: str | Path) -> Iterator[Path]:
    """Yields a path beside ``target`` and renames it to ``target`` at the end.

    If the block raises, or the process dies, ``target`` is as it was before. Its folder
    is made. The path is this process's own.
    """
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
