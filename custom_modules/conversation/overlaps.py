"""Whose is which output of a separator, where two speak at once, and how loud.

Start reading at :func:`assign`.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from custom_modules.conversation.identity import Embedding
from custom_modules.conversation.passages import Atom

#: Shorter outputs say nothing about a voice; from so long on they say all they can, s.
_LEAST_VOICE, _WHOLE_VOICE = 0.3, 1.5
#: From so much speech alone on both sides, continuity counts in full, s.
_WHOLE_CONTEXT = 0.5
#: Voices are told apart by differences of cosines, which are small beside a projection's.
_VOICE_WEIGHT = 2.0
#: A gain that context asks for is believed up to this factor.
_MOST_GAIN = 4.0
#: And if the output explains so much of the context's energy.
_LEAST_EXPLAINED = 0.25

#: First sample and the one behind the last.
Range = tuple[int, int]


class Assignment(NamedTuple):
    """For each of the speakers, in their order: which output, and times what."""

    outputs: list[int]
    gains: list[float]
    lead: float  # over the other order; what is near zero was a guess


def alone(cuts: Sequence[Atom], speaker: str, start: int, stop: int) -> list[Range]:
    """Where a speaker speaks and nobody else, between two samples."""
    return [
        (max(atom.start, start), min(atom.stop, stop))
        for atom in cuts
        if atom.speakers == (speaker,) and atom.start < stop and atom.stop > start
    ]


def assign(
    outputs: np.ndarray,
    base: np.ndarray,
    core: Range,
    solos: Sequence[Sequence[Range]],
    voices: Sequence[np.ndarray | None],
    embedding: Embedding | None,
    rate: int,
) -> Assignment:
    """Which output belongs to which of the speakers, in a stretch around an overlap.

    Separated ``[outputs, time]``, what is on a track outside ``[time]``, the overlap, where
    each speaker is alone in the context (``solos``), and voices ``[features]``, if known.
    By continuity with the context on both sides, and by voices; gains are such that a
    speaker goes on at the level of the context.
    """
    signs = np.where(outputs @ base < 0, -1.0, 1.0)
    upright = outputs * signs[:, None]
    evidence = _continuity(upright, base, solos, rate)
    evidence = evidence + _likeness(outputs[:, slice(*core)], voices, embedding, rate)
    orders = itertools.permutations(range(len(outputs)), len(solos))
    scores = sorted(
        (
            (sum(evidence[who, output] for who, output in enumerate(order)), order)
            for order in orders
        ),
        key=lambda scored: -scored[0],
    )
    best = list(scores[0][1])
    lead = scores[0][0] - scores[1][0] if len(scores) > 1 else 0.0
    gains = _gains(upright, upright[best], base, core, solos)
    return Assignment(best, (gains * signs[best]).tolist(), float(lead))


def _continuity(
    outputs: np.ndarray, base: np.ndarray, solos: Sequence[Sequence[Range]], rate: int
) -> np.ndarray:
    """How much of each speaker's speech alone is in each output, ``[speakers, outputs]``."""
    evidence = np.zeros((len(solos), len(outputs)))
    for who, ranges in enumerate(solos):
        heard = _joined(base, ranges)
        energy = float(np.dot(heard, heard))
        if not energy:
            continue
        parts = np.stack([_joined(output, ranges) for output in outputs])
        weight = min(1.0, len(heard) / rate / _WHOLE_CONTEXT)
        evidence[who] = weight * np.clip(parts @ heard / energy, -1.0, 1.5)
    return evidence


def _likeness(
    parts: np.ndarray, voices: Sequence[np.ndarray | None], embedding: Embedding | None, rate: int
) -> np.ndarray:
    """How much each output sounds like each speaker, ``[speakers, outputs]``."""
    seconds = parts.shape[1] / rate
    evidence = np.zeros((len(voices), len(parts)))
    if embedding is None or seconds < _LEAST_VOICE or not np.abs(parts).max(initial=0) > 0:
        return evidence
    heard = [embedding(part, rate) for part in parts]
    for who, voice in enumerate(voices):
        if voice is not None:
            evidence[who] = [float(np.dot(voice, other)) for other in heard]
    return _VOICE_WEIGHT * min(1.0, seconds / _WHOLE_VOICE) * evidence


def _gains(
    outputs: np.ndarray,
    chosen: np.ndarray,
    base: np.ndarray,
    core: Range,
    solos: Sequence[Sequence[Range]],
) -> np.ndarray:
    """What makes each speaker's output as loud as his context, by least squares.

    Whoever has no context, or another output than is heard there, gets what the overlap
    leaves; where that tells nothing, the gain with which all outputs sum to the mixture.
    """
    together = _projection(base, outputs.sum(0))
    least, most = together / _MOST_GAIN, together * _MOST_GAIN
    gains = np.full(len(chosen), np.nan)
    for who, ranges in enumerate(solos):
        heard, part = _joined(base, ranges), _joined(chosen[who], ranges)
        energy = float(np.dot(heard, heard)) * float(np.dot(part, part))
        if energy and float(np.dot(heard, part)) ** 2 >= _LEAST_EXPLAINED * energy:
            gains[who] = _projection(heard, part)
    known = (gains >= least) & (gains <= most)
    if not known.all():
        inside = chosen[:, slice(*core)].T
        rest = base[slice(*core)] - inside[:, known] @ gains[known]
        gains[~known] = np.linalg.lstsq(inside[:, ~known], rest, rcond=1e-4)[0]
    return np.where((gains >= least) & (gains <= most), gains, together)


def _projection(target: np.ndarray, signal: np.ndarray) -> float:
    energy = float(np.dot(signal, signal))
    return float(np.dot(target, signal)) / energy if energy else 1.0


def _joined(signal: np.ndarray, ranges: Sequence[Range]) -> np.ndarray:
    parts = [signal[max(start, 0) : max(stop, 0)] for start, stop in ranges]
    return np.concatenate(parts) if parts else signal[:0]
