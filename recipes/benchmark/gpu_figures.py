"""The figures of gpu.py: lines of JSON, and tables that are made from them."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from custom_modules import markdown

FIGURES_FILE = "figures.jsonl"
#: Part and unit of the line that says what the figures were measured on.
MACHINE = ("machine", "")

#: Part and unit → its line, with ``figures`` or with the ``reason`` why there are none.
Figures = dict[tuple[str, str], dict[str, Any]]


def record(folder: str | Path, part: str, unit: str, **result: Any) -> None:
    """Adds a line: ``figures`` by their headings, or the ``reason`` of having none."""
    line = json.dumps({"part": part, "unit": unit, **result}, ensure_ascii=False)
    with open(Path(folder, FIGURES_FILE), "a+b") as stream:
        # What a killed process left of a line must not swallow this one.
        stream.seek(max(0, stream.seek(0, 2) - 1))
        is_torn = stream.read(1) not in (b"", b"\n")
        stream.write(b"\n" * is_torn + line.encode() + b"\n")


def read_lines(folder: str | Path) -> Iterator[dict[str, Any]]:
    """All lines that are whole, the oldest first."""
    path = Path(folder, FIGURES_FILE)
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            yield json.loads(line)
        except ValueError:
            continue


def read_figures(folder: str | Path) -> Figures:
    """What is known of each unit; figures outlive a later reason."""
    known: Figures = {}
    for line in read_lines(folder):
        key = line["part"], line["unit"]
        if "figures" in line or "figures" not in known.get(key, ()):
            known[key] = line
    return known


def table(headings: str, units: Mapping[str, dict[str, Any]]) -> str:
    """A line for each unit, whose words have these headings; reasons come last.

    >>> print(table("name", {"a": {"figures": {"ms": 1234.5}}, "b": {"reason": "?"}}))
    | name |   ms | not measured |
    | ---- | ---: | -----------: |
    | a    | 1234 |              |
    | b    |    – |            ? |
    """
    known = [line.get("figures", {}) for line in units.values()]
    columns = list(dict.fromkeys(name for figures in known for name in figures))
    reasons = ["not measured"] * any("reason" in line for line in units.values())
    lines = [[*headings.split(), *columns, *reasons]]
    for unit, line in units.items():
        words = unit.split() + [""] * (len(headings.split()) - len(unit.split()))
        cells = [_cell(line.get("figures", {}).get(name)) for name in columns]
        reason = line.get("reason", "").replace("|", "\\|")
        lines.append([*words, *cells, *[reason] * len(reasons)])
    return markdown.table(lines)


def _cell(value: float | None) -> str:
    """Three digits, or all before the point."""
    if value is None:
        return markdown.DASH
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
