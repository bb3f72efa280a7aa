"""Conversations whose truth is known: generated ones, or recordings with annotations.

A recording's truth lies beside it under its name: ``talk.seglst.json`` (who said what when),
``talk.rttm`` (who speaks when) or both. Clean tracks, where there are any, are in a folder of
its name: ``talk/<talker>_dry.wav``, and ``talk/<talker>_wet.wav`` for reverberation alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from custom_modules import audio
from custom_modules.conversation.formats import passages_of, read_passages, session_of
from custom_modules.conversation.passages import Passage
from custom_modules.errors import InputError
from custom_modules.layout import SUBSETS

SEGLST, RTTM = ".seglst.json", ".rttm"
DRY, WET = "_dry.wav", "_wet.wav"


@dataclass(frozen=True)
class Reference:
    """A recording and what is known of it."""

    session: str
    path: Path

    @cached_property
    def said(self) -> list[Passage] | None:
        """Utterances, or None if nobody wrote them down."""
        return self._read_truth(SEGLST)

    @cached_property
    def passages(self) -> list[Passage]:
        """Who speaks when: of the RTTM, or from utterance to utterance."""
        told = self._read_truth(RTTM)
        return (self.said or []) if told is None else told

    def _read_truth(self, suffix: str) -> list[Passage] | None:
        path = self.path.with_suffix(suffix)
        if not path.is_file():
            return None
        told = read_passages(path)  # of many recordings, perhaps, of some of which it says nothing
        is_missing = len(told) > 1 and session_of(told, self.path) is None
        return [] if is_missing else passages_of(told, self.path, path)

    @cached_property
    def length(self) -> tuple[float, int]:
        """In s, and its rate in Hz."""
        return audio.read_header(self.path)

    @property
    def talkers(self) -> list[str]:
        """Those with clean tracks, sorted."""
        folder = self.path.with_suffix("")
        return sorted(p.name.removesuffix(DRY) for p in folder.glob(f"*{DRY}"))

    def track_files(self) -> list[Path]:
        """Of all clean tracks, sorted."""
        folder = self.path.with_suffix("")
        return sorted(path for end in (DRY, WET) for path in folder.glob(f"*{end}"))

    def tracks(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """By talker, ``[time]``: dry, and as it is in the recording."""
        dry = {name: self._read(f"{name}{DRY}") for name in self.talkers}
        images = {
            name: track + self._read(f"{name}{WET}")
            if (self.path.with_suffix("") / f"{name}{WET}").is_file()
            else track
            for name, track in dry.items()
        }
        return dry, images

    def _read(self, name: str) -> np.ndarray:
        seconds, rate = self.length
        return read_track(self.path.with_suffix("") / name, seconds, rate)


def read_track(path: Path, seconds: float, rate: int) -> np.ndarray:
    """A track ``[time]`` at a rate, as long as its recording."""
    return audio.read_span(path, 0, round(seconds * rate), rate)


def find_references(data_folder: str | Path, split: str = "test") -> list[Reference]:
    """The recordings with a truth in a folder and below, or in its folder ``split``."""
    folder = Path(data_folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; check --data_folder")
    if any((folder / subset).is_dir() for subset in SUBSETS):
        folder = folder / split
        if not folder.is_dir():
            raise InputError(f"{folder}: no such subset; name another --split")
    found = list(_with_truth(folder))
    if not found:
        raise InputError(
            f"{folder}: no recording with {SEGLST} or {RTTM} of its name beside it; add the truth"
        )
    sessions = [reference.session for reference in found]
    if twice := [name for name in sessions if sessions.count(name) > 1]:
        raise InputError(f"{folder}: two recordings are named {twice[0]}; rename one")
    return found


def _with_truth(folder: Path) -> Iterator[Reference]:
    paths, problems = audio.find_recordings(folder)
    if problems:
        raise InputError(f"{folder}: {problems[0]}")
    for path in paths:
        if any(path.with_suffix(suffix).is_file() for suffix in (SEGLST, RTTM)):
            yield Reference(path.stem, path)
