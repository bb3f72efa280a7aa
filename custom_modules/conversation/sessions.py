"""A list of recordings through the chain: outputs, reruns, failures and a report.

Start reading at :meth:`Sessions.transcribe_all`.
"""

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from custom_modules import audio
from custom_modules.conversation.chain import Chain, Conversation
from custom_modules.conversation.formats import (
    FORMATS,
    Transcript,
    passages_of,
    read_passages,
    write_transcript,
)
from custom_modules.conversation.passages import Passage
from custom_modules.conversation.resuming import abandoned_if_empty, remove_work
from custom_modules.conversation.samples import Samples
from custom_modules.conversation.timelines import plot_timeline
from custom_modules.conversation.tracks import write_wav
from custom_modules.errors import InputError
from custom_modules.files import lock, regular_file
from custom_modules.recognition.interface import Word
from custom_modules.recordings.jobs import Recording, comment_of
from custom_modules.tabular import read_record, write_record

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
        work = _work_of(recording)
        with lock(work, wait=True, beside=True):
            given = self._diarization(recording, only)
            content = _digest(recording.path)
            key, made_of = self._key(content, given), _made_of(recording, content)
            record = _read_record(recording)
            if record.get("key") == key:
                told = self._complete(recording, record)
                if told is not None:
                    return told, True
            if not self.overwrite:
                self._check_replaceable(recording, record, made_of)
            with abandoned_if_empty(work):
                conversation = self.chain(
                    recording.path, None, given, folder=work, session=recording.stem.name, key=key
                )
            lines = [_summary(recording, conversation)]
            lines += [f"{recording.path}: {note}" for note in conversation.notes]
            left = record.get("left", {}) | record.get("made", {})
            left |= dict.fromkeys((path.name for path in self._texts(recording).values()), "")
            left |= {_beside(recording, ".png").name: ""} if self.plot else {}
            record = _record_of(conversation, lines) | {"key": key, **made_of, "left": left}
            _write_record(recording, record)  # killed from here on, the files are known as ours
            _write_record(recording, record | self._write(recording, conversation, key))
            remove_work(work)
            return lines, False

    def _key(self, content: str, given: list[Passage] | None) -> str:
        """Of all that the outputs depend on."""
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
        return passages_of(read_passages(path), recording.path, path, only)

    def _texts(self, recording: Recording) -> dict[str, Path]:
        return {name: _beside(recording, FORMATS[name].suffix) for name in self.formats}

    def _complete(self, recording: Recording, record: dict[str, Any]) -> list[str] | None:
        """Writes formats that were not asked for before; None if more is missing."""
        if "made" not in record:  # killed on the way
            return None
        made, folder = record["made"], recording.stem.parent
        wanted = [*(record["tracks"] if self.keep_tracks else ())]
        wanted += [_beside(recording, ".png").name] if self.plot else []
        if not all(name in made and (folder / name).exists() for name in wanted):
            return None
        texts = self._texts(recording).items()
        missing = [(x, path) for x, path in texts if not (path.exists() and path.name in made)]
        if missing:
            if not self.overwrite:
                _check_ours((path for _, path in missing), record["left"] | made)
            for name, path in missing:
                write_transcript(_transcript(recording, record), name, path)
                made[path.name] = _digest(path)
            _write_record(recording, record | {"made": made})
        return [f"{line} (finished before)" for line in record["lines"][:1]]

    def _check_replaceable(
        self, recording: Recording, record: dict[str, Any], made_of: dict[str, str]
    ) -> None:
        """Refuses to replace what is not of this recording, was not made here, or was changed."""
        if record.keys() >= made_of.keys() and not made_of.items() & record.items():
            raise InputError(
                f"{_beside(recording, RECORD)} is of another recording; choose another "
                "--output_folder, or replace it with --overwrite"
            )
        outputs = [*self._texts(recording).values()]
        outputs += [_beside(recording, ".png")] if self.plot else []
        _check_ours(outputs, record.get("left", {}) | record.get("made", {}))
        tracks = _beside(recording, "_tracks").glob("*.wav") if self.keep_tracks else ()
        if strange := next((path for path in sorted(tracks) if not is_track(path)), None):
            raise InputError(_not_ours(strange))

    def _write(self, recording: Recording, made: Conversation, key: str) -> dict[str, Any]:
        """All outputs; the names of tracks, and of all files, relative to the record."""
        written: dict[str, str] = {}
        for name, path in self._texts(recording).items():
            write_transcript(made.transcript(recording.path.name), name, path)
            written[path.name] = _digest(path)
        if self.plot:
            signal = Samples(_work_of(recording) / "recording.f32", made.rate, made.length)
            picture = _beside(recording, ".png")
            plot_timeline(made, signal, picture)
            written[picture.name] = ""
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
            written |= dict.fromkeys(names, "")
        return {"tracks": names, "made": written}


def _check_ours(paths: Iterable[Path], made: Mapping[str, str]) -> None:
    """Refuses what is not among files that were ``made``, or is a text that has changed since."""
    for path in paths:
        if path.exists() and path.stat().st_size:
            if path.name not in made:
                raise InputError(_not_ours(path))
            if made[path.name] not in ("", _digest(path)):
                raise InputError(
                    f"{path} was changed since it was made; move it away, or replace it with "
                    "--overwrite"
                )


def _not_ours(path: Path) -> str:
    return (
        f"{path} is there, and nothing says that transcribe.py made it; move it away, or replace "
        "it with --overwrite"
    )


def _digest(path: Path) -> str:
    with open(regular_file(path), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _made_of(recording: Recording, content: str) -> dict[str, str]:
    """What a record says of its recording: its content, and where it was."""
    place = os.fsencode(os.path.realpath(recording.path))
    return {"recording": content[:12], "place": hashlib.sha256(place).hexdigest()[:12]}


def _work_of(recording: Recording) -> Path:
    """A folder for what a killed run goes on from."""
    return recording.stem.with_name(f".{recording.stem.name}.work")


def is_track(path: Path) -> bool:
    """Whether a file was written here, as its comment says, and is no recording to read."""
    return comment_of(path).startswith(MADE_HERE)


def _beside(recording: Recording, end: str) -> Path:
    return recording.stem.with_name(f"{recording.stem.name}{end}")


def _file_names(speakers: Sequence[str] | dict[str, Any]) -> list[str]:
    """Speakers as names of files, all different."""
    names: list[str] = []
    for who in speakers:
        plain = "".join(x if x.isalnum() or x in "-_. " else "_" for x in who)
        plain = plain.encode()[:100].decode(errors="ignore").strip(" .") or "_"
        while plain in names:
            plain += "_"
        names.append(plain)
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
        record = read_record(_beside(recording, RECORD))
    except InputError:  # not there, or damaged
        return {}
    if "kept" in record and "made" not in record:  # of an earlier version
        names = [*(form.suffix for form in FORMATS.values()), ".png"]
        there = [path for path in (_beside(recording, name) for name in names) if path.exists()]
        made = [*(path.name for path in there), *(record["tracks"] if record["kept"] else ())]
        record |= {"made": dict.fromkeys(made, ""), "left": {}}
    return record


def _record_of(made: Conversation, lines: list[str]) -> dict[str, Any]:
    return {
        "lines": lines,
        "seconds": {name: round(value, 2) for name, value in made.seconds.items()},
        "length": made.length / made.rate,
        "tracks": [],
        "passages": [asdict(passage) for passage in made.passages],
        "utterances": [asdict(passage) for passage in made.utterances],
    }


def _write_record(recording: Recording, record: dict[str, Any]) -> None:
    write_record(record, _beside(recording, RECORD))


def _transcript(recording: Recording, record: dict[str, Any]) -> Transcript:
    passages, utterances = ([*map(_passage, record[name])] for name in ("passages", "utterances"))
    name = recording.path.name
    return Transcript(recording.stem.name, record["length"], passages, utterances, name)


def _passage(row: dict[str, Any]) -> Passage:
    timed = tuple(Word(*word) for word in row.pop("timed"))
    return Passage(**row, timed=timed)
