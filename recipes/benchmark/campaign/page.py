"""The page of results: tables between marks, made from committed CSV files."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from custom_modules import markdown
from custom_modules.errors import InputError
from custom_modules.evaluation.comparison import (
    decimals_of,
    heading_of,
    improvements,
    mean_over_seeds,
)
from custom_modules.evaluation.summary import ALL_MIXTURES
from custom_modules.files import atomic_path

#: In the folder of a campaign's figures.
COMPARISON, COSTS, RUNS = "comparison.csv", "costs.csv", "runs.csv"
PICTURE, RECORD = "comparison.png", "campaign.json"

#: Column of ``costs.csv`` or ``runs.csv`` → heading, divisor, decimals.
COST_COLUMNS = {
    "parameters": ("parameters, M", 1e6, 2),
    "macs_per_second": ("GMAC per s of audio", 1e9, 2),
    "real_time_factor": ("real-time factor", 1, 3),
    "inference_mib": ("inference, MiB", 1, 0),
    "step_mib": ("training, MiB", 1, 0),
    "steps": ("steps", 1, 0),
    "minutes_per_epoch": ("min per epoch", 1, 1),
    "minutes": ("min in all", 1, 1),
}


def update_page(page: str | Path, name: str, folder: str | Path) -> None:
    """Writes the figures in ``folder`` into a page, between the marks of their name."""
    page, folder = Path(page), Path(folder)
    before, after = around_marks(page, name)
    begin, end = _marks(name)
    picture = f"![SI-SDRi by variant]({folder.relative_to(page.parent)}/{PICTURE})"
    middle = "\n\n".join([begin, *_sections(folder), picture, end])
    with atomic_path(page) as path:
        path.write_text(before + middle + after, encoding="utf-8")


def around_marks(page: str | Path, name: str) -> tuple[str, str]:
    """A page's text before and after a campaign's tables; refuses one without marks."""
    begin, end = _marks(name)
    try:
        text = Path(page).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{page}: cannot be read; name another --page") from error
    before, found_begin, rest = text.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end:
        raise InputError(f"{page}: has no {begin} … {end} to write between")
    return before, after


def _marks(name: str) -> tuple[str, str]:
    return f"<!-- begin {name} -->", f"<!-- end {name} -->"


def _sections(folder: Path) -> list[str]:
    """The tables of a campaign in Markdown, each with what made it."""
    scores = pd.read_csv(folder / COMPARISON)
    costs = pd.read_csv(folder / COSTS).merge(_pooled(pd.read_csv(folder / RUNS)))
    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    gains = scores[scores.metric == "si_sdri"]
    over_all = scores[scores.variant == ALL_MIXTURES]
    tables = {
        "SI-SDRi by variant, dB": _score_table(gains, "variant"),
        "Every metric's improvement, over all mixtures": _score_table(
            over_all, "metric"
        ),
        "What it costs": _cost_table(costs),
    }
    parts = []
    for title, table in tables.items():
        parts += [f"#### {title}", table, _made_by(record)]
    return parts


def _score_table(scores: pd.DataFrame, key: str) -> str:
    """A row for each value of the column ``key``, a column for each architecture.

    A cell is the mean ± the standard deviation over seeds, and the 95 % bootstrap
    interval of the mean.
    """
    scores = scores[scores.metric.isin(improvements())]
    models = list(dict.fromkeys(scores.model))
    lines = [[key, "n", *models]]
    for row, part in scores.groupby(key, sort=False):
        by_model = part.set_index("model")
        name = heading_of(row) if key == "metric" else row
        cells = [_score_cell(by_model.loc[model]) for model in models]
        lines.append([name, str(part.n.iloc[0]), *cells])
    return markdown.table(lines)


def _score_cell(cell: pd.Series) -> str:
    if pd.isna(cell["mean"]):
        return markdown.DASH
    decimals = decimals_of(cell.metric)
    interval = markdown.interval(cell.ci_low, cell.ci_high, decimals)
    return f"{mean_over_seeds(cell, decimals)} [{interval}]"


def _cost_table(costs: pd.DataFrame) -> str:
    """A row for each architecture; columns in ``_std`` are deviations over seeds."""
    lines = [["architecture", *(heading for heading, *_ in COST_COLUMNS.values())]]
    for _, row in costs.iterrows():
        line = [row.model]
        for column, (_, divisor, decimals) in COST_COLUMNS.items():
            cell = markdown.number(row[column] / divisor, decimals)
            spread = row.get(f"{column}_std", float("nan"))
            if not pd.isna(spread):
                cell += f" ± {markdown.number(spread, decimals)}"
            line.append(cell)
        lines.append(line)
    return markdown.table(lines)


def _pooled(runs: pd.DataFrame) -> pd.DataFrame:
    """Means and deviations over the seeds of each architecture."""
    columns = ["steps", "minutes_per_epoch", "minutes"]
    by_model = runs.groupby("model", sort=False)[columns]
    spread = by_model.std().drop(columns="steps").add_suffix("_std")
    return by_model.mean().join(spread).reset_index()


def _made_by(record: dict[str, Any]) -> str:
    """What a table says of itself, from ``campaign.json``."""
    facts = [
        f"`{record['command']}`",
        f"{record['budget_minutes']:g} min of training a run",
        f"seeds {', '.join(map(str, record['seeds']))}",
        f"commit {', '.join(record['commits'])}",
        record["device"],
        ", ".join(record["versions"]),
        " … ".join(dict.fromkeys([record["days"][0], record["days"][-1]])),
    ]
    return f"<sub>{'; '.join(facts)}</sub>"
