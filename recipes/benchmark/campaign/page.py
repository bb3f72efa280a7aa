"""The page of results: tables between marks, made from committed CSV files."""

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd

from custom_modules import markdown
from custom_modules.errors import InputError
from custom_modules.evaluation.comparison import COMPARED_WORDS_FILE, improvements, score_cell
from custom_modules.evaluation.pairwise import PAIRS_FILE, sections
from custom_modules.evaluation.summary import ALL_MIXTURES
from custom_modules.files import prepare_folder
from custom_modules.mmipc import VARIANTS
from custom_modules.tabular import write_text

#: In the folder of a campaign's figures.
COMPARISON, COSTS, RUNS = "comparison.csv", "costs.csv", "runs.csv"
WORDS = COMPARED_WORDS_FILE  # where there is a recogniser
PAIRS = PAIRS_FILE  # campaigns of before have none
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
    replace_marked(Path(page), name, render(Path(page), Path(folder)))


def replace_marked(page: Path, name: str, text: str) -> None:
    """Puts a text between the marks of a name."""
    before, after = around_marks(page, name)
    write_text(page, "\n\n".join([before, text, after]))


def render(page: Path, folder: Path) -> str:
    """What a page shows of the figures in a folder."""
    picture = f"![SI-SDRi by variant]({folder.relative_to(page.parent)}/{PICTURE})"
    return "\n\n".join([*_sections(folder), picture])


def begin_page(page: Path, name: str) -> None:
    """Writes a page with nothing but marks of a name, if there is none."""
    if not page.exists():
        prepare_folder(page.parent)
        write_text(page, f"# Results\n\n<!-- begin {name} -->\n\n<!-- end {name} -->\n")


def around_marks(page: str | Path, name: str) -> tuple[str, str]:
    """A page up to the mark where a campaign's tables begin, and from their end."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    try:
        text = Path(page).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{page}: cannot be read; name another --page") from error
    parts = re.fullmatch(f"(.*?{begin}).*?({end}.*)", text, flags=re.DOTALL)
    if not parts:
        raise InputError(f"{page}: has no {begin} … {end} to write between")
    return parts[1], parts[2]


def _sections(folder: Path) -> list[str]:
    """The tables of a campaign in Markdown, and what made them."""
    scores, costs, runs = (pd.read_csv(folder / f) for f in (COMPARISON, COSTS, RUNS))
    of_all = scores[(scores.variant == ALL_MIXTURES) & scores.metric.isin(improvements())]
    parts = [
        *("#### Every metric's improvement, over all mixtures", _score_table(of_all, "metric")),
        "#### SI-SDRi by variant, dB",
        _score_table(scores[scores.metric == "si_sdri"], "variant"),
    ]
    if (folder / WORDS).exists():
        words = pd.read_csv(folder / WORDS)
        parts += ["#### Words wrong by variant, %", _word_table(words)]
    if (folder / PAIRS).exists():
        parts += sections(pd.read_csv(folder / PAIRS), "####")
    made_by = _made_by(json.loads((folder / RECORD).read_text(encoding="utf-8")))
    return [*parts, "#### What it costs", _cost_table(costs, runs), made_by]


def _score_table(scores: pd.DataFrame, key: str) -> str:
    """A row for each architecture, a column for each metric or variant; n and voices below."""
    columns = [*dict.fromkeys(scores[key])]
    cells = scores.set_index(["model", key], drop=False)
    metrics = improvements()
    heading = {x: metrics[x].heading if key == "metric" else x for x in columns}
    lines = [["architecture", *heading.values()]]
    for model in dict.fromkeys(scores.model):
        found = [cells.loc[(model, column)] for column in columns]
        line = [score_cell(x, metrics[x.metric].decimals, key == "metric") for x in found]
        lines.append([str(model), *line])
    counted = [name for name in ("n", "voices") if name in scores and scores[name].notna().any()]
    first = [cells.loc[(scores.model.iloc[0], column)] for column in columns]
    lines += [[name, *(markdown.number(x[name], 0) for x in first)] for name in counted]
    return markdown.table(lines)


def _word_table(words: pd.DataFrame) -> str:
    """Word error rates of the mixtures, and of each architecture's outputs."""
    variants = [*dict.fromkeys(words.variant)]
    if sum(name in VARIANTS for name in variants) == 1:
        variants.remove(ALL_MIXTURES)  # are that variant's
    cells = words.set_index(["model", "variant", "arm"])
    first = words.model.iloc[0]
    rows = {"each voice alone": (first, "targets"), "mixture": (first, "mixture")}
    rows |= {str(model): (model, "model") for model in dict.fromkeys(words.model)}
    lines = [["architecture", *variants]]
    for name, (model, arm) in rows.items():
        found = [cells.loc[(model, variant, arm)] for variant in variants]
        line = (
            f"{markdown.number(x.wer, 1)} [{markdown.interval(x.low, x.high, 1)}]" for x in found
        )
        lines.append([name, *line])
    return markdown.table(lines)


def _cost_table(costs: pd.DataFrame, runs: pd.DataFrame) -> str:
    """A row for each architecture; of minutes, with deviations over the seeds."""
    by_model = runs.groupby("model")[["steps", "minutes_per_epoch", "minutes"]]
    means = costs.set_index("model").join(by_model.mean(), how="inner")
    spreads = by_model.std().drop(columns="steps").to_dict("index")
    lines = [["architecture", *(heading for heading, *_ in COST_COLUMNS.values())]]
    for model, row in means.to_dict("index").items():
        line = [str(model)]
        for column, (_, divisor, decimals) in COST_COLUMNS.items():
            cell = markdown.number(row[column] / divisor, decimals)
            if not pd.isna(spread := spreads[model].get(column)):
                cell += f" ± {markdown.number(spread, decimals)}"
            line.append(cell)
        lines.append(line)
    return markdown.table(lines)


def _made_by(record: dict[str, Any]) -> str:
    """What a table says of itself, from ``campaign.json``."""
    tested, trained = record["commits"], record.get("trained_at", [])
    one = {commit[:7] for commit in trained} in ({commit[:7] for commit in tested}, set())
    commit = "commit" if one else f"trained at commit {', '.join(trained)}, tested at"
    facts = [
        f"`{record['command']}`",
        f"{record['budget_minutes']:g} min of training a run",
        f"seeds {', '.join(map(str, record['seeds']))}",
        f"{commit} {', '.join(tested)}",
        record["device"],
        ", ".join(record["versions"]),
        " … ".join(dict.fromkeys([record["days"][0], record["days"][-1]])),
    ]
    return f"<sub>{'; '.join(facts)}</sub>"
