"""Summaries as Markdown that reads well as plain text, too."""

from pathlib import Path

import pandas as pd

from custom_modules import markdown
from custom_modules.curves import save
from custom_modules.errors import InputError
from custom_modules.evaluation.plots import (
    plot_distribution,
    plot_in_out,
    plot_variants,
)
from custom_modules.evaluation.record import record_lines, write_record
from custom_modules.evaluation.summary import (
    ALL_MIXTURES,
    EVERY,
    ROW_KEYS,
    describe,
    summarise,
)
from custom_modules.files import atomic_path
from custom_modules.metrics import METRICS, columns_of
from custom_modules.mmipc import VARIANTS, num_sources, variants_of

#: Suffix of a column → who the row of the table is of.
SYSTEMS = {"": "model", "_mixture": "mixture", "_oracle": "oracle"}


def gains_table(summary, key="variant"):
    """Mean improvements over the mixture, SI-SDRi with its interval and oracle.

    Arguments
    ---------
    summary : pandas.DataFrame
        A part of what :func:`custom_modules.evaluation.summary.summarise` returns
        in which ``key`` names the rows.
    key : str
        ``"variant"`` or ``"group"``.

    Returns
    -------
    str
        Markdown. ``incomplete`` counts sources that lack a score of some metric
        and signal, if there are any.
    """
    metrics, gains = _metrics(summary), summary.set_index([key, "metric"])
    oracle = "si_sdri_oracle" in set(summary.metric)
    incomplete = summary.groupby(key).incomplete.first()
    counted = ["incomplete"] if incomplete.any() else []
    lines = [[key, "n", *counted, "SI-SDRi", "95 % interval", "std"]]
    lines[0] += ["oracle SI-SDRi"] * oracle
    lines[0] += [f"{METRICS[name].heading}i" for name in metrics[1:]]
    for name in dict.fromkeys(summary[key]):
        cell = gains.loc[name, "si_sdri"]
        line = [name, f"{cell.n:.0f}", *(f"{incomplete[name]}" for _ in counted)]
        line += [
            markdown.number(cell["mean"], 2),
            markdown.interval(cell.ci_low, cell.ci_high, 2),
            markdown.number(cell["std"], 2),
        ]
        if oracle:
            line.append(markdown.number(gains.loc[name, "si_sdri_oracle"]["mean"], 2))
        for metric in metrics[1:]:
            mean = gains.loc[name, f"{metric}i"]["mean"]
            line.append(markdown.number(mean, METRICS[metric].decimals))
        lines.append(line)
    return markdown.table(lines)


def scores_table(summary):
    """Mean scores of the model, the mixture and the oracle, in three rows each.

    Arguments
    ---------
    summary : pandas.DataFrame
        As for :func:`gains_table`.

    Returns
    -------
    str
        Markdown.
    """
    metrics, scores = _metrics(summary), summary.set_index(["variant", "metric"])
    lines = [["variant", "of", *(METRICS[name].heading for name in metrics)]]
    for variant in dict.fromkeys(summary.variant):
        for suffix, system in SYSTEMS.items():
            if f"si_sdr{suffix}" not in set(summary.metric):
                continue
            means = [
                markdown.number(
                    scores.loc[variant, f"{name}{suffix}"]["mean"],
                    METRICS[name].decimals,
                )
                for name in metrics
            ]
            lines.append([variant if suffix == "" else "", system, *means])
    return markdown.table(lines)


def spread_table(summary):
    """Every improvement with its standard deviation and interval.

    Arguments
    ---------
    summary : pandas.DataFrame
        As for :func:`gains_table`.

    Returns
    -------
    str
        Markdown.
    """
    metrics, gains = _metrics(summary), summary.set_index(["variant", "metric"])
    lines = [["variant", *(f"{METRICS[name].heading}i" for name in metrics)]]
    for variant in dict.fromkeys(summary.variant):
        line = [variant]
        for name in metrics:
            cell, decimals = gains.loc[variant, f"{name}i"], METRICS[name].decimals
            line.append(
                markdown.number(cell["mean"], decimals)
                + f" ± {markdown.number(cell['std'], decimals)} "
                f"[{markdown.interval(cell.ci_low, cell.ci_high, decimals)}]"
            )
        lines.append(line)
    return markdown.table(lines)


def failures_table(rows):
    """How often which metric could not be computed, and why.

    Arguments
    ---------
    rows : pandas.DataFrame
        As in ``test_results.csv``.

    Returns
    -------
    str or None
        Markdown, or None if everything could be computed.
    """
    reasons = rows.failures.astype("object").fillna("").str.split("; ")
    table = rows[["variant"]].assign(reason=reasons).explode("reason")
    table = table[table.reason != ""]
    if table.empty:
        return None
    lines = [["metric or signal: reason", "sources", "variants"]]
    for reason, found in table.groupby("reason", sort=True):
        variants = ", ".join(v for v in VARIANTS if v in set(found.variant))
        lines.append([reason, str(len(found)), variants])
    return markdown.table(lines)


def _metrics(summary):
    names = set(summary.metric)
    return [name for name in METRICS if name in names]


NOTE = """\
Means over mixtures, of which each is the mean over its sources; SI-SDR, SDR and
SIR in dB, PESQ {mode} (MOS-LQO). `i` is the improvement over the mixture, `oracle`
what removing the background alone, without parting the speakers, would give.
Intervals are 95 % bootstrap intervals over mixtures; all variants is the mean of
the variants' means, all mixtures weighs every mixture and variant alike."""


def result_rows(dataset, store, groups):
    """The rows of ``test_results.csv``, in the order of the manifest.

    Arguments
    ---------
    dataset : custom_modules.dataio.MixtureDataset
    store : custom_modules.evaluation.store.ScoreStore
    groups : collection of str
        Some of :data:`custom_modules.metrics.GROUPS`; only their columns are
        taken.

    Returns
    -------
    pandas.DataFrame

    Raises
    ------
    InputError
        If scores are missing, as those of a process that wrote them elsewhere.
    """
    columns = [*columns_of(groups, num_sources(dataset.task)), "failures"]
    rows = []
    chosen = set(dataset.data_ids)
    for name in (name for name in dataset.data if name in chosen):
        known = describe(dataset.data[name])
        for variant in variants_of(known["environment"], dataset.variants):
            for place, scores in enumerate(_scores(store, name, variant, groups)):
                scores = {**scores, "failures": _kept(scores["failures"], columns)}
                row = {"id": name, "variant": variant, "source": place + 1, **known}
                rows.append(row | {column: scores[column] for column in columns})
    table = pd.DataFrame(rows)[[*ROW_KEYS, *columns]]
    scores = columns[:-1]
    return table.astype(dict.fromkeys(scores, float))


def _scores(store, name, variant, groups):
    rows = store.rows(name, variant, groups)
    if rows is None:
        raise InputError(
            f"{store.folder}: holds no scores of {name}, {variant}; all processes "
            "need the same output folder, on a disk that they share"
        )
    return rows


def _kept(failures, columns):
    """The failures of signals, and of metrics that are among the columns."""
    parts = [part for part in failures.split("; ") if part]
    signals = ("target", "estimate", "mixture", "oracle")
    kept = (*signals, *columns)
    return "; ".join(part for part in parts if part.split(":")[0] in kept)


def write_rows(rows, path):
    """Writes rows of scores.

    Arguments
    ---------
    rows : pandas.DataFrame
        From :func:`result_rows`.
    path : str or pathlib.Path
    """
    with atomic_path(path) as partial:
        rows.to_csv(partial, index=False)


def write_results(rows, folder, record):
    """Writes rows, summary, table and plots.

    Arguments
    ---------
    rows : pandas.DataFrame
        From :func:`result_rows`.
    folder : str or pathlib.Path
        ``test_results.csv``, ``test_summary.csv``, ``test_summary.md``,
        ``test_run.json``, ``test_results.png``, ``test_distribution.png`` and
        ``test_in_out.png`` go there.
    record : dict
        From :func:`custom_modules.evaluation.record.describe_run`.

    Returns
    -------
    summary : pandas.DataFrame
    pictures : list of pathlib.Path
    """
    folder = Path(folder)
    summary = summarise(rows)
    write_rows(rows, folder / "test_results.csv")
    with atomic_path(folder / "test_summary.csv") as path:
        summary.to_csv(path, index=False, float_format="%.6g")
    with atomic_path(folder / "test_summary.md") as path:
        path.write_text(report(rows, summary, record), encoding="utf-8")
    write_record(folder, record)
    name = f"{record['model_name']}, {record['task']}"
    pictures = {
        "test_results.png": plot_variants(summary, name),
        "test_distribution.png": plot_distribution(rows, name),
        "test_in_out.png": plot_in_out(rows, name),
    }
    return summary, [save(figure, folder / name) for name, figure in pictures.items()]


def main_table(summary):
    """The table of improvements per variant.

    Arguments
    ---------
    summary : pandas.DataFrame

    Returns
    -------
    str
    """
    return gains_table(summary[summary.group == EVERY])


def report(rows, summary, record):
    """All tables as one Markdown document.

    Arguments
    ---------
    rows, summary : pandas.DataFrame
    record : dict

    Returns
    -------
    str
    """
    every = summary[summary.group == EVERY]
    mode = "narrow band" if record["sample_rate"] == 8000 else "wide band"
    parts = [
        f"# {record['model_name']}, task {record['task']}, {record['split']} set",
        main_table(summary),
        NOTE.format(mode=mode),
        "## Scores beside the mixture and the oracle",
        scores_table(every),
        "## Spread: mean ± standard deviation [95 % interval]",
        spread_table(every),
    ]
    groups = summary[(summary.group != EVERY) & (summary.variant == ALL_MIXTURES)]
    if len(groups):
        parts += ["## By environment, genders and speech-to-speech ratio, all mixtures"]
        parts += [gains_table(groups, key="group")]
    failures = failures_table(rows)
    parts += ["## Failures", failures or "None: every metric could be computed."]
    parts += ["## How it was made", "\n".join(record_lines(record))]
    return "\n\n".join(parts) + "\n"
