"""The page of results: tables between marks, made from committed CSV files."""

import json
from pathlib import Path

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


def update_page(page, name, folder):
    """Writes a campaign's tables into a page, between the marks of its name.

    Arguments
    ---------
    page : str or pathlib.Path
        Markdown, with ``<!-- begin NAME -->`` and ``<!-- end NAME -->``.
    name : str
    folder : str or pathlib.Path
        With the campaign's figures; beside or below the page.

    Raises
    ------
    InputError
        If the page lacks the marks.
    """
    page, folder = Path(page), Path(folder)
    before, after = around_marks(page, name)
    begin, end = marks(name)
    picture = f"![SI-SDRi by variant]({folder.relative_to(page.parent)}/{PICTURE})"
    middle = "\n\n".join([begin, *sections(folder), picture, end])
    with atomic_path(page) as path:
        path.write_text(before + middle + after, encoding="utf-8")


def marks(name):
    """What stands before and after a campaign's tables."""
    return f"<!-- begin {name} -->", f"<!-- end {name} -->"


def around_marks(page, name):
    """A page's text before and after a campaign's tables.

    Arguments
    ---------
    page : str or pathlib.Path
    name : str

    Returns
    -------
    before, after : str

    Raises
    ------
    InputError
        If the page cannot be read, or lacks the marks.
    """
    begin, end = marks(name)
    try:
        text = Path(page).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{page}: cannot be read; name another --page") from error
    before, found, rest = text.partition(begin)
    _, also_found, after = rest.partition(end)
    if not found or not also_found:
        raise InputError(f"{page}: has no {begin} … {end} to write between")
    return before, after


def sections(folder):
    """The tables of a campaign, each with what made it.

    Arguments
    ---------
    folder : str or pathlib.Path

    Returns
    -------
    list of str
        Markdown.
    """
    folder = Path(folder)
    scores = pd.read_csv(folder / COMPARISON)
    costs = pd.read_csv(folder / COSTS).merge(_pooled(pd.read_csv(folder / RUNS)))
    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    made = made_by(record)
    return [
        "#### SI-SDRi by variant, dB",
        score_table(scores[scores.metric == "si_sdri"], "variant"),
        made,
        "#### Every metric's improvement, over all mixtures",
        score_table(scores[scores.variant == ALL_MIXTURES], "metric"),
        made,
        "#### What it costs",
        cost_table(costs),
        made,
    ]


def score_table(scores, key):
    """Means and intervals, an architecture in each column.

    Arguments
    ---------
    scores : pandas.DataFrame
        From :func:`custom_modules.evaluation.comparison.compare`.
    key : str
        The column whose values are the rows: ``variant`` or ``metric``.

    Returns
    -------
    str
        Markdown. A cell is the mean ± the standard deviation over seeds, and the
        95 % bootstrap interval of the mean.
    """
    scores = scores[scores.metric.isin(improvements())]
    models = list(dict.fromkeys(scores.model))
    lines = [[key, "n", *models]]
    for row, part in scores.groupby(key, sort=False):
        part = part.set_index("model")
        name = heading_of(row) if key == "metric" else row
        line = [name, str(part.n.iloc[0])]
        for model in models:
            cell = part.loc[model]
            line.append(score_cell(cell, decimals_of(cell.metric)))
        lines.append(line)
    return markdown.table(lines)


def score_cell(cell, decimals):
    """One cell: mean ± deviation over seeds [interval], or a dash.

    Arguments
    ---------
    cell : pandas.Series
    decimals : int

    Returns
    -------
    str
    """
    if pd.isna(cell["mean"]):
        return markdown.DASH
    mean = mean_over_seeds(cell, decimals)
    return f"{mean} [{markdown.interval(cell.ci_low, cell.ci_high, decimals)}]"


def cost_table(costs):
    """Size, arithmetic, time and memory, an architecture in each row.

    Arguments
    ---------
    costs : pandas.DataFrame
        With the columns of ``COST_COLUMNS``; those that end in ``_std`` are the
        standard deviations over seeds.

    Returns
    -------
    str
    """
    lines = [["architecture", *(heading for heading, *_ in COST_COLUMNS.values())]]
    for _, row in costs.iterrows():
        line = [row.model]
        for column, (_, divisor, decimals) in COST_COLUMNS.items():
            cell = markdown.number(row[column] / divisor, decimals)
            spread = row.get(f"{column}_std", float("nan"))
            known = not pd.isna(spread)
            line.append(
                f"{cell} ± {markdown.number(spread, decimals)}" if known else cell
            )
        lines.append(line)
    return markdown.table(lines)


def made_by(record):
    """What a table says of itself.

    Arguments
    ---------
    record : dict
        ``campaign.json``

    Returns
    -------
    str
    """
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


def _pooled(runs):
    """Means and deviations over the seeds of each architecture."""
    wanted = runs.groupby("model", sort=False)[
        ["steps", "minutes_per_epoch", "minutes"]
    ]
    spread = wanted.std().drop(columns="steps").add_suffix("_std")
    return wanted.mean().join(spread).reset_index()
