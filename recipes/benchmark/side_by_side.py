"""Several ways of doing the same, timed in one run."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from custom_modules import markdown
from recipes.benchmark.measuring import describe

REPEATS = 3


class Row(NamedTuple):
    """A line of the table that a benchmark prints."""

    what: str
    figure: str
    ratio: str = markdown.DASH  # times as fast as the plain way


def time_alternately(
    ways: Mapping[str, Callable[[], object]], repeats: int = REPEATS
) -> dict[str, float]:
    """Median seconds of each way; every other round runs backwards.

    One round more than ``repeats`` goes before them, to warm caches.
    """
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for repeat in range(repeats + 1):
        for way in list(ways) if repeat % 2 else reversed(list(ways)):
            start = time.perf_counter()
            ways[way]()
            if repeat:
                seconds[way].append(time.perf_counter() - start)
    return {way: statistics.median(spent) for way, spent in seconds.items()}


def speeds(seconds: Mapping[str, float], count: float, unit: str) -> list[Row]:
    """What each way does in a second, and beside the first, which is the plain one.

    >>> speeds({"loop": 4.0, "ours": 2.0}, count=100, unit="rows")[1]
    Row(what='ours', figure='50.00 rows/s', ratio='2.00')
    """
    plain, rows = next(iter(seconds.values())), []
    for way, spent in seconds.items():
        rate = markdown.number(count / spent, 0 if count / spent >= 100 else 2)
        rows.append(Row(way, f"{rate} {unit}/s", markdown.number(plain / spent, 2)))
    return rows


def show(rows: Sequence[Row], setting: str = "") -> str:
    """A Markdown table, and below it the device, the versions and the ``setting``."""
    headings = ["what", "measured", "times as fast"]
    below = "; ".join(filter(None, [describe(), setting]))
    return f"{markdown.table([headings, *rows])}\n\n{below}"
