"""Tables of Markdown that read well as plain text, too."""

import math
from collections.abc import Sequence

#: What cannot be known.
DASH = "–"


def table(lines: Sequence[Sequence[str]]) -> str:
    """An aligned table: headings first; the first column is text, the others numbers.

    >>> print(table([["variant", "n"], ["SER", "76"]]))
    | variant |  n |
    | ------- | -: |
    | SER     | 76 |
    """
    # At least two: a lone colon is no rule of a Markdown table.
    widths = [max(2, *map(len, column)) for column in zip(*lines, strict=True)]
    rule = ["-" * widths[0], *("-" * (w - 1) + ":" for w in widths[1:])]
    return "\n".join(_line(line, widths) for line in (lines[0], rule, *lines[1:]))


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = zip(cells, widths, strict=True)
    numbers = (cell.rjust(width) for cell, width in others)
    return f"| {' | '.join([first[0].ljust(first[1]), *numbers])} |"


def number(value: float | None, decimals: int) -> str:
    """A number with so many decimals, or a dash for None and NaN.

    >>> number(-0.001, 2), number(float("nan"), 2)
    ('0.00', '–')
    """
    if value is None or math.isnan(value):
        return DASH
    # Adding 0 after rounding spares the reader a -0.00.
    return f"{round(value, decimals) + 0:.{decimals}f}"


def interval(low: float, high: float, decimals: int) -> str:
    """An interval, or a dash.

    >>> interval(-1.234, 2, 1)
    '-1.2 … 2.0'
    """
    if math.isnan(low):
        return DASH
    return f"{number(low, decimals)} … {number(high, decimals)}"
