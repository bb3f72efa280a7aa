"""Summaries as Markdown that reads well as plain text, too."""

import pandas as pd

from custom_modules.metrics import METRICS
from custom_modules.mmipc import VARIANTS

#: What cannot be known.
DASH = "–"

#: Suffix of a column → who the row of the table is of.
SYSTEMS = {"": "model", "_mixture": "mixture", "_oracle": "oracle"}


def markdown(lines):
    """An aligned Markdown table.

    Arguments
    ---------
    lines : list of list of str
        Headings first. The first column is text, the others are numbers.

    Returns
    -------
    str

    Example
    -------
    >>> print(markdown([["variant", "n"], ["SER", "76"]]))
    | variant |  n |
    | ------- | -: |
    | SER     | 76 |
    """
    # At least two: a lone colon is no rule of a Markdown table.
    widths = [max(2, *map(len, column)) for column in zip(*lines, strict=True)]
    rule = ["-" * widths[0], *("-" * (w - 1) + ":" for w in widths[1:])]
    return "\n".join(
        "| "
        + " | ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        + " |"
        for line in [lines[0], rule, *lines[1:]]
    )


def number(value, decimals):
    """A number with so many decimals, or a dash.

    Arguments
    ---------
    value : float
    decimals : int

    Returns
    -------
    str

    Example
    -------
    >>> number(-0.001, 2), number(float("nan"), 2)
    ('0.00', '–')
    """
    if pd.isna(value):
        return DASH
    # Adding 0 after rounding spares the reader a -0.00.
    return f"{round(value, decimals) + 0:.{decimals}f}"


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
            number(cell["mean"], 2),
            interval(cell.ci_low, cell.ci_high, 2),
            number(cell["std"], 2),
        ]
        if oracle:
            line.append(number(gains.loc[name, "si_sdri_oracle"]["mean"], 2))
        for metric in metrics[1:]:
            mean = gains.loc[name, f"{metric}i"]["mean"]
            line.append(number(mean, METRICS[metric].decimals))
        lines.append(line)
    return markdown(lines)


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
                number(
                    scores.loc[variant, f"{name}{suffix}"]["mean"],
                    METRICS[name].decimals,
                )
                for name in metrics
            ]
            lines.append([variant if suffix == "" else "", system, *means])
    return markdown(lines)


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
                f"{number(cell['mean'], decimals)} ± {number(cell['std'], decimals)} "
                f"[{interval(cell.ci_low, cell.ci_high, decimals)}]"
            )
        lines.append(line)
    return markdown(lines)


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
    return markdown(lines)


def interval(low, high, decimals):
    """An interval, or a dash.

    Arguments
    ---------
    low, high : float
    decimals : int

    Returns
    -------
    str

    Example
    -------
    >>> interval(-1.234, 2, 1)
    '-1.2 … 2.0'
    """
    if pd.isna(low):
        return DASH
    return f"{number(low, decimals)} … {number(high, decimals)}"


def _metrics(summary):
    names = set(summary.metric)
    return [name for name in METRICS if name in names]
