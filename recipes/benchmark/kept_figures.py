"""Figures that outlive a killed benchmark: lines of JSON, and tables made from them."""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from custom_modules import markdown
from custom_modules.distributed import is_out_of_memory
from custom_modules.errors import InputError
from custom_modules.evaluation.record import git_commit
from custom_modules.files import prepare_folder
from custom_modules.tabular import write_text
from recipes.benchmark.campaign.page import replace_marked

#: The page that shows most figures.
PAGE = "recipes/benchmark/README.md"
FIGURES_FILE = "figures.jsonl"
#: Part of the lines that say what figures were measured on; the unit is another part, whose
#: figures alone are meant, or empty.
MACHINE = "machine"

#: The unit of a table that is measured as a whole, as ways side by side are.
WHOLE = "table"

#: Rows of a table, its headings first.
Rows = Sequence[Sequence[str]]
#: Part and unit → its line, with ``figures`` or with the ``reason`` why there are none.
Figures = dict[tuple[str, str], dict[str, Any]]


def run(
    parser: argparse.ArgumentParser,
    name: str,
    measure: Callable[[argparse.Namespace], None],
    render: Callable[[str | Path], str] | None = None,
    page: str = PAGE,
) -> None:
    """A benchmark whose tables stand on a page, between marks of a name.

    Measures what is not known, and prints what ``render`` (default: :func:`tables`) makes of
    the folder; with ``--page`` it only writes that on the page, from what is committed.
    """
    render, committed = render or tables, committed_at(page, name)
    add = parser.add_argument
    add("--output", default=f"results/{name}", metavar="FOLDER", help="of figures, so far known")
    add("--page", action="store_true", help=f"write {page} from {committed}")
    options = parser.parse_args()
    if options.page:
        if not read_figures(committed):
            parser.error(f"--page: no figures yet; measure with --output={committed}")
        return replace_marked(Path(page), name, render(committed))
    prepare_folder(options.output)
    measure(options)
    print(render(options.output))


def committed_at(page: str | Path, name: str) -> Path:
    """Where the figures are that a page shows between marks of a name.

    Beside the page, of README.md in docs.

    >>> str(committed_at("README.md", "demo"))
    'docs/figures/demo'
    """
    folder = Path(page).parent
    return (folder if folder.name else Path("docs")) / "figures" / name


def update_page(page: str | Path, name: str, on: str, found: Mapping[str, Rows]) -> str:
    """Keeps whole tables in place of those before, and shows them on a page; the text of it."""
    folder = committed_at(page, name)
    prepare_folder(folder)
    lines = [_line(MACHINE, "", figures=_setting(on))]
    lines += [_line(part, WHOLE, figures={"rows": rows}) for part, rows in found.items()]
    write_text(folder / FIGURES_FILE, "\n".join(lines) + "\n")
    replace_marked(Path(page), name, text := tables(folder))
    return text


def keep_table(
    folder: str | Path,
    part: str,
    on: str,
    make: Callable[..., Iterable[Sequence[str]]],
    *arguments: object,
) -> None:
    """Records a table that is measured as a whole, unless it is known."""
    if (part, WHOLE) in read_figures(folder):
        return check_setting(folder, on, part=part)
    print(f"{part} …", file=sys.stderr, flush=True)
    rows = list(make(*arguments))
    check_setting(folder, on, part=part)
    record(folder, part, WHOLE, figures={"rows": rows})


def tables(folder: str | Path) -> str:
    """All tables that were measured as a whole, and what each was measured on."""
    figures = read_figures(folder)
    parts = [part for part, unit in figures if unit == WHOLE]
    blocks: list[str] = []
    for part, following in zip(parts, [*parts[1:], None], strict=True):
        rows, setting = figures[part, WHOLE]["figures"]["rows"], setting_line(figures, part)
        blocks += [f"**{part}**"] * (len(parts) > 1)
        blocks.append(markdown.table(rows))
        if following is None or setting_line(figures, following) != setting:
            blocks.append(setting)
    return "\n\n".join(blocks)


def check_setting(folder: str | Path, on: str, tiny: bool = False, part: str = "") -> None:
    """Records what is measured on, and how; figures of two settings are never mixed.

    Of all figures of a folder, or of a ``part`` that has a setting of its own.
    """
    facts = {"on": on, "tiny": tiny}
    known = read_figures(folder).get((MACHINE, part), {}).get("figures")
    if known is None:
        record(folder, MACHINE, part, figures=_setting(**facts))
    elif known != known | facts:
        kind = f" ({part})" * bool(part) + " with --tiny" * known["tiny"]
        raise InputError(f"{folder}: holds figures of {known['on']}{kind}; name another --output")


def _setting(on: str, **facts: object) -> dict[str, object]:
    return {"on": on, **facts, **_made()}


def _made() -> dict[str, object]:
    return {"commit": git_commit(), "date": date.today().isoformat()}


def measure_missing(
    folder: str | Path, part: str, unit: str, function: Callable[..., Any], *arguments: object
) -> None:
    """Records the figures that a function returns, or why there are none."""
    if "figures" in read_figures(folder).get((part, unit), ()):
        return
    print(f"{part}: {unit} …", file=sys.stderr, flush=True)
    try:
        record(folder, part, unit, figures=function(*arguments), **_made())
    except Exception as error:
        if not isinstance(error, InputError) and not is_out_of_memory(error):
            raise
        fault = str(error) if isinstance(error, InputError) else "not enough memory"
        record(folder, part, unit, reason=fault)


def record(folder: str | Path, part: str, unit: str, **result: Any) -> None:
    """Adds a line: ``figures`` by their headings, or the ``reason`` of having none."""
    line = _line(part, unit, **result)
    with open(Path(folder, FIGURES_FILE), "a+b") as stream:
        # What a killed process left of a line must not swallow this one.
        stream.seek(max(0, stream.seek(0, 2) - 1))
        is_torn = stream.read(1) not in (b"", b"\n")
        stream.write(b"\n" * is_torn + line.encode() + b"\n")


def _line(part: str, unit: str, **result: object) -> str:
    return json.dumps({"part": part, "unit": unit, **result}, ensure_ascii=False)


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


def units_of(figures: Figures, part: str) -> dict[str, dict[str, Any]]:
    """The lines of a part by their units."""
    return {unit: line for (owner, unit), line in figures.items() if owner == part}


def setting_line(figures: Figures, part: str = "") -> str:
    """What figures were measured on and when, small, for below their tables."""
    facts = figures.get((MACHINE, part), figures.get((MACHINE, "")))["figures"]
    lines = [x for (name, _), x in figures.items() if name != MACHINE and part in ("", name)]
    made = [{**facts, **line} for line in lines if "figures" in line] or [facts]
    days = dict.fromkeys(f"commit {x['commit']}, {x['date']}" for x in made)
    return f"<sub>{'; '.join([facts['on'], *days])}</sub>"


def reasons(units: Mapping[str, dict[str, Any]]) -> list[str]:
    """A line for each unit that could not be measured."""
    return [f"{unit}: {line['reason']}" for unit, line in units.items() if "reason" in line]


def unit_table(
    first: str,
    columns: Mapping[str, Callable[[Mapping[str, Any]], str]],
    units: Mapping[str, dict[str, Any]],
) -> str:
    """A line for each unit by its name, a cell for each heading; below it, what has none and why.

    >>> print(unit_table("model", {"s": lambda x: f"{x['s']:.1f}"}, {"a": {"figures": {"s": 1}}}))
    | model |   s |
    | ----- | --: |
    | a     | 1.0 |
    """
    lines = [[first, *columns]]
    for unit, line in sorted(units.items()):
        found = line.get("figures")
        cells = (markdown.DASH if found is None else cell(found) for cell in columns.values())
        lines.append([unit, *cells])
    return "\n\n".join([markdown.table(lines), *reasons(units)])


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
