"""Who speaks when, from a detector of speech, a voice embedding and a separator.

Voices are told apart in the recording itself, window by window; the separator's outputs say
where a second one speaks. Start reading at :func:`diarize`.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from custom_modules.conversation.activity import Detector, runs
from custom_modules.conversation.clustering import centroids, cluster, unit_rows
from custom_modules.conversation.identity import Embedding
from custom_modules.conversation.noise import SteadyNoise
from custom_modules.conversation.passages import Passage, Span, tidy
from custom_modules.conversation.samples import Samples

_FRAME_SECONDS = 0.02
#: A voice is heard in windows of this length, s, one each step.
_WINDOW, _STEP = 1.6, 0.8
#: Windows from so long on say whose voices there are; shorter ones only whose they are, s.
_TELLING_SECONDS = 0.8
#: An output so far below the louder one holds what leaks from it, dB.
_LEAKAGE_DB = 8.0
#: Levels are compared over so many frames.
_SMOOTHING = 25
#: A shorter pause is within a passage, s.
_PAUSE = 0.3
#: Shorter overlaps are errors of measuring; an output's voice is heard in so much, s.
_LEAST_OVERLAP, _VOICE_SECONDS = 0.2, 1.2


def diarize(
    recording: Samples,
    sources: Sequence[Samples],
    detector: Detector,
    embedding: Embedding,
    number: int | None = None,
) -> list[Passage]:
    """Who speaks when in a recording, given its ``sources``, at any rate.

    Speakers are named ``spk1``, ``spk2``, … in the order in which they begin. Two may speak
    at a time, more in all; ``number`` is how many, else their voices decide.
    """
    heard = detector(recording.blocks(), recording.rate)
    windows = [*_windows(heard)]
    if not windows:
        return []
    noise = SteadyNoise(recording, heard)
    heard_voices = [embedding(noise.less(_read(recording, x)), recording.rate) for x in windows]
    vectors = np.stack(heard_voices)
    voices = _voices(windows, vectors, number, embedding.threshold)
    turns = _turns(windows, vectors, voices, round(recording.seconds / _FRAME_SECONDS) + 1)
    speaking = np.arange(len(voices))[:, None] == turns
    speaking &= _mask(heard, len(turns))
    if len(voices) > 1 and len(sources) > 1:
        _add_overlaps(speaking, turns, sources, detector, embedding, voices)
    return _named(speaking)


def _windows(heard: Sequence[Span]) -> Iterator[Span]:
    """Windows that cover each span of speech; what is shorter is one."""
    for start, end in heard:
        room = end - start - _WINDOW
        for first in np.linspace(0, max(room, 0), max(1, round(room / _STEP) + 1)).tolist():
            yield start + first, min(end, start + first + _WINDOW)


def _read(signal: Samples, span: Span) -> np.ndarray:
    start, stop = (round(second * signal.rate) for second in span)
    return signal.read(start, max(stop, start + signal.rate // 10))


def _voices(
    windows: Sequence[Span], vectors: np.ndarray, number: int | None, threshold: float
) -> np.ndarray:
    """Each voice in the recording, ``[voices, features]``, as the telling windows have them."""
    lengths = np.array([end - start for start, end in windows])
    telling = lengths >= min(_TELLING_SECONDS, float(lengths.max()))
    if telling.sum() < (number or 1):
        telling[:] = True
    some, seconds = vectors[telling], np.minimum(lengths[telling], _STEP)
    labels = cluster(some, seconds, number, threshold)
    return centroids(some, labels, np.unique(labels), seconds)


def _turns(
    windows: Sequence[Span], vectors: np.ndarray, voices: np.ndarray, frames: int
) -> np.ndarray:
    """Who speaks in each frame, ``[frames]``, by the windows around it, the nearest most.

    Voices are compared by how they differ from their mean, which has the room in it.
    """
    mean = voices.mean(0) if len(voices) > 1 else 0.0
    likeness = unit_rows(vectors - mean) @ unit_rows(voices - mean).T
    scores = np.zeros((frames, len(voices)))
    for (start, end), row in zip(windows, likeness, strict=True):
        first, last = round(start / _FRAME_SECONDS), round(end / _FRAME_SECONDS)
        shape = np.bartlett(max(last - first, 1) + 2)[1:-1, None]
        part = scores[first : first + len(shape)]
        part += shape[: len(part)] * row
    return scores.argmax(1)


def _add_overlaps(
    speaking: np.ndarray,
    turns: np.ndarray,
    sources: Sequence[Samples],
    detector: Detector,
    embedding: Embedding,
    voices: np.ndarray,
) -> None:
    """Another one speaks, too, where two outputs are speech, as loud, and of two voices.

    So a voice that a separator tears over its outputs is not taken for two.
    """
    levels = _levels(sources)
    frames = min(levels.shape[1], speaking.shape[1])
    spans = [detector(source.blocks(), source.rate) for source in sources]
    active = np.stack([_mask(found, frames) for found in spans])
    ranked = np.sort(np.where(active, levels[:, :frames], -np.inf), axis=0)
    both = speaking[:, :frames].any(0) & (ranked[-2] > ranked[-1] - _LEAKAGE_DB)
    for first, last in runs(both):
        if (last - first) * _FRAME_SECONDS < _LEAST_OVERLAP:
            continue
        loudest = levels[:, first:last].mean(1).argsort()[-2:]
        heard = np.stack([_voice(sources[i], first, last, embedding) for i in loudest]) @ voices.T
        one, other = heard.argmax(1)
        if one != other:
            here = turns[first:last]
            speaking[np.where(here == one, other, one), np.arange(first, last)] = True


def _voice(source: Samples, first: int, last: int, embedding: Embedding) -> np.ndarray:
    """Of an output around a stretch of frames."""
    middle, length = (first + last) / 2, max(last - first, _VOICE_SECONDS / _FRAME_SECONDS)
    start, end = ((middle + side * length / 2) * _FRAME_SECONDS for side in (-1, 1))
    return embedding(_read(source, (max(start, 0.0), end)), source.rate)


def _levels(sources: Sequence[Samples]) -> np.ndarray:
    """Smoothed levels in dB, ``[outputs, frames]``."""
    window = np.hanning(_SMOOTHING + 2)[1:-1]
    rows = []
    for source in sources:
        size = round(_FRAME_SECONDS * source.rate)
        power = []
        for block in source.blocks(size=size * 2**14):
            padded = np.pad(block, (0, -len(block) % size)).astype("float64")
            power.append(np.square(padded.reshape(-1, size)).mean(1))
        joined = np.concatenate(power)
        rows.append(np.convolve(joined, window / window.sum())[_SMOOTHING // 2 :][: len(joined)])
    fewest = min(map(len, rows))
    return 10 * np.log10(np.stack([row[:fewest] for row in rows]) + 1e-12)


def _mask(spans: Sequence[Span], frames: int) -> np.ndarray:
    mask = np.zeros(frames, bool)
    for start, end in spans:
        mask[max(0, round(start / _FRAME_SECONDS)) : max(0, round(end / _FRAME_SECONDS))] = True
    return mask


def _named(speaking: np.ndarray) -> list[Passage]:
    """Passages of ``[voices, frames]``, speakers named in the order in which they begin."""
    rows = [[(a * _FRAME_SECONDS, b * _FRAME_SECONDS) for a, b in runs(row)] for row in speaking]
    told = sorted(spans for spans in rows if spans)
    passages = [Passage(f"spk{i}", *span) for i, spans in enumerate(told, 1) for span in spans]
    return tidy(passages, _PAUSE)
