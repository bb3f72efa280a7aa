"""Who speaks when: passages, and what follows from them about every moment.

Times are in seconds where a user sees them, in samples where signals are cut.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from custom_modules.recognition.interface import Word

#: A stretch of time, from its first moment to behind its last.
Span = tuple[float, float]


@dataclass(frozen=True)
class Passage:
    """What one speaker says from ``start`` to ``end``, s; ``timed`` where words have times."""

    speaker: str
    start: float
    end: float
    words: str = ""
    timed: tuple[Word, ...] = ()


class Atom(NamedTuple):
    """The longest stretch, in samples, in which the same people speak."""

    start: int
    stop: int
    speakers: tuple[str, ...]  # sorted


def speakers_of(passages: Iterable[Passage]) -> list[str]:
    """All speakers, in the order of their first words.

    >>> speakers_of([Passage("b", 3, 4), Passage("a", 5, 6), Passage("b", 1, 2)])
    ['b', 'a']
    """
    ordered = sorted(passages, key=lambda passage: (passage.start, passage.speaker))
    return list(dict.fromkeys(passage.speaker for passage in ordered))


def merge(spans: Iterable[Span], gap: float = 0.0) -> list[Span]:
    """Disjoint spans in order; what is not further apart than ``gap`` is joined.

    >>> merge([(3, 4), (0, 1), (0.5, 2)])
    [(0, 2), (3, 4)]
    """
    joined: list[Span] = []
    for start, end in sorted(span for span in spans if span[1] > span[0]):
        if joined and start <= joined[-1][1] + gap:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def intersect(first: Iterable[Span], second: Iterable[Span]) -> list[Span]:
    """Where both are, disjoint and in order.

    >>> intersect([(0, 2), (3, 5)], [(1, 4)])
    [(1, 2), (3, 4)]
    """
    mine, theirs, shared = merge(first), merge(second), []
    i = j = 0
    while i < len(mine) and j < len(theirs):
        start, end = max(mine[i][0], theirs[j][0]), min(mine[i][1], theirs[j][1])
        if start < end:
            shared.append((start, end))
        if mine[i][1] < theirs[j][1]:
            i += 1
        else:
            j += 1
    return shared


def tidy(passages: Iterable[Passage], gap: float = 0.0) -> list[Passage]:
    """Passages without words, each speaker's disjoint, sorted by time.

    >>> tidy([Passage("a", 0, 2), Passage("a", 1, 3)])
    [Passage(speaker='a', start=0, end=3, words='', timed=())]
    """
    spans: dict[str, list[Span]] = {}
    for passage in passages:
        spans.setdefault(passage.speaker, []).append((passage.start, passage.end))
    joined = [Passage(who, *span) for who, mine in spans.items() for span in merge(mine, gap)]
    return sorted(joined, key=lambda passage: (passage.start, passage.speaker))


def atoms(passages: Sequence[Passage], rate: int, length: int) -> list[Atom]:
    """Cuts a recording of so many samples wherever somebody begins or ends.

    >>> atoms([Passage("a", 0, 2), Passage("b", 1, 3)], rate=10, length=40)[1]
    Atom(start=10, stop=20, speakers=('a', 'b'))
    """
    changes: dict[int, list[tuple[str, int]]] = {0: [], length: []}
    for passage in tidy(passages):
        start, stop = (
            min(max(round(second * rate), 0), length) for second in (passage.start, passage.end)
        )
        if start < stop:
            changes.setdefault(start, []).append((passage.speaker, 1))
            changes.setdefault(stop, []).append((passage.speaker, -1))
    counts: dict[str, int] = {}
    found: list[Atom] = []
    places = sorted(changes)
    for start, stop in pairwise(places):
        for speaker, change in changes[start]:
            counts[speaker] = counts.get(speaker, 0) + change
        active = tuple(sorted(who for who, count in counts.items() if count))
        if found and found[-1].speakers == active:
            found[-1] = found[-1]._replace(stop=stop)
        elif start < stop:
            found.append(Atom(start, stop, active))
    return found


def overlap_spans(passages: Sequence[Passage]) -> list[Span]:
    """Where two or more speak, s.

    >>> overlap_spans([Passage("a", 0, 2), Passage("b", 1, 3)])
    [(1, 2)]
    """
    spoken: list[Span] = []
    shared: list[Span] = []
    for who in speakers_of(passages):
        mine = [(passage.start, passage.end) for passage in passages if passage.speaker == who]
        shared += intersect(mine, spoken)
        spoken = merge([*spoken, *mine])
    return merge(shared)
