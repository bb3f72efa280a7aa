"""Results as rows of scores, and their summaries as Markdown."""

import textwrap
from collections.abc import Collection, Iterable
from pathlib import Path

import pandas as pd

from custom_modules import markdown
from custom_modules.curves import save
from custom_modules.dataio import MixtureDataset
from custom_modules.evaluation import plots
from custom_modules.evaluation.record import RECORD_FILE, RESULTS_FILE, SUMMARY_FILE, record_lines
from custom_modules.evaluation.scoring import DECIMALS, Failure, SignalScores
from custom_modules.evaluation.store import ScoreStore
from custom_modules.evaluation.summary import ALL_MIXTURES, EVERY, ROW_KEYS, describe, summarise
from custom_modules.evaluation.voices import caption
from custom_modules.evaluation.words import WordResults
from custom_modules.metrics import METRICS, Metric, columns_of, metrics_of
from custom_modules.mmipc import VARIANTS, is_target, num_sources, variants_of
from custom_modules.tabular import write_record, write_table, write_text

#: Suffix of a column → who the row of the table is of.
SYSTEMS = {"": "model", "_mixture": "mixture", "_oracle": "oracle"}

NOTE = (
    "Means over mixtures, of which each is the mean over its sources; {in_db} in dB, "
    "PESQ {{mode}} (MOS-LQO). `i` is the improvement over the mixture, `oracle` what "
    "removing the background alone, without parting the speakers, would give. "
    "{{intervals}}; all variants is the mean of the variants' means, all mixtures weighs "
    "every mixture and variant alike."
)


def result_rows(
    dataset: MixtureDataset, store: ScoreStore, groups: Collection[str]
) -> pd.DataFrame:
    """The rows of ``test_results.csv``, in the order of the manifest.

    InputError if scores are missing, as those of a process that wrote them elsewhere.
    """
    sources = num_sources(dataset.task)
    metrics = metrics_of(groups, sources)
    chosen = set(dataset.data_ids)
    scored = []
    for name in (name for name in dataset.data if name in chosen):
        known = {"id": name, **describe(dataset.data[name], dataset.task)}
        for variant in variants_of(known["environment"], dataset.variants):
            scores = store.scores(name, variant, metrics)
            scored.append((known | {"variant": variant}, scores))
    return score_rows(scored, groups, sources)


def score_rows(
    scored: Iterable[tuple[dict, dict[str, SignalScores]]], groups: Collection[str], sources: int
) -> pd.DataFrame:
    """Rows of mixtures by variant, each of which comes as its keys and scores.

    ``failures`` are tuples of texts.
    """
    rows = []
    for keys, scores in scored:
        improvable = not is_target(keys["variant"], sources)
        for source in range(sources):
            row = _source_row(scores, source, improvable)
            rows.append({**keys, "source": source + 1, **row})
    table = pd.DataFrame(rows)
    names = metrics_of(groups, sources)
    suffixes = ("", "_oracle")[:sources]
    of_signals = [f"{n}{suffix}" for n in names for suffix in ("_mixture", *suffixes)]
    table = table.astype(dict.fromkeys(of_signals, float))
    mixture = table[[f"{name}_mixture" for name in names]].to_numpy()
    improvable = ~table.variant.map(lambda variant: is_target(variant, sources))
    for suffix in suffixes:
        gains = table[[f"{name}{suffix}" for name in names]] - mixture
        gains = gains.where(improvable, axis=0).round(DECIMALS) + 0.0
        table[[f"{name}i{suffix}" for name in names]] = gains
    return table[[*ROW_KEYS, *columns_of(groups, sources), "failures"]]


def _source_row(
    scores: dict[str, SignalScores], source: int, improvable: bool
) -> dict[str, object]:
    """The scores of one source, and what failed, signal by signal."""
    row: dict[str, object] = {}
    failures = []
    for suffix in SYSTEMS:
        by_metric = {name: x[suffix][source] for name, x in scores.items() if suffix in x}
        failed = [x for x in by_metric.values() if isinstance(x, Failure)]
        target_failed = any(failure.where == "target" for failure in failed)
        if suffix == "_mixture" and not improvable and not target_failed:
            failures.append("mixture: the target itself, nothing to improve")
        failures += map(str, failed)
        for name, score in by_metric.items():
            row[f"{name}{suffix}"] = None if isinstance(score, Failure) else score
    return row | {"failures": tuple(dict.fromkeys(failures))}


def write_rows(rows: pd.DataFrame, path: str | Path) -> None:
    """Writes rows of scores as CSV."""
    write_table(rows.assign(failures=rows.failures.map("; ".join)), path)


def write_results(
    rows: pd.DataFrame, folder: Path, record: dict, words: WordResults | None = None
) -> tuple[pd.DataFrame, list[Path]]:
    """Writes ``test_results.csv``, summary, tables, record and pictures to a folder.

    The summary and the paths of the pictures come back.
    """
    summary = summarise(rows)
    if words:
        words.write(folder)
        record = record | {"words": words.facts}
    write_rows(rows, folder / RESULTS_FILE)
    write_table(summary, folder / SUMMARY_FILE, digits=6)
    write_text(folder / "test_summary.md", report(rows, summary, record, words))
    write_record(record, folder / RECORD_FILE)
    name = f"{record['model_name']}, {record['task']}"
    pictures = {
        "test_results.png": plots.plot_variants(summary, name),
        "test_metrics.png": plots.plot_metrics(summary, name),
        "test_distribution.png": plots.plot_distribution(rows, name),
        "test_in_out.png": plots.plot_in_out(rows, name),
    }
    if words:
        pictures["test_words.png"] = plots.plot_words(rows, words.rows, name)
    return summary, [save(figure, folder / name) for name, figure in pictures.items()]


def report(
    rows: pd.DataFrame, summary: pd.DataFrame, record: dict, words: WordResults | None = None
) -> str:
    """All tables as one Markdown document."""
    every = summary[summary.group == EVERY]
    mode = "narrow band" if record["sample_rate"] == 8000 else "wide band"
    *names, last = [x.heading for x in METRICS.values() if x.unit == "dB"]
    note = NOTE.format(in_db=f"{', '.join(names)} and {last}")
    parts = [
        f"# {record['model_name']}, task {record['task']}, {record['split']} set",
        main_table(summary, words),
        textwrap.fill(note.format(mode=mode, intervals=caption(rows)), 83, break_on_hyphens=False),
        "## Scores beside the mixture and the oracle",
        scores_table(every),
        "## Spread: mean ± standard deviation [95 % interval]",
        spread_table(every),
    ]
    groups = summary[(summary.group != EVERY) & (summary.variant == ALL_MIXTURES)]
    if len(groups):
        parts += ["## By environment, genders and speech-to-speech ratio, all mixtures"]
        parts += [gains_table(groups, key="group")]
    parts += words.sections() if words else []
    failures = failures_table(rows)
    parts += ["## Failures", failures or "None: every metric could be computed."]
    parts += ["## How it was made", "\n".join(record_lines(record))]
    return "\n\n".join(parts) + "\n"


def main_table(summary: pd.DataFrame, words: WordResults | None = None) -> str:
    """The table of improvements per variant, and of the words if they were counted."""
    return gains_table(summary[summary.group == EVERY], words=words)


def gains_table(
    summary: pd.DataFrame, key: str = "variant", words: WordResults | None = None
) -> str:
    """Mean improvements over the mixture, SI-SDRi with its interval and oracle.

    ``key``, variant or group, names the rows. ``incomplete`` counts sources that lack a
    score of some metric and signal, if there are any.
    """
    (base, first), *others = _metrics(summary).items()
    main, oracle = _column(summary, f"{base}i"), _column(summary, f"{base}i_oracle")
    columns = {key: main[key], "n": main.n.map("{:.0f}".format)}
    if main.voices.notna().any():
        columns["voices"] = [markdown.number(x, 0) for x in main.voices]
    if main.incomplete.any():
        columns["incomplete"] = main.incomplete.map(str)
    columns[f"{first.heading}i"] = _numbers(main["mean"], first)
    columns["95 % interval"] = _intervals(main, first)
    columns["std"] = _numbers(main["std"], first)
    if len(oracle):
        columns[f"oracle {first.heading}i"] = _numbers(oracle["mean"], first)
    for name, metric in others:
        mean = _column(summary, f"{name}i")["mean"]
        columns[f"{metric.heading}i"] = _numbers(mean, metric)
    if words:
        heading, cells = words.column()
        columns[heading] = [cells.get(name, markdown.DASH) for name in main[key]]
    return _table(columns)


def scores_table(summary: pd.DataFrame) -> str:
    """Mean scores of the model, the mixture and the oracle, in three rows each."""
    columns: dict[str, list[str]] = {"variant": [], "of": []}
    systems = {s: name for s, name in SYSTEMS.items() if len(_column(summary, f"si_sdr{s}"))}
    for variant in dict.fromkeys(summary.variant):
        columns["variant"] += [variant, *[""] * (len(systems) - 1)]
        columns["of"] += systems.values()
    for name, metric in _metrics(summary).items():
        means = [_column(summary, f"{name}{suffix}")["mean"] for suffix in systems]
        rows = zip(*(_numbers(x, metric) for x in means), strict=True)
        columns[metric.heading] = [cell for row in rows for cell in row]
    return _table(columns)


def spread_table(summary: pd.DataFrame) -> str:
    """Every improvement with its standard deviation and interval."""
    columns = {"variant": list(dict.fromkeys(summary.variant))}
    for name, metric in _metrics(summary).items():
        part = _column(summary, f"{name}i")
        texts = [_numbers(part[x], metric) for x in ("mean", "std")]
        cells = zip(*texts, _intervals(part, metric), strict=True)
        columns[f"{metric.heading}i"] = [f"{m} ± {s} [{i}]" for m, s, i in cells]
    return _table(columns)


def failures_table(rows: pd.DataFrame) -> str | None:
    """How often which metric could not be computed, and why; None if all could."""
    table = rows[["variant", "failures"]].explode("failures").dropna()
    if table.empty:
        return None
    lines = [["metric or signal: reason", "sources", "variants"]]
    for failure, part in table.groupby("failures", sort=True):
        variants = ", ".join(v for v in VARIANTS if v in set(part.variant))
        lines.append([failure, str(len(part)), variants])
    return markdown.table(lines)


def _metrics(summary: pd.DataFrame) -> dict[str, Metric]:
    known = set(summary.metric)
    return {name: metric for name, metric in METRICS.items() if name in known}


def _column(summary: pd.DataFrame, score: str) -> pd.DataFrame:
    """Statistics of a score, a row for each row of a table."""
    return summary[summary.metric == score]


def _numbers(values: pd.Series, metric: Metric) -> list[str]:
    return [markdown.number(value, metric.decimals) for value in values.to_numpy()]


def _intervals(part: pd.DataFrame, metric: Metric) -> list[str]:
    bounds = part[["ci_low", "ci_high"]].to_numpy()
    return [markdown.interval(low, high, metric.decimals) for low, high in bounds]


def _table(columns: dict) -> str:
    return markdown.table([list(columns), *zip(*columns.values(), strict=True)])
