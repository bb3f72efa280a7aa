"""What a transcript, a diarization and tracks of a conversation are worth.

Each measure is a pair of sums, such as errors and words, of one conversation: sums of several
are added before they are divided. One table, :data:`MEASURES`, holds them all.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np
import torch

from custom_modules.conversation.passages import Passage, atoms, intersect, overlap_spans, tidy
from custom_modules.errors import InputError
from custom_modules.objectives import si_sdr

#: s, for words: a word may be so far from where it was said (tcpWER).
WORD_COLLAR = 5.0
#: s, on each side of a boundary in which diarization is not scored.
COLLAR = 0.25
#: Within which a talker's part of a track has one gain, s.
BLOCK_SECONDS = 1.0
LEAST_OVERLAP = 0.1  # s, of a talker's overlaps together, to score a track within them
LEAKAGE_RANGE = 60.0  # dB; beyond it, nothing leaks, or everything
MOST_TALKERS = 20  # of meeteval

#: A sum, and what it is divided by.
Sums = tuple[float, float]


@dataclass
class Case:
    """A conversation as it is, and what one arm made of it."""

    seconds: float
    truth: Sequence[Passage]
    found: Sequence[Passage]
    #: With words; None, or none of them: words are not scored.
    said: Sequence[Passage] | None = None
    heard: Sequence[Passage] | None = None
    rate: int = 0
    #: True talker → dry signal, and as it is in the recording, ``[time]`` each.
    dry: Mapping[str, np.ndarray] = field(default_factory=dict)
    images: Mapping[str, np.ndarray] = field(default_factory=dict)
    #: Talker that was found → his track.
    tracks: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def has_words(self) -> bool:
        return self.heard is not None and any(p.words for p in self.said or ())

    @property
    def has_tracks(self) -> bool:
        return bool(self.dry and self.tracks)

    @cached_property
    def talker_of(self) -> dict[str, str]:
        """Found talker → the true one with whom he has most time in common, one to one."""
        _, metrics = _pyannote()
        scorer = metrics.DiarizationErrorRate()
        mapping = scorer.optimal_mapping(
            _annotation(self.truth), _annotation(self.found), uem=self._whole
        )
        return {str(found): str(talker) for found, talker in mapping.items()}

    @cached_property
    def _whole(self) -> Any:
        core, _ = _pyannote()
        return core.Timeline([core.Segment(0, self.seconds)])

    def diarization(self, collar: float) -> dict[str, float]:
        """pyannote's components, s; ``collar`` on each side of a boundary."""
        if collar not in self._diarizations:
            _, metrics = _pyannote()
            scorer = metrics.DiarizationErrorRate(collar=2 * collar)  # pyannote's is both sides
            truth, found = _annotation(self.truth), _annotation(self.found)
            self._diarizations[collar] = dict(
                scorer.compute_components(truth, found, uem=self._whole)
            )
        return self._diarizations[collar]

    @cached_property
    def _diarizations(self) -> dict[float, dict[str, float]]:
        return {}


def check_packages(words: bool) -> None:
    """Refuses, in a line, what would fail when the first recording is done."""
    _pyannote()
    if words:
        _meeteval()


def _pyannote() -> tuple[Any, Any]:
    try:
        import pyannote.core
        import pyannote.metrics.diarization
    except ImportError as error:
        raise InputError(
            "pyannote.metrics, which scores who speaks when, is not installed; "
            "pip install pyannote.metrics==4.2.0"
        ) from error
    return pyannote.core, pyannote.metrics.diarization


def _meeteval() -> Any:
    try:
        import meeteval
    except ImportError as error:
        raise InputError(
            "meeteval, which counts words of conversations, is not installed; "
            "pip install meeteval==0.4.3"
        ) from error
    return meeteval


def _annotation(passages: Sequence[Passage]) -> Any:
    core, _ = _pyannote()
    annotation = core.Annotation()
    for number, passage in enumerate(tidy(passages)):
        annotation[core.Segment(passage.start, passage.end), number] = passage.speaker
    return annotation


def _seglst(passages: Sequence[Passage]) -> list[dict[str, Any]]:
    return [
        {"session_id": "", "speaker": p.speaker, "words": p.words}
        | {"start_time": p.start, "end_time": p.end}
        for p in passages
    ]


def word_errors(case: Case, function: str, **options: float) -> Sums | None:
    """Errors and words by one of meeteval's functions."""
    if not case.has_words:
        return None
    meeteval = _meeteval()
    for told in (case.said, case.heard):
        if (number := len({passage.speaker for passage in told or ()})) > MOST_TALKERS:
            raise InputError(f"{number} talkers; words are counted of {MOST_TALKERS} at most")
    said, heard = (meeteval.io.SegLST(_seglst(x or ())) for x in (case.said, case.heard))
    result = getattr(meeteval.wer, function)(said, heard, **options)
    return float(result.errors), float(result.length)


def diarization_error(case: Case, components: Sequence[str], collar: float) -> Sums:
    """Seconds of some kinds of error, and of speech."""
    parts = case.diarization(collar)
    return sum(parts[name] for name in components), parts["total"]


def overlap_found(case: Case, of: str) -> Sums:
    """Seconds of overlap that are true and found, and those that are ``found``, or ``true``."""
    true, found = overlap_spans(case.truth), overlap_spans(case.found)
    both, base = intersect(true, found), found if of == "found" else true
    return sum(b - a for a, b in both), sum(b - a for a, b in base)


def leakage(track: np.ndarray, images: np.ndarray, own: int, rate: int) -> float | None:
    """The level of other talkers in a track relative to its own, dB, within ±60.

    ``[time]``, and ``[time, talkers]`` as they are in the recording. In each second the
    track is explained by least squares as a sum of the talkers, each with a gain of its own.
    None if its own talker is not in it, nor anybody.
    """
    size = max(1, round(BLOCK_SECONDS * rate))
    target = others = 0.0
    for start in range(0, min(len(track), len(images)), size):
        block = images[start : start + size].astype(float)
        part = track[start : start + size][: len(block)].astype(float)
        heard = np.flatnonzero(block[: len(part)].any(axis=0))
        if not len(heard) or not part.any():
            continue
        parts = block[: len(part), heard]
        gains = np.linalg.lstsq(parts, part, rcond=None)[0]
        energies = (np.square(parts) * np.square(gains)).sum(axis=0)
        target += energies[heard == own].sum()
        others += energies[heard != own].sum()
    if not target + others:
        return None
    floor = 10 ** (-LEAKAGE_RANGE / 10) * (target + others)
    level = 10 * np.log10(max(others, floor) / max(target, floor))
    return float(np.clip(level, -LEAKAGE_RANGE, LEAKAGE_RANGE))


def mean_leakage(case: Case) -> Sums | None:
    """Sum over tracks of :func:`leakage`, and their number."""
    names = list(case.images)
    if not case.has_tracks:
        return None
    images = np.stack([case.images[name] for name in names], axis=1)
    levels = [
        leakage(case.tracks[found], images, names.index(talker), case.rate)
        for found, talker in case.talker_of.items()
        if found in case.tracks and talker in names
    ]
    known = [level for level in levels if level is not None]
    return (sum(known), len(known)) if known else None


def overlap_si_sdr(case: Case) -> Sums | None:
    """Sum over tracks of SI-SDR within the true overlaps of its talker, dB; their number.

    All of a talker's overlaps are scored as one signal, against his dry track.
    """
    scores = []
    for found, talker in case.talker_of.items():
        if found not in case.tracks or talker not in case.dry:
            continue
        target, track = case.dry[talker], case.tracks[found]
        size = min(len(target), len(track))
        inside = overlap_mask(case.truth, talker, size, case.rate)
        if inside.sum() >= LEAST_OVERLAP * case.rate and target[:size][inside].any():
            pair = [torch.from_numpy(np.float64(x[:size][inside])) for x in (track, target)]
            scores.append(float(si_sdr(*(x[None, :, None] for x in pair))))
    return (sum(scores), len(scores)) if scores else None


def overlap_mask(passages: Sequence[Passage], talker: str, length: int, rate: int) -> np.ndarray:
    """Where a talker and another speak, ``[time]``."""
    inside = np.zeros(length, bool)
    for start, stop, speakers in atoms(passages, rate, length):
        inside[start:stop] = talker in speakers and len(speakers) > 1
    return inside


class Measure(NamedTuple):
    """How it is computed and shown."""

    heading: str
    unit: str
    scale: float  # of the quotient
    decimals: int
    better: str
    compute: Callable[[Case], Sums | None]
    needs: str = ""  # "words" or "tracks"


_MISSED, _FALSE, _CONFUSED = "missed detection", "false alarm", "confusion"
_ALL = (_MISSED, _FALSE, _CONFUSED)


def _words(heading: str, function: str, **options: Any) -> Measure:
    compute = partial(word_errors, function=function, **options)
    return Measure(heading, "%", 100.0, 1, "lower", compute, "words")


def _time(heading: str, components: Sequence[str], collar: float = COLLAR) -> Measure:
    compute = partial(diarization_error, components=components, collar=collar)
    return Measure(heading, "%", 100.0, 1, "lower", compute)


#: By column of what is stored.
MEASURES = {
    "cpwer": _words("cpWER", "cp_word_error_rate"),
    "tcpwer": _words(
        "tcpWER", "time_constrained_minimum_permutation_word_error_rate", collar=WORD_COLLAR
    ),
    # meeteval's greedy one: the exact one takes exponential time in the number of utterances.
    "orcwer": _words("ORC-WER", "greedy_orc_word_error_rate"),
    "der": _time("DER", _ALL),
    "missed": _time("missed", [_MISSED]),
    "false_alarm": _time("false alarm", [_FALSE]),
    "confusion": _time("confusion", [_CONFUSED]),
    "der_0": _time("DER, no collar", _ALL, collar=0.0),
    "overlap_precision": Measure(
        "overlap precision", "%", 100.0, 1, "higher", partial(overlap_found, of="found")
    ),
    "overlap_recall": Measure(
        "overlap recall", "%", 100.0, 1, "higher", partial(overlap_found, of="true")
    ),
    "leakage": Measure("leakage", "dB", 1.0, 1, "lower", mean_leakage, "tracks"),
    "si_sdr": Measure("SI-SDR in overlaps", "dB", 1.0, 1, "higher", overlap_si_sdr, "tracks"),
}


def measure(case: Case) -> dict[str, Sums]:
    """All measures that a case has what they need for, by name."""
    sums = {name: entry.compute(case) for name, entry in MEASURES.items()}
    return {name: (float(a), float(b)) for name, pair in sums.items() if pair for a, b in [pair]}
