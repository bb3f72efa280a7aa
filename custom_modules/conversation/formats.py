"""Transcripts as files: one table of what is written, one of what is read.

A new format is one entry of :data:`FORMATS`.
"""

import json
import math
import mimetypes
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote
from xml.etree import ElementTree

from custom_modules.conversation.passages import Passage, speakers_of
from custom_modules.errors import InputError
from custom_modules.files import regular_file
from custom_modules.tabular import write_text

_EAF_SCHEMA = "http://www.mpi.nl/tools/elan/EAFv3.0.xsd"
_MOST_BYTES = 2**28


@dataclass
class Transcript:
    """What is known of a recording: who speaks when, and utterances with their words."""

    session: str
    seconds: float
    passages: list[Passage] = field(default_factory=list)
    utterances: list[Passage] = field(default_factory=list)
    recording: str = ""  # the name of its file

    def said(self) -> list[Passage]:
        """Utterances, or passages without words where nothing was recognised."""
        told = self.utterances or self.passages
        return sorted(told, key=lambda passage: (passage.start, passage.speaker))


def write_transcript(transcript: Transcript, name: str, path: str | Path) -> None:
    """Writes a transcript in one of :data:`FORMATS`, whole or not at all."""
    write_text(path, FORMATS[name].text(transcript))


def write_passages(path: str | Path, sessions: Mapping[str, Iterable[Passage]]) -> None:
    """Passages by session as RTTM or SegLST, by the file's suffix; both hold many sessions."""
    if Path(path).suffix.lower() == ".rttm":
        lines = [_rttm(session, passages) for session, passages in sessions.items()]
        text = "".join(lines)
    else:
        rows = [row for session, told in sessions.items() for row in _seglst(session, told)]
        text = _json(rows)
    write_text(path, text)


def read_passages(path: str | Path) -> dict[str, list[Passage]]:
    """Passages by session of an ``.rttm``, or of SegLST in a ``.json`` or ``.seglst`` file."""
    read = READERS.get(Path(path).suffix.lower())
    if read is None:
        known = ", ".join(READERS)
        raise InputError(f"{path}: who speaks when is read from {known} files")
    try:
        text = regular_file(path, _MOST_BYTES).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text ({error})") from error
    sessions: dict[str, list[Passage]] = {}
    for session, passage in read(str(path), text):
        sessions.setdefault(session, []).append(passage)
    return sessions


def passages_of(
    sessions: Mapping[str, list[Passage]], recording: Path, source: Path, only: bool = True
) -> list[Passage]:
    """Those of a recording in what was read from ``source``; nobody's, if that is empty.

    A single session is taken whatever its name, if the source is of this recording ``only``;
    InputError if it is of others.
    """
    if (name := session_of(sessions, recording)) is not None:
        return sessions[name]
    if (only and len(sessions) < 2) or not sessions:
        return next(iter(sessions.values()), [])
    known = ", ".join([*sessions][:5])
    raise InputError(f"{source}: says nothing of {recording.stem} ({known})")


def session_of(sessions: Mapping[str, Any], recording: Path) -> str | None:
    """The session that is a recording's, by its name."""
    names = recording.stem, session_id(recording.stem), recording.name
    return next((name for name in names if name in sessions), None)


def session_id(name: str) -> str:
    """A session's or speaker's name as RTTM holds it, which parts columns by spaces.

    >>> session_id("ala ma kota")
    'ala_ma_kota'
    """
    return "_".join(name.split()) or "_"


def _seglst(session: str, passages: Iterable[Passage]) -> list[dict[str, Any]]:
    return [
        {
            "session_id": session,
            "speaker": passage.speaker,
            "start_time": round(passage.start, 3),
            "end_time": round(passage.end, 3),
            "words": passage.words,
        }
        for passage in passages
    ]


def _json(rows: list[dict[str, Any]]) -> str:
    lines = ",\n".join(f"  {json.dumps(row, ensure_ascii=False)}" for row in rows)
    return f"[\n{lines}\n]\n" if rows else "[]\n"


def _rttm(session: str, passages: Iterable[Passage]) -> str:
    return "".join(
        f"SPEAKER {session_id(session)} 1 {passage.start:.3f} {passage.end - passage.start:.3f} "
        f"<NA> <NA> {session_id(passage.speaker)} <NA> <NA>\n"
        for passage in passages
    )


def _srt(transcript: Transcript) -> str:
    parts = [
        f"{number}\n{_clock(passage.start)} --> {_clock(passage.end)}\n"
        f"{passage.speaker}: {_line(passage.words)}\n"
        for number, passage in enumerate(transcript.said(), 1)
    ]
    return "\n".join(parts)


def _clock(seconds: float) -> str:
    """As SubRip has it.

    >>> _clock(3661.5)
    '01:01:01,500'
    """
    whole, milliseconds = divmod(round(1000 * seconds), 1000)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02},{milliseconds:03}"


def _line(words: str) -> str:
    return " ".join(words.split())


def _txt(transcript: Transcript) -> str:
    return "".join(
        f"[{_clock(passage.start).partition(',')[0]}] {passage.speaker}: {_line(passage.words)}\n"
        for passage in transcript.said()
    )


def _tiers(transcript: Transcript) -> dict[str, list[tuple[float, float, str]]]:
    """Rows by tier: one for each speaker, and one of words where these have times."""
    told = transcript.said()
    tiers: dict[str, list[tuple[float, float, str]]] = {}
    for who in speakers_of(told):
        mine = [passage for passage in told if passage.speaker == who]
        tiers[who] = [(p.start, p.end, _line(p.words)) for p in mine]
    for who in [*tiers]:
        timed = [word for p in told if p.speaker == who for word in p.timed]
        if timed:
            name = f"{who} words"
            while name in tiers:  # a speaker's, perhaps
                name += "_"
            tiers[name] = [(word.start, word.end, word.text) for word in timed]
    return tiers


def _milliseconds(rows: list[tuple[float, float, str]]) -> list[tuple[int, int, str]]:
    """Rows that neither meet nor are empty once they are rounded."""
    rounded: list[tuple[int, int, str]] = []
    for start, end, text in sorted(rows):
        first = max(round(1000 * start), rounded[-1][1] if rounded else 0)
        rounded.append((first, max(round(1000 * end), first + 1), text))
    return rounded


def _eaf(transcript: Transcript) -> str:
    """ELAN's annotation format, version 3: a tier for each speaker."""
    namespace = {"xmlns:xsi": "http://www.w3.org/2001/XMLSchema-instance"}
    schema = {"xsi:noNamespaceSchemaLocation": _EAF_SCHEMA}
    root = ElementTree.Element(
        "ANNOTATION_DOCUMENT",
        # A rerun writes the same file, so that the date is nobody's.
        namespace
        | schema
        | {"AUTHOR": "", "DATE": "2000-01-01T00:00:00+00:00", "FORMAT": "3.0", "VERSION": "3.0"},
    )
    header = ElementTree.SubElement(
        root, "HEADER", {"MEDIA_FILE": "", "TIME_UNITS": "milliseconds"}
    )
    if transcript.recording:
        mime = mimetypes.guess_type(transcript.recording)[0] or "audio/x-wav"
        media = {"MEDIA_URL": quote(f"./{transcript.recording}"), "MIME_TYPE": mime}
        ElementTree.SubElement(header, "MEDIA_DESCRIPTOR", media)
    order = ElementTree.SubElement(root, "TIME_ORDER")
    slots = annotations = 0
    for name, rows in _tiers(transcript).items():
        attributes = {"TIER_ID": name, "LINGUISTIC_TYPE_REF": "default-lt"}
        if not name.endswith(" words"):
            attributes["PARTICIPANT"] = name
        tier = ElementTree.SubElement(root, "TIER", attributes)
        for start, end, text in _milliseconds(rows):
            for place in (start, end):
                slots += 1
                slot = {"TIME_SLOT_ID": f"ts{slots}", "TIME_VALUE": str(place)}
                ElementTree.SubElement(order, "TIME_SLOT", slot)
            annotations += 1
            named = {"ANNOTATION_ID": f"a{annotations}"}
            times = {"TIME_SLOT_REF1": f"ts{slots - 1}", "TIME_SLOT_REF2": f"ts{slots}"}
            annotation = ElementTree.SubElement(tier, "ANNOTATION")
            aligned = ElementTree.SubElement(annotation, "ALIGNABLE_ANNOTATION", named | times)
            ElementTree.SubElement(aligned, "ANNOTATION_VALUE").text = _printable(text)
    kind = {"LINGUISTIC_TYPE_ID": "default-lt", "TIME_ALIGNABLE": "true"}
    ElementTree.SubElement(root, "LINGUISTIC_TYPE", kind | {"GRAPHIC_REFERENCES": "false"})
    ElementTree.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(root, "unicode")}\n'


def _printable(text: str) -> str:
    """Without what XML cannot hold."""
    return "".join(x for x in text if x >= " " and not 0xD800 <= ord(x) <= 0xDFFF)


def _textgrid(transcript: Transcript) -> str:
    """Praat's long text format: interval tiers without gaps."""
    tiers = {name: _milliseconds(rows) for name, rows in _tiers(transcript).items()}
    last = max([round(1000 * transcript.seconds), *(rows[-1][1] for rows in tiers.values())])
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', ""]
    lines += ["xmin = 0", f"xmax = {last / 1000}", "tiers? <exists>", f"size = {len(tiers)}"]
    lines += ["item []:"]
    for number, (name, rows) in enumerate(tiers.items(), 1):
        intervals = _without_gaps(rows, last)
        lines += [f"    item [{number}]:", '        class = "IntervalTier"']
        lines += [f"        name = {_quoted(name)}", "        xmin = 0"]
        lines += [f"        xmax = {last / 1000}", f"        intervals: size = {len(intervals)}"]
        for index, (start, end, text) in enumerate(intervals, 1):
            lines += [f"        intervals [{index}]:", f"            xmin = {start / 1000}"]
            lines += [f"            xmax = {end / 1000}", f"            text = {_quoted(text)}"]
    return "\n".join(lines) + "\n"


def _without_gaps(rows: list[tuple[int, int, str]], last: int) -> list[tuple[int, int, str]]:
    intervals, place = [], 0
    for start, end, text in rows:
        if start > place:
            intervals.append((place, start, ""))
        intervals.append((start, end, text))
        place = end
    return [*intervals, (place, last, "")] if place < last else intervals


def _quoted(text: str) -> str:
    doubled = text.replace('"', '""')
    return f'"{doubled}"'


class Format(NamedTuple):
    """How a transcript becomes the text of a file."""

    suffix: str
    text: Callable[[Transcript], str]


#: What is written: ``--formats``.
FORMATS: dict[str, Format] = {
    "seglst": Format(".seglst.json", lambda told: _json(_seglst(told.session, told.said()))),
    "rttm": Format(".rttm", lambda told: _rttm(told.session, told.passages)),
    "srt": Format(".srt", _srt),
    "eaf": Format(".eaf", _eaf),
    "textgrid": Format(".TextGrid", _textgrid),
    "txt": Format(".txt", _txt),
}


def _read_rttm(path: str, text: str) -> Iterable[tuple[str, Passage]]:
    for number, line in enumerate(text.splitlines(), 1):
        cells = line.split()
        if not cells or cells[0].startswith((";", "#")) or cells[0] != "SPEAKER":
            continue
        place = f"{path}, line {number}"
        if len(cells) < 8:
            raise InputError(f"{place}: {len(cells)} columns; RTTM has 8 or more")
        start, seconds = (_seconds(cell, place) for cell in cells[3:5])
        yield cells[1], _passage(cells[7], start, start + seconds, "", place)


def _read_seglst(path: str, text: str) -> Iterable[tuple[str, Passage]]:
    try:
        rows = json.loads(text)
    except (RecursionError, ValueError) as error:
        raise InputError(f"{path}: is not JSON ({error})") from error
    if not isinstance(rows, list):
        raise InputError(f"{path}: is not SegLST, a list of segments")
    for number, row in enumerate(rows, 1):
        place = f"{path}, segment {number}"
        needed = {"speaker", "start_time", "end_time"}
        if not isinstance(row, dict) or (missing := needed - row.keys()):
            lacks = ", ".join(sorted(missing)) if isinstance(row, dict) else "everything"
            raise InputError(f"{place}: lacks {lacks}")
        start, end = (_seconds(row[key], place) for key in ("start_time", "end_time"))
        words = str(row.get("words") or "")
        yield (
            str(row.get("session_id", "")),
            _passage(str(row["speaker"]), start, end, words, place),
        )


def _seconds(value: object, place: str) -> float:
    try:
        seconds = float(str(value))
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise InputError(f"{place}: {value!s:.40} is no time in seconds from 0 on")
    return seconds


def _passage(speaker: str, start: float, end: float, words: str, place: str) -> Passage:
    if end < start:
        raise InputError(f"{place}: ends before it begins, {end:g} s before {start:g} s")
    if _printable(speaker) != speaker:
        raise InputError(f"{place}: the speaker's name {speaker!r:.40} cannot be printed")
    return Passage(speaker, start, end, words.encode(errors="replace").decode())


#: What is read, by suffix.
READERS: dict[str, Callable[[str, str], Iterable[tuple[str, Passage]]]] = {
    ".rttm": _read_rttm,
    ".json": _read_seglst,
    ".seglst": _read_seglst,
}
