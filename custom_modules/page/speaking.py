"""Who speaks when, from separated files; the words of each turn."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from custom_modules.audio import open_audio, read_blocks, read_span
from custom_modules.conversation.transcripts import LONGEST
from custom_modules.page.texts import clock_time
from custom_modules.recognition.interface import Recogniser

_FRAME_SECONDS = 0.05
#: A speaker is heard down to so far below his own loud frames, and below the other, in dB:
#: what a model leaves of one speaker in the other's file is weaker than that.
_RANGE_DB, _BELOW_OTHERS_DB = 30.0, 10.0
#: His loud frames are as many as those of half a second.
_LOUD_FRAMES = 10
#: A file is of silence if it stays below this, dB of full scale.
_SILENCE_DB = -80.0
#: Shorter pauses belong to a turn; shorter turns are none. In frames.
_PAUSE, _SHORTEST = 8, 3
#: Turns that a recogniser is given at once.
_BATCH = 8


@dataclass
class Turn:
    """A stretch of one speaker, in s."""

    speaker: int
    start: float
    end: float
    words: str = ""


def find_turns(sources: list[Path]) -> list[Turn]:
    """The turns of all speakers by start, from a file of each, equally long."""
    levels = [_levels(path) for path in sources]
    length = min(map(len, levels))
    table = np.stack([level[:length] for level in levels])  # [speakers, frames]
    loud = np.sort(table)[:, -min(_LOUD_FRAMES, length) :][:, :1]
    heard = (table > loud - _RANGE_DB) & (table > table.max(0) - _BELOW_OTHERS_DB)
    heard &= table > _SILENCE_DB
    turns = [
        Turn(speaker, start * _FRAME_SECONDS, end * _FRAME_SECONDS)
        for speaker, row in enumerate(heard)
        for start, end in _stretches(row)
    ]
    return sorted(turns, key=lambda turn: (turn.start, turn.speaker))


def _levels(path: Path) -> np.ndarray:
    """A file's level in dB, frame by frame; the last one may be short."""
    with open_audio(path) as audio:
        size = max(1, round(_FRAME_SECONDS * audio.samplerate))
        powers = [
            np.square(block[0, start : start + size]).mean()
            for block in read_blocks(audio, seconds=200 * size / audio.samplerate)
            for start in range(0, block.shape[1], size)
        ]
    return 10 * np.log10(np.asarray(powers, "float64") + 1e-12)


def _stretches(heard: np.ndarray) -> list[tuple[int, int]]:
    """Where a row is true, first and behind the last; over short pauses.

    >>> _stretches(np.repeat([True, False, True, False, True], [4, 3, 5, 20, 2]))
    [(0, 12)]
    """
    edges = np.flatnonzero(np.diff(np.r_[False, heard, False].astype(int)))
    stretches: list[tuple[int, int]] = []
    for start, end in edges.reshape(-1, 2).tolist():
        if stretches and start - stretches[-1][1] < _PAUSE:
            stretches[-1] = (stretches[-1][0], end)
        else:
            stretches.append((start, end))
    return [(start, end) for start, end in stretches if end - start >= _SHORTEST]


def with_words(
    turns: list[Turn],
    sources: list[Path],
    recogniser: Recogniser,
    watch: Callable[[float], None] = lambda share: None,
) -> list[Turn]:
    """The turns with what was said in each; ``watch`` is told the share that is done."""
    with open_audio(sources[0]) as audio:
        rate = audio.samplerate
    written: list[Turn] = []
    for first in range(0, len(turns), _BATCH):
        watch(first / len(turns))
        batch = turns[first : first + _BATCH]
        heard = [[*_parts(_samples(sources[x.speaker], x, rate), rate)] for x in batch]
        words = iter(recogniser.transcribe([part for parts in heard for part in parts], rate))
        for turn, parts in zip(batch, heard, strict=True):
            said = filter(None, (next(words) for _ in parts))
            written.append(replace(turn, words=" ".join(said)))
    return written


def _parts(signal: np.ndarray, rate: int) -> Iterator[np.ndarray]:
    """A turn, cut at quiet moments where it is longer than recognisers take."""
    most, size = round(LONGEST * rate), rate // 10
    while len(signal) > most:
        second = signal[most // 2 : most // size * size]
        frames = second[: len(second) // size * size].reshape(-1, size)
        place = most // 2 + int((np.square(frames).sum(1).argmin() + 0.5) * size)
        yield signal[:place]
        signal = signal[place:]
    yield signal


def _samples(path: Path, turn: Turn, rate: int) -> np.ndarray:
    start, end = round(turn.start * rate), round(turn.end * rate)
    return read_span(path, start, end - start, rate).astype("float32")


def transcript(turns: list[Turn], speakers: list[str]) -> str:
    """A line for each turn.

    >>> print(transcript([Turn(1, 61, 62.5, "tak jest")], ["Mówca 1", "Mówca 2"]), end="")
    1:01–1:02 Mówca 2: tak jest
    """
    return "".join(
        f"{clock_time(turn.start)}–{clock_time(turn.end)} {speakers[turn.speaker]}: {turn.words}\n"
        for turn in turns
    )
