"""Word errors as meeteval counts them, of texts that the rules made alike.

One stream against all texts is ORC-WER: all go to the stream, one after the other. Two
streams are cpWER: each is one speaker's, whichever fits best (von Neumann et al. 2023,
"MeetEval").
"""

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from custom_modules.recognition.packages import imported
from custom_modules.recognition.text import normalise
from custom_modules.tabular import write_text


class WordErrors(NamedTuple):
    """Counts of one session; summed over sessions, and then divided."""

    errors: int
    length: int  # words of the reference
    insertions: int
    deletions: int
    substitutions: int


#: Speaker or stream → text, of one session.
Texts = Sequence[str]


def texts_of(entry: dict, task: str) -> list[str] | None:
    """What is said in a mixture's targets, None if it is not known of all."""
    keys = ("text1",) if task == "ES" else ("text1", "text2")
    texts = [entry.get(key) for key in keys]
    return None if None in texts else [str(x) for x in texts]


def segments(
    session: str, texts: Texts, seconds: float, order: Sequence[int] | None = None
) -> list[dict[str, Any]]:
    """A session's texts in SegLST: one for each speaker or stream, also an empty one.

    ``words`` are what is counted, ``text`` is as it was written or heard. They are listed
    in the order of the speakers, or in another.
    """
    listed = [
        {
            "session_id": session,
            "speaker": str(number),
            "start_time": 0.0,
            "end_time": seconds,
            "words": normalise(text),
            "text": text,
        }
        for number, text in enumerate(texts, start=1)
    ]
    return listed if order is None else [listed[place] for place in order]


def count_sessions(
    references: Iterable[dict[str, Any]], hypotheses: Iterable[dict[str, Any]]
) -> dict[str, WordErrors]:
    """Session → its errors: ORC-WER of one stream, cpWER of several.

    Both in SegLST, of the same sessions.
    """
    meeteval = imported("meeteval")
    by_count: dict[bool, tuple[list, list]] = {True: ([], []), False: ([], [])}
    spoken, heard = _by_session(references), _by_session(hypotheses)
    for session, streams in heard.items():
        reference, hypothesis = by_count[len(streams) == 1]
        reference += spoken[session]
        hypothesis += streams
    counts: dict[str, WordErrors] = {}
    for one_stream, (reference, hypothesis) in by_count.items():
        if reference:
            rate = meeteval.wer.orcwer if one_stream else meeteval.wer.cpwer
            of_sessions = rate(*map(meeteval.io.SegLST, (reference, hypothesis)))
            counts |= {session: _counts(found) for session, found in of_sessions.items()}
    return {session: counts[session] for session in heard}


def count_errors(references: Texts, hypotheses: Texts) -> WordErrors:
    """The errors of one session's texts: ORC-WER of one stream, cpWER of several.

    >>> count_errors(["Ala ma kota.", "Dwa psy"], ["2 psy", "ala ma kota"]).errors
    0
    >>> count_errors(["Ala ma kota.", "Dwa psy"], ["ala ma kota 2 psy"]).errors
    0
    >>> count_errors(["Ala ma kota.", "Dwa psy"], ["ala ma kota 2 psy", ""])
    WordErrors(errors=4, length=5, insertions=2, deletions=2, substitutions=0)
    """
    sides = (segments("x", texts, 1.0) for texts in (references, hypotheses))
    return count_sessions(*sides)["x"]


def best_order(references: Texts, streams: Texts) -> list[int]:
    """In which order texts that were said at once make fewest errors of each single stream.

    ORC-WER takes them in the order of their starts; as listed, where these are alike.

    >>> best_order(["dwa psy", "ala ma kota"], ["ala kota dwa psy"])
    [1, 0]
    """
    orders = itertools.permutations(range(len(references)))

    def errors_in(order: Sequence[int]) -> int:
        listed = [references[place] for place in order]
        return sum(count_errors(listed, [stream]).errors for stream in streams)

    return [*min(orders, key=errors_in)]


def _by_session(parts: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    sessions: dict[str, list[dict[str, Any]]] = {}
    for part in parts:
        sessions.setdefault(part["session_id"], []).append(part)
    return sessions


def _counts(found: Any) -> WordErrors:
    return WordErrors(*(int(getattr(found, name)) for name in WordErrors._fields))


def write_seglst(path: str | Path, parts: Sequence[Mapping[str, Any]]) -> None:
    """Writes segments as meeteval reads them, one a line."""
    lines = ",\n".join(json.dumps(part, ensure_ascii=False) for part in parts)
    write_text(path, f"[\n{lines}\n]\n")
