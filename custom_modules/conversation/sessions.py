"""A list of recordings through the chain: outputs, reruns, failures and a report.

Start reading at :meth:`Sessions.transcribe_all`.
"""

import hashlib
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import soundfile as sf

from custom_modules import audio
from custom_modules.conversation.chain import Chain, Conversation
from custom_modules.conversation.formats import (
    FORMATS,
    Transcript,
    read_passages,
    session_id,
    write_transcript,
)
from custom_modules.conversation.passages import Passage
from custom_modules.conversation.resuming import abandoned_if_empty
from custom_modules.conversation.samples import Samples
from custom_modules.conversation.timelines import plot_timeline
from custom_modules.conversation.tracks import write_wav
from custom_modules.errors import InputError
from custom_modules.files import atomic_path, lock, regular_file
from custom_modules.recognition.interface import Word
from custom_modules.recordings.jobs import Recording

#: How the comments of tracks begin, and the end of the file that says what was made.
MADE_HERE, RECORD = "transcribe.py ", ".transcribed.json"
#: Raise it when the same recording would come out otherwise.
_VERSION = 1


@dataclass
class Sessions:
    """Transcribes recordings one after the other in the same way."""

    chain: Chain
    settings: str  # of the models and options: all that outputs depend on but the inputs
    formats: Sequence[str] = tuple(FORMATS)
    diarization: Path | None = None  # a file, or a folder with one for each recording
    keep_tracks: bool = True
    plot: bool = True
    overwrite: bool = False  # also what was not made here

    def transcribe_all(self, recordings: Sequence[Recording]) -> int:
        """Transcribes, prints a line for each, and counts what failed."""
        failures, skipped = [], 0
        for recording in recordings:
            try:
                told, was_finished = self._transcribe(recording, len(recordings) == 1)
            except (InputError, OSError) as error:  # of a file; a bug ends the run
                name, reason = str(recording.path), str(error)
                failures.append(reason if name in reason else f"{name}: {reason}")
                continue
            skipped += was_finished
            for line in told:
                print(line, flush=True)
        done = len(recordings) - skipped - len(failures)
        print(f"{done} transcribed, {skipped} finished before, {len(failures)} failed")
        for failure in failures:
            print(f"failed: {failure}", file=sys.stderr)
        return len(failures)

    def _transcribe(self, recording: Recording, only: bool) -> tuple[list[str], bool]:
        """The lines to print, and whether nothing was left to do."""
        work = _beside(recording, ".work")
        with lock(work, wait=True, beside=True):
            given = self._diarization(recording, only)
            key = self._key(recording, given)
            record = _read_record(recording)
            texts = {name: _beside(recording, FORMATS[name].suffix) for name in self.formats}
            if record.get("key") == key:
                told = self._complete(recording, record, texts)
                if told is not None:
                    return told, True
            self._check_replaceable(recording, record, texts)
            with abandoned_if_empty(work):
                conversation = self.chain(
                    recording.path, None, given, folder=work, session=recording.stem.name, key=key
                )
            tracks = self._write(recording, conversation, texts, key)
            lines = [_summary(recording, conversation)]
            lines += [f"{recording.path}: {note}" for note in conversation.notes]
            _write_record(recording, conversation, key, lines, tracks, self.keep_tracks)
            shutil.rmtree(work)
            return lines, False

    def _key(self, recording: Recording, given: list[Passage] | None) -> str:
        """Of all that the outputs depend on."""
        with open(regular_file(recording.path), "rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        told = None if given is None else [(p.speaker, p.start, p.end) for p in given]
        parts = [_VERSION, self.settings, content, told]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]

    def _diarization(self, recording: Recording, only: bool) -> list[Passage] | None:
        """Who speaks when, as the user's file for this recording says."""
        if self.diarization is None:
            return None
        path, stem = self.diarization, recording.path.stem
        if path.is_dir():
            ends = (".rttm", ".seglst.json", ".json", ".seglst")
            found = [path / f"{stem}{end}" for end in ends if (path / f"{stem}{end}").exists()]
            if not found:
                raise InputError(f"{path}: holds no {stem}.rttm or {stem}.json")
            path, only = found[0], True
        sessions = read_passages(path)
        for name in (stem, session_id(stem), recording.path.name):
            if name in sessions:
                return sessions[name]
        if only and len(sessions) == 1:
            return next(iter(sessions.values()))
        known = ", ".join(list(sessions)[:5]) or "nobody speaks in it"
        raise InputError(f"{path}: says nothing of {stem} ({known})")

    def _complete(
        self, recording: Recording, record: dict[str, Any], texts: dict[str, Path]
    ) -> list[str] | None:
        """Writes formats that were not asked for before; None if more is missing."""
        tracks = [recording.stem.parent / name for name in record["tracks"]]
        wanted = [*(tracks if self.keep_tracks else ())]
        wanted += [_beside(recording, ".png")] if self.plot else []
        if not all(path.exists() for path in wanted) or (self.keep_tracks and not record["kept"]):
            return None
        for name, path in texts.items():
            if not path.exists():
                write_transcript(_transcript(recording, record), name, path)
        return [f"{line} (finished before)" for line in record["lines"][:1]]

    def _check_replaceable(
        self, recording: Recording, record: dict[str, Any], texts: dict[str, Path]
    ) -> None:
        """Refuses to replace what no record says that it was made here."""
        outputs = [*texts.values(), _beside(recording, ".png")]
        there = [path for path in outputs if path.exists() and path.stat().st_size]
        if there and not record and not self.overwrite:
            raise InputError(
                f"{there[0]} is there, and no {RECORD[1:]} says that transcribe.py made it; move "
                "it away, or replace it with --overwrite"
            )

    def _write(
        self, recording: Recording, made: Conversation, texts: dict[str, Path], key: str
    ) -> list[str]:
        """All outputs; the names of the tracks, relative to the record."""
        for name, path in texts.items():
            write_transcript(made.transcript(recording.path.name), name, path)
        if self.plot:
            signal = Samples(_beside(recording, ".work") / "recording.f32", made.rate, made.length)
            plot_timeline(made, signal, _beside(recording, ".png"))
        folder = _beside(recording, "_tracks")
        names = [f"{folder.name}/{name}.wav" for name in _file_names(made.tracks)]
        if self.keep_tracks:
            with audio.open_audio(recording.path) as opened:
                subtype = opened.subtype if opened.subtype in audio.WAV_BYTES else "PCM_16"
            for name, track in zip(names, made.tracks.values(), strict=True):
                write_wav(track, recording.stem.parent / name, subtype, f"{MADE_HERE}{key}")
            for left in folder.glob("*.wav"):
                if f"{folder.name}/{left.name}" not in names and is_track(left):
                    left.unlink()
        return names


def is_track(path: Path) -> bool:
    """Whether a file was written here, as its comment says, and is no recording to read."""
    try:
        with sf.SoundFile(path) as sound:
            return bool(sound.comment.startswith(MADE_HERE))
    except (OSError, sf.SoundFileError):
        return False


def _beside(recording: Recording, end: str) -> Path:
    return recording.stem.with_name(f"{recording.stem.name}{end}")


def _file_names(speakers: Sequence[str] | dict[str, Any]) -> list[str]:
    """Speakers as names of files, all different."""
    names: list[str] = []
    for who in speakers:
        plain = "".join(x if x.isalnum() or x in "-_. " else "_" for x in who).strip(" .") or "_"
        while plain in names:
            plain += "_"
        names.append(plain[:100])
    return names


def _summary(recording: Recording, made: Conversation) -> str:
    """The line of a recording."""
    overlap = sum(end - start for start, end in made.overlaps)
    words = sum(len(said.words.split()) for said in made.utterances)
    count = len(made.tracks)
    return (
        f"{recording.path}: {count} speaker{'s' * (count != 1)}, {overlap:.1f} s of overlap, "
        f"{words} words"
    )


def _read_record(recording: Recording) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(_beside(recording, RECORD).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return record


def _write_record(
    recording: Recording,
    made: Conversation,
    key: str,
    lines: list[str],
    tracks: list[str],
    kept: bool,
) -> None:
    record = {
        "key": key,
        "lines": lines,
        "seconds": {name: round(value, 2) for name, value in made.seconds.items()},
        "length": made.length / made.rate,
        "tracks": tracks,
        "kept": kept,
        "passages": [asdict(passage) for passage in made.passages],
        "utterances": [asdict(passage) for passage in made.utterances],
    }
    with atomic_path(_beside(recording, RECORD)) as partial:
        partial.write_text(json.dumps(record, ensure_ascii=False, indent=1), encoding="utf-8")


def _transcript(recording: Recording, record: dict[str, Any]) -> Transcript:
    passages, utterances = ([*map(_passage, record[name])] for name in ("passages", "utterances"))
    name = recording.path.name
    return Transcript(recording.stem.name, record["length"], passages, utterances, name)


def _passage(row: dict[str, Any]) -> Passage:
    timed = tuple(Word(*word) for word in row.pop("timed"))
    return Passage(**row, timed=timed)
