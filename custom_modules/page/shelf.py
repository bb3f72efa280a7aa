"""The folder of what visitors bring and take away: what it takes in, and for how long.

Start reading at :class:`Shelf`.
"""

import os
import secrets
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from custom_modules.audio import open_audio
from custom_modules.errors import InputError
from custom_modules.page.growing import MOST_FRAMES
from custom_modules.page.texts import RefusedError, clock_time

#: Bytes of a second of 32-bit stereo at 48 kHz: larger files are not taken in at all.
_SECOND_BYTES = 48_000 * 2 * 4
#: Longer names are cut: some file systems hold 255 bytes, and outputs add to them.
_NAME_BYTES = 180


class Shelf:
    """A folder with limits; times are of ``clock``, s since 1970 as of files."""

    def __init__(
        self,
        folder: Path,
        max_minutes: float = 30,
        keep_minutes: float = 60,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.folder, self.clock = folder, clock
        self.max_minutes, self.keep_minutes = max_minutes, keep_minutes
        self.held: set[Path] = set()  # what is worked on, and stays

    @property
    def most_bytes(self) -> int:
        """Of a file."""
        return round(self.max_minutes * 60 * _SECOND_BYTES)

    def check(self, upload: str | Path | None) -> tuple[float, int]:
        """Length in s and rate in Hz of what a visitor chose; RefusedError if it is not taken."""
        if not upload:
            raise RefusedError("nothing")
        path = Path(upload)
        name = shown_name(path)
        if not path.is_file():
            raise RefusedError("gone")
        if not (size := path.stat().st_size):
            raise RefusedError("empty", name=name)
        if size > self.most_bytes:
            raise RefusedError("too_large", megabytes=self.most_bytes // 10**6)
        try:
            with open_audio(path) as audio:
                seconds, rate = audio.frames / audio.samplerate, audio.samplerate
                frames, first = audio.frames, audio.read(1)
        except InputError as error:
            raise RefusedError("unreadable", name=name) from error
        if not len(first):
            raise RefusedError("silent", name=name)
        if not np.isfinite(first).all():
            raise RefusedError("not_numbers", name=name)
        if seconds > 60 * self.max_minutes:
            length, limit = clock_time(seconds), f"{self.max_minutes:g}"
            raise RefusedError("too_long", name=name, length=length, limit=limit)
        if frames > min(self.most_bytes // 2, MOST_FRAMES):  # what it is compressed from
            raise RefusedError("too_large", megabytes=self.most_bytes // 10**6)
        return seconds, rate

    def take(self, upload: str | Path) -> tuple[Path, Path]:
        """A new folder that is held, and the recording in it; one from elsewhere stays there."""
        path, place = Path(upload), self.folder / secrets.token_urlsafe(16)
        place.mkdir(parents=True)
        self.held.add(place)
        if not path.resolve().is_relative_to(self.folder.resolve()):
            return place, path
        recording = place / "given" / shortened(path.name)  # apart from what is made of it
        recording.parent.mkdir()
        try:
            try:
                os.link(path, recording)
            except OSError:  # it is gone, or its disk has no links
                shutil.copyfile(path, recording)
        except FileNotFoundError:
            self.release(place)
            raise RefusedError("gone") from None
        except BaseException:
            self.release(place)
            raise
        os.utime(place, (self.clock(), self.clock()))
        return place, recording

    def release(self, place: Path) -> None:
        """From now on its time runs."""
        if place.exists():
            os.utime(place, (self.clock(), self.clock()))
        self.held.discard(place)

    def sweep(self) -> list[Path]:
        """Removes and returns what has lain for longer than ``keep_minutes``."""
        oldest = self.clock() - 60 * self.keep_minutes
        places = sorted(self.folder.iterdir()) if self.folder.is_dir() else []
        over = [p for p in places if p not in self.held and _last_change(p) < oldest]
        for place in over:
            if place.is_dir():
                shutil.rmtree(place, ignore_errors=True)
            else:
                place.unlink(missing_ok=True)
        return over


def _last_change(place: Path) -> float:
    """Of a folder or of what is in it, whichever was later."""
    try:
        return max(path.stat().st_mtime for path in (place, *place.rglob("*")))
    except FileNotFoundError:  # something is just being moved
        return float("inf")


def shortened(name: str) -> str:
    """A file's name, cut to what any file system holds; its suffix stays.

    >>> len(shortened("ż" * 300 + ".wav")), shortened("a.wav")
    (92, 'a.wav')
    """
    stem, suffix = os.path.splitext(name)
    room = _NAME_BYTES - len(suffix.encode())
    return stem.encode()[:room].decode(errors="ignore") + suffix


def shown_name(path: Path) -> str:
    """A file's name as a sentence shows it, at most forty characters of it."""
    name = os.fsencode(path.name).decode(errors="replace")
    return name if len(name) <= 40 else f"{name[:30]}…{name[-9:]}"
