"""Utterances of a track, and the words in them.

Start reading at :func:`find_utterances`.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from custom_modules.conversation.activity import Detector
from custom_modules.conversation.passages import Passage, Span, intersect
from custom_modules.conversation.samples import Samples
from custom_modules.recognition.interface import Recogniser, Word

#: Recognisers invent text for less, and many take no more, s.
SHORTEST, LONGEST = 0.5, 30.0
#: A pause that does not end an utterance, s.
_PAUSE = 0.6
#: Around an utterance, and around who speaks when, s.
_PADDING = 0.1
#: What is quieter than this is silence, whoever is said to speak: -80 dB of full scale.
_SILENT = 1e-4
#: Utterances that are handed over at once.
_BATCH = 8


def find_utterances(track: Samples, passages: Sequence[Span], detector: Detector) -> list[Span]:
    """Spans of a track to recognise, s: speech within passages, cut at pauses.

    None is shorter than half a second, longer than thirty, or silent.
    """
    speech = detector(track.blocks(), track.rate)
    near = [(max(0.0, start - _PADDING), end + _PADDING) for start, end in passages]
    spoken = intersect(speech, near)
    found: list[Span] = []
    for start, end in _utterances(spoken, track):
        floor = found[-1][1] if found else 0.0
        padded = (max(floor, start - _PADDING), min(track.seconds, end + _PADDING))
        if end - start >= SHORTEST and not _is_silent(track, padded):
            found.append(padded)
    return found


def _utterances(spoken: Sequence[Span], track: Samples) -> Iterator[Span]:
    """Speech without long pauses in between, at most :data:`LONGEST` with its padding."""
    group: list[Span] = []
    for span in spoken:
        if group and span[0] - group[-1][1] > _PAUSE:
            yield from _cut(group, track)
            group = []
        group.append(span)
    yield from _cut(group, track) if group else ()


def _cut(group: list[Span], track: Samples) -> Iterator[Span]:
    """In two at the longest pause, or the quietest moment, until all are short enough."""
    waiting = [group]
    while waiting:
        group = waiting.pop()
        start, end = group[0][0], group[-1][1]
        if end - start <= LONGEST - 2 * _PADDING:
            yield start, end
        elif len(group) > 1:
            pauses = [after[0] - before[1] for before, after in pairwise(group)]
            place = int(np.argmax(pauses)) + 1
            waiting += [group[place:], group[:place]]
        else:
            latest = min(start + LONGEST - 1, end - SHORTEST)
            middle = _quietest(track, start + LONGEST / 2, latest)
            waiting += [[(middle, end)], [(start, middle)]]


def _quietest(track: Samples, start: float, end: float) -> float:
    """The quietest tenth of a second between two moments."""
    size = track.rate // 10
    signal = track.read(round(start * track.rate), round(end * track.rate))
    frames = signal[: len(signal) // size * size].reshape(-1, size)
    return start + (int(np.square(frames).sum(1).argmin()) + 0.5) * size / track.rate


def _is_silent(track: Samples, span: Span) -> bool:
    start, stop = (round(second * track.rate) for second in span)
    return float(np.abs(track.read(start, stop)).max(initial=0)) < _SILENT


def recognise(
    track: Samples, speaker: str, spans: Sequence[Span], recogniser: Recogniser
) -> Iterator[Passage]:
    """A track's utterances with their words, each as soon as it is known."""
    for first in range(0, len(spans), _BATCH):
        batch = spans[first : first + _BATCH]
        waveforms = [track.read(*(round(second * track.rate) for second in s)) for s in batch]
        told = _words(recogniser, waveforms, track.rate)
        for (start, end), (text, words) in zip(batch, told, strict=True):
            timed = tuple(Word(word.text, start + word.start, start + word.end) for word in words)
            yield Passage(speaker, start, end, text, timed)


def _words(
    recogniser: Recogniser, waveforms: list[np.ndarray], rate: int
) -> list[tuple[str, list[Word]]]:
    """Each waveform's text, and its words with their times where there are any."""
    if recogniser.gives_times:
        timed = recogniser.transcribe_words(waveforms, rate)
        return [(" ".join(word.text for word in words), words) for words in timed]
    return [(text, []) for text in recogniser.transcribe(waveforms, rate)]
