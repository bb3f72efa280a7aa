"""A picture of a conversation: waveform, who speaks when, overlaps, words."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from custom_modules.conversation.chain import Conversation
from custom_modules.conversation.passages import Passage, Span
from custom_modules.conversation.samples import Samples
from custom_modules.files import atomic_path

#: A row of the picture is so long at least, and there are at most so many, s.
_ROW_SECONDS, _MOST_ROWS = 30.0, 12
#: Columns of a row's waveform, and letters that fit across it.
_COLUMNS, _LETTERS = 1200, 210
_OVERLAP = "#d62728"


def plot_timeline(conversation: Conversation, recording: Samples, picture: Path) -> None:
    """Draws rows of equal length below each other, as a PNG."""
    seconds = conversation.length / conversation.rate
    length = max(_ROW_SECONDS, seconds / _MOST_ROWS)
    rows = max(1, math.ceil(seconds / length - 1e-9))
    names = list(conversation.tracks)
    height = 0.9 + 0.34 * max(1, len(names))
    figure = Figure(figsize=(14, 0.6 + rows * height), layout="constrained")
    grid = figure.subplots(rows, squeeze=False)[:, 0]
    colours = dict(zip(names, colormaps["tab10"](np.arange(len(names)) % 10), strict=True))
    for number, axes in enumerate(grid):
        span = (number * length, (number + 1) * length)
        _draw_row(axes, conversation, recording, span, colours)
    grid[-1].set_xlabel("time (s)")
    with atomic_path(picture) as partial:
        figure.savefig(partial, format="png", dpi=110)


def _draw_row(
    axes: Any, conversation: Conversation, recording: Samples, span: Span, colours: dict[str, Any]
) -> None:
    """The waveform from 0 to 1 above a line for each speaker below it."""
    edges, low, high = envelope(recording, span)
    axes.fill_between(edges, 0.5 + low / 2, 0.5 + high / 2, step="post", color="0.55", lw=0)
    for start, end in _within(conversation.overlaps, span):
        axes.axvspan(start, end, color=_OVERLAP, alpha=0.18, lw=0)
    names = list(colours)
    for place, who in enumerate(names):
        mine = [(p.start, p.end) for p in conversation.passages if p.speaker == who]
        bars = [(start, end - start) for start, end in _within(mine, span)]
        axes.broken_barh(bars, (-place - 0.95, 0.9), color=colours[who], alpha=0.35, lw=0)
    for said in conversation.utterances:
        if span[0] <= said.start < span[1] and said.speaker in names:
            where = (said.start, -names.index(said.speaker) - 0.5)
            text = _fitting(said, span[1] - span[0])
            axes.text(*where, text, fontsize=6, va="center", clip_on=True, parse_math=False)
    axes.set_yticks([0.5, *(-place - 0.5 for place in range(len(names)))])
    axes.set_yticklabels(["", *names], fontsize=7, parse_math=False)
    axes.set(xlim=span, ylim=(-max(1, len(names)) - 0.05, 1.05))
    axes.tick_params(axis="x", labelsize=7)


def envelope(signal: Samples, span: Span) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Column starts in s, and the lowest and highest samples of each, in -1 … 1."""
    start, stop = (round(second * signal.rate) for second in span)
    size = max(1, (stop - start) // _COLUMNS)
    low, high = [], []
    for block in signal.blocks(start, stop, size * max(1, 2**19 // size)):
        whole = np.pad(block, (0, -len(block) % size), mode="edge").reshape(-1, size)
        low.append(whole.min(1))
        high.append(whole.max(1))
    if not low:
        return np.zeros(0), np.zeros(0), np.zeros(0)
    lows, highs = np.concatenate(low), np.concatenate(high)
    peak = max(float(np.abs(lows).max()), float(np.abs(highs).max()), 1e-9)
    return (start + size * np.arange(len(lows))) / signal.rate, lows / peak, highs / peak


def _within(spans: Sequence[Span], row: Span) -> list[Span]:
    cut = [(max(start, row[0]), min(end, row[1])) for start, end in spans]
    return [(start, end) for start, end in cut if start < end]


def _fitting(said: Passage, seconds: float) -> str:
    """As many of the words as there is room for."""
    letters = int((said.end - said.start) / seconds * _LETTERS)
    text = said.words
    return text if len(text) <= letters else f"{text[: max(0, letters - 1)].rstrip()}…"
