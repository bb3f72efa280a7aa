"""Scores of conversations as tables, a page and a picture; several results side by side.

Scores are rows as :func:`arms.rows_of` makes them.
"""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from custom_modules import markdown
from custom_modules.conversation.arms import ARMS, KEYS
from custom_modules.conversation.measures import COLLAR, MEASURES, WORD_COLLAR, Measure
from custom_modules.curves import PALETTE, save
from custom_modules.errors import InputError
from custom_modules.evaluation.bootstrap import interval_of_ratio
from custom_modules.tabular import read_record, read_table, write_table, write_text

SCORES, SUMMARY = "conversation_scores.csv", "conversation_summary.csv"
PAGE, PICTURE = "conversation_summary.md", "conversation_summary.png"
RECORD = "conversation_record.json"
TEXT = "conversation_comparison"

#: Metrics that share a panel.
PANELS = (
    ("cpwer", "tcpwer", "orcwer"),
    ("der", "missed", "false_alarm", "confusion"),
    ("overlap_precision", "overlap_recall"),
    ("leakage",),
    ("si_sdr",),
)
#: Metrics that are divided by what the truth alone says.
TRUTH_ALONE = ("cpwer", "der_0")
NOTE = (
    "Sums over conversations are divided, not rates averaged; dB are means over tracks. "
    "Intervals are 95 % bootstrap intervals over conversations, of three or more; n is their "
    "number. "
    f"tcpWER: collar {WORD_COLLAR:g} s. ORC-WER: meeteval's greedy assignment, as the exact one "
    f"takes exponential time. DER: collar {COLLAR} s on each side of a boundary, overlaps "
    "scored; missed, false alarm and confusion are its parts. Leakage: level of others "
    "in a talker's track. SI-SDR: of tracks within true overlaps, against the dry voice."
)


def summarise(rows: pd.DataFrame) -> pd.DataFrame:
    """``arm, metric, value, low, high, n``; in the metric's unit, arms in their order."""
    parts = []
    for arm in _in_order(rows.arm, ARMS):
        sums, metrics = _sums(rows[rows.arm == arm])
        low, high = interval_of_ratio(sums, np.arange(len(sums)))
        scale = np.array([MEASURES[name].scale for name in metrics])
        part = pd.DataFrame({"arm": arm, "metric": metrics, "value": _ratio(sums) * scale})
        part = part.assign(low=low * scale, high=high * scale)
        parts.append(part.assign(n=(~np.isnan(sums[..., 0])).sum(axis=0)))
    return pd.concat(parts, ignore_index=True)


def _in_order(names: pd.Series, order: Mapping[str, Any]) -> list[str]:
    return [name for name in order if name in set(names)]


def _sums(rows: pd.DataFrame) -> tuple[np.ndarray, list[str]]:
    """``[sessions, metrics, 2]``, NaN where there is none; the metrics."""
    metrics = _in_order(rows.metric, MEASURES)
    tables = [
        rows.pivot(index="session", columns="metric", values=name)[metrics]
        for name in ("total", "base")
    ]
    return np.stack([t.to_numpy(float) for t in tables], axis=2), metrics


def _ratio(sums: np.ndarray) -> np.ndarray:
    total = np.nansum(sums, axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(total[:, 1] > 0, total[:, 0] / total[:, 1], np.nan)


def write_results(rows: pd.DataFrame, folder: Path, record: dict[str, Any]) -> pd.DataFrame:
    """Writes scores, summary, page and picture to a folder; the summary."""
    summary = summarise(rows)
    write_table(rows, folder / SCORES)
    write_table(summary, folder / SUMMARY, digits=6)
    write_text(folder / PAGE, page(summary, record))
    save(plot(summary), folder / PICTURE)
    return summary


def page(summary: pd.DataFrame, record: Mapping[str, Any]) -> str:
    """The summary as Markdown."""
    arms = [f"- `{arm}`: {ARMS[arm].about}" for arm in _in_order(summary.arm, ARMS)]
    facts = [f"- {key}: {value}" for key, value in record.items()]
    parts = [
        f"# {record['model']}, conversations",
        main_table(summary),
        "\n".join(arms),
        textwrap.fill(NOTE, 83, break_on_hyphens=False),
        "## How it was made",
        "\n".join(facts),
    ]
    return "\n\n".join(parts) + "\n"


def main_table(summary: pd.DataFrame) -> str:
    """A row per metric, an arm per column, each with its interval."""
    arms = _in_order(summary.arm, ARMS)
    cells = summary.set_index(["arm", "metric"])
    lines = [["metric", "unit", "n", *arms]]
    for name in _in_order(summary.metric, MEASURES):
        known = [cells.loc[(arm, name)] for arm in arms if (arm, name) in cells.index]
        counts = sorted({int(cell.n) for cell in known})
        line = [MEASURES[name].heading, MEASURES[name].unit, " to ".join(map(str, counts))]
        for arm in arms:
            there = (arm, name) in cells.index
            line.append(_cell(cells.loc[(arm, name)], MEASURES[name]) if there else markdown.DASH)
        lines.append(line)
    return markdown.table(lines)


def _cell(cell: pd.Series, metric: Measure) -> str:
    text = markdown.number(cell.value, metric.decimals)
    bounds = markdown.interval(cell.low, cell.high, metric.decimals)
    return text if bounds == markdown.DASH else f"{text} [{bounds}]"


def plot(summary: pd.DataFrame) -> Figure:
    """A panel for each kind of metric, a bar for each arm, with its interval."""
    panels = [[m for m in panel if m in set(summary.metric)] for panel in PANELS]
    panels = [panel for panel in panels if panel]
    arms, widths = _in_order(summary.arm, ARMS), [len(panel) + 0.5 for panel in panels]
    figure = Figure(figsize=(1.5 * sum(widths) + 2, 4.2), layout="constrained")
    grid = figure.subplots(1, len(panels), width_ratios=widths, squeeze=False)[0]
    for axes, panel in zip(grid, panels, strict=True):
        for place, arm in enumerate(arms):
            part = summary[summary.arm == arm].set_index("metric").reindex(panel)
            x = np.arange(len(panel)) + (place - (len(arms) - 1) / 2) * 0.8 / len(arms)
            spread = np.nan_to_num([part.value - part.low, part.high - part.value]).clip(0)
            look = {"width": 0.75 / len(arms), "color": PALETTE[place], "capsize": 2}
            axes.bar(x, part.value, yerr=spread, label=arm, error_kw={"lw": 0.8}, **look)
        headings = [MEASURES[m].heading.replace(" ", "\n", 1) for m in panel]
        axes.set_xticks(range(len(panel)), headings)
        axes.set_ylabel(MEASURES[panel[0]].unit)
        axes.axhline(0, color="black", linewidth=0.6)
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(arms), frameon=False)
    return figure


def read_results(folder: str | Path) -> tuple[str, pd.DataFrame]:
    """The name of what was evaluated, and its rows."""
    remedy = "run recipes/conversation/evaluate.py first, or again"
    record = read_record(Path(folder) / RECORD, remedy)
    rows = read_table(Path(folder) / SCORES, [*KEYS, "total", "base"], KEYS, remedy)
    known = rows.arm.isin(ARMS) & rows.metric.isin(MEASURES)
    if not known.all() or rows.duplicated(list(KEYS)).any():
        row = int((~known | rows.duplicated(list(KEYS))).idxmax()) + 2
        raise InputError(f"{folder}/{SCORES}, row {row}: is no score; {remedy}")
    return str(record.get("model", folder)), rows


def compare(folders: Sequence[str | Path]) -> pd.DataFrame:
    """Each result's summary, and its differences from the first, of the same conversations.

    ``model, arm, metric, value, low, high, n, difference, difference_low, difference_high``.
    """
    results = {str(folder): read_results(folder) for folder in folders}
    if len(results) < 2:
        raise InputError("--compare takes two folders or more, each once")
    tables = [rows for _, rows in results.values()]
    shared = set.intersection(*(set(map(tuple, t[[*KEYS]].to_numpy())) for t in tables))
    if not shared:
        raise InputError(f"{', '.join(results)}: no conversation and arm in common")
    _check_truth({folder: rows for folder, (_, rows) in results.items()})
    parts, first = [], None
    names = [name for name, _ in results.values()]
    for folder, (name, rows) in results.items():
        kept = rows[[tuple(key) in shared for key in rows[[*KEYS]].to_numpy()]]
        first = kept if first is None else first
        part = summarise(kept)
        part.insert(0, "model", folder if names.count(name) > 1 else name)
        parts.append(part.merge(_differences(kept, first), on=["arm", "metric"]))
    return pd.concat(parts, ignore_index=True)


def _check_truth(tables: Mapping[str, pd.DataFrame]) -> None:
    """Names alone say little: words and seconds of speech in the truth must be the same."""
    of_truth = {
        folder: rows[rows.metric.isin(TRUTH_ALONE)].set_index([*KEYS]).base
        for folder, rows in tables.items()
    }
    (first, reference), *others = of_truth.items()
    for folder, bases in others:
        pairs = pd.concat([reference, bases], axis=1, join="inner").to_numpy()
        if not np.allclose(pairs[:, 0], pairs[:, 1], rtol=1e-3):
            raise InputError(
                f"{first} and {folder}: other conversations under the same names; run "
                "evaluate.py with one --data_folder for both"
            )


def _differences(rows: pd.DataFrame, first: pd.DataFrame) -> pd.DataFrame:
    """By arm and metric: value less the first's, with its interval."""
    parts = []
    for arm in _in_order(rows.arm, ARMS):
        sums, metrics = _sums(rows[rows.arm == arm])
        other, _ = _sums(first[first.arm == arm])
        scale = np.array([MEASURES[name].scale for name in metrics])
        low, high = interval_of_ratio(sums, np.arange(len(sums)), less=other)
        value = _ratio(sums) - _ratio(other)
        part = pd.DataFrame({"arm": arm, "metric": metrics, "difference": value * scale})
        parts.append(part.assign(difference_low=low * scale, difference_high=high * scale))
    return pd.concat(parts, ignore_index=True)


def write_comparison(table: pd.DataFrame, folder: Path) -> str:
    """Writes it as CSV and Markdown; the latter."""
    models = list(dict.fromkeys(table.model))
    parts = [f"# {', '.join(models)}"]
    cells = table.set_index(["model", "arm", "metric"])
    for arm in _in_order(table.arm, ARMS):
        lines = [["metric", "unit", *models, *(f"{m} − {models[0]}" for m in models[1:])]]
        for name in _in_order(table[table.arm == arm].metric, MEASURES):
            metric = MEASURES[name]
            rows = [cells.loc[(model, arm, name)] for model in models]
            line = [metric.heading, metric.unit, *(_cell(row, metric) for row in rows)]
            for row in rows[1:]:
                bounds = row.difference, row.difference_low, row.difference_high
                named = dict(zip(("value", "low", "high"), bounds, strict=True))
                line.append(_cell(pd.Series(named), metric))
            lines.append(line)
        parts += [f"## {arm}", markdown.table(lines)]
    parts.append("Differences are of the same conversations, with 95 % bootstrap intervals.")
    text = "\n\n".join(parts) + "\n"
    write_table(table, folder / f"{TEXT}.csv", digits=6)
    write_text(folder / f"{TEXT}.md", text)
    return text
