"""Who speaks when, from a separator, a detector of speech and a voice embedding.

The whole recording was separated: where both outputs are active, two speak. Start reading
at :func:`diarize`.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from custom_modules.conversation.activity import Detector
from custom_modules.conversation.identity import Embedding, centroids, cluster
from custom_modules.conversation.passages import Passage, Span, tidy
from custom_modules.conversation.samples import Samples

_FRAME_SECONDS = 0.02
#: An output so far below the louder one holds what leaks from it, dB.
_LEAKAGE_DB = 12.0
#: Levels are compared over so many frames.
_SMOOTHING = 11
#: Passages are cut into pieces of about this length, to find changes of speakers, s.
_PIECE_SECONDS = 2.0
#: Pieces from so long on say whose voices there are; shorter ones only whose they are, s.
_TELLING_SECONDS = 0.8
#: Shorter overlaps and turns are errors of measuring, s.
_LEAST_SECONDS = 0.15
#: The mixture's activity counts so much around it, s.
_MARGIN = 0.1


class Piece(NamedTuple):
    """A stretch of one output in which one voice speaks, s."""

    start: float
    end: float
    output: int
    alone: bool  # the other outputs are silent


def diarize(
    recording: Samples,
    sources: Sequence[Samples],
    detector: Detector,
    embedding: Embedding,
    number: int | None = None,
) -> list[Passage]:
    """Who speaks when in a recording, given its ``sources``, at any rate.

    Speakers are named ``spk1``, ``spk2``, … in the order in which they begin. Two may speak
    at a time, more in all; ``number`` is how many, else voices' distances decide.
    """
    heard = detector(recording.blocks(), recording.rate)
    if not heard:
        return []
    spans = [detector(source.blocks(), source.rate) for source in sources]
    active = _active(sources, spans, heard)
    pieces = [*_pieces(active)]
    if not pieces:
        return []
    vectors = np.stack([_voice(piece, recording, sources, embedding) for piece in pieces])
    labels = _label(pieces, vectors, number, embedding.threshold)
    passages = tidy(
        (
            Passage(f"spk{label + 1}", piece.start, piece.end)
            for piece, label in zip(pieces, labels, strict=True)
        ),
        gap=1e-6,
    )
    return _renamed([p for p in passages if p.end - p.start >= _LEAST_SECONDS])


def _active(
    sources: Sequence[Samples], spans: Sequence[Sequence[Span]], heard: Sequence[Span]
) -> np.ndarray:
    """Which outputs are active, ``[outputs, frames]``, where the mixture is.

    Leakage is not; where somebody speaks and no output is active, the loudest is.
    """
    levels = _levels(sources)
    frames = levels.shape[1]
    active = np.stack([_mask(found, frames) for found in spans])
    loudest = np.max(np.where(active, levels, -np.inf), axis=0, initial=-np.inf)
    active &= levels > loudest - _LEAKAGE_DB
    mixture = _mask(heard, frames)
    unheard = mixture & ~active.any(0)
    active[levels.argmax(0), np.arange(frames)] |= unheard
    widened = _mask([(start - _MARGIN, end + _MARGIN) for start, end in heard], frames)
    return _without_flicker(active & widened)


def _levels(sources: Sequence[Samples]) -> np.ndarray:
    """Smoothed levels in dB, ``[outputs, frames]``."""
    rows = []
    for source in sources:
        size = round(_FRAME_SECONDS * source.rate)
        power = []
        for block in source.blocks(size=size * 2**14):
            padded = np.pad(block, (0, -len(block) % size)).astype("float64")
            power.append(np.square(padded.reshape(-1, size)).mean(1))
        rows.append(np.convolve(np.concatenate(power), np.ones(_SMOOTHING) / _SMOOTHING, "same"))
    fewest = min(map(len, rows))
    return 10 * np.log10(np.stack([row[:fewest] for row in rows]) + 1e-12)


def _mask(spans: Sequence[Span], frames: int) -> np.ndarray:
    mask = np.zeros(frames, bool)
    for start, end in spans:
        mask[max(0, round(start / _FRAME_SECONDS)) : max(0, round(end / _FRAME_SECONDS))] = True
    return mask


def _without_flicker(active: np.ndarray) -> np.ndarray:
    """An output that joins or leaves for a moment does not, where another one is active."""
    least = round(_LEAST_SECONDS / _FRAME_SECONDS)
    calm = active.copy()
    for output, row in enumerate(calm):
        elsewhere = np.any(np.delete(active, output, axis=0), axis=0, keepdims=True)[0]
        for start, stop in _runs(row):
            if stop - start < least and elsewhere[start:stop].all():
                row[start:stop] = False
        for start, stop in _runs(~row):
            if stop - start < least and start > 0 and stop < len(row):
                row[start:stop] = True
    return calm


def _runs(mask: np.ndarray) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(int)))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def _pieces(active: np.ndarray) -> Iterator[Piece]:
    """Passages of all outputs, cut where another one joins or leaves, and when long."""
    together = active.sum(0) > 1
    changes = np.flatnonzero(np.diff(together.astype(int))) + 1
    longest = round(_PIECE_SECONDS / _FRAME_SECONDS)
    for output, row in enumerate(active):
        for start, stop in _runs(row):
            inner = changes[(changes > start) & (changes < stop)].tolist()
            for a, b in zip([start, *inner], [*inner, stop], strict=True):
                parts = max(1, round((b - a) / longest))
                edges = np.linspace(a, b, parts + 1).round().astype(int).tolist()
                for first, last in pairwise(edges):
                    alone = not together[first]
                    yield Piece(first * _FRAME_SECONDS, last * _FRAME_SECONDS, output, alone)


def _voice(
    piece: Piece, recording: Samples, sources: Sequence[Samples], embedding: Embedding
) -> np.ndarray:
    """Of the recording itself where one speaks alone, which no separator has touched."""
    signal = recording if piece.alone else sources[piece.output]
    start, stop = (round(second * signal.rate) for second in (piece.start, piece.end))
    return embedding(signal.read(start, max(stop, start + signal.rate // 10)), signal.rate)


def _label(
    pieces: Sequence[Piece], vectors: np.ndarray, number: int | None, threshold: float
) -> np.ndarray:
    """Whose each piece is: voices are found in the telling ones, the rest goes to the nearest."""
    seconds = np.array([piece.end - piece.start for piece in pieces])
    alone = np.array([piece.alone for piece in pieces])
    telling = (seconds >= _TELLING_SECONDS) & alone
    if telling.sum() < max(2, number or 0):
        telling = seconds >= min(_TELLING_SECONDS, float(seconds.max()))
    if telling.sum() < (number or 1):
        telling = np.ones(len(pieces), bool)
    labels = np.zeros(len(pieces), int)
    labels[telling] = cluster(vectors[telling], seconds[telling], number, threshold)
    known = np.unique(labels[telling])
    centres = centroids(vectors[telling], labels[telling], known, seconds[telling])
    labels[~telling] = known[(vectors[~telling] @ centres.T).argmax(1)]
    return labels


def _renamed(passages: list[Passage]) -> list[Passage]:
    names: dict[str, str] = {}
    for passage in passages:
        names.setdefault(passage.speaker, f"spk{len(names) + 1}")
    return [Passage(names[p.speaker], p.start, p.end) for p in passages]
