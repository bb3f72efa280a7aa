"""Every model against every other: paired differences, corrected for their number, in words."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from custom_modules import markdown
from custom_modules.evaluation.bootstrap import (
    count_units,
    holm,
    interval_of_draws,
    p_values,
    resampled_means,
    resampled_ratios,
)
from custom_modules.evaluation.voices import UNIT_KEYS, count_voices
from custom_modules.metrics import METRICS

#: In a comparison's folder.
PAIRS_FILE = "comparison_pairs.csv"

#: Of a corrected p, below which something is said.
LEVEL = 0.05

#: The metric of the rows of words, in per cent; lower is better.
WER = "wer"

#: Of these a page has a matrix; the file has all metrics.
SHOWN = ("si_sdri", WER)


def compare_pairs(
    pooled: Mapping[str, pd.DataFrame],
    scores: Sequence[str],
    words: Mapping[str, pd.DataFrame] | None = None,
) -> pd.DataFrame:
    """A row for each metric and pair of models, over all mixtures.

    ``pooled``: model → a row per mixture and variant with these scores and its units, alike
    for all; ``words`` the same with ``errors`` and ``length``. ``metric``, ``model``, ``other``,
    ``n``, ``voices``, ``difference`` (model minus other), ``low``, ``high`` (95 %), ``p``, and
    ``p_holm``, corrected for the pairs of its metric.
    """
    pairs = [*itertools.combinations(pooled, 2)]
    parts = [_of_scores(a, b, pooled[a], pooled[b], scores) for a, b in pairs]
    parts += [_of_words(a, b, words[a], words[b]) for a, b in pairs if words]
    table = pd.concat(parts, ignore_index=True)
    table["p_holm"] = table.groupby("metric").p.transform(lambda p: holm(p.to_numpy()))
    return table.sort_values("metric", key=_order, kind="stable", ignore_index=True)


def _order(metrics: pd.Series) -> pd.Series:
    return metrics.map({name: place for place, name in enumerate(dict.fromkeys(metrics))})


def _of_scores(
    model: str, other: str, first: pd.DataFrame, second: pd.DataFrame, scores: Sequence[str]
) -> pd.DataFrame:
    values = first[[*scores]].to_numpy(float) - second[[*scores]].to_numpy(float)
    units, present = first[UNIT_KEYS].to_numpy(), ~np.isnan(values)
    sizes = np.maximum(present.sum(axis=0), 1)
    means = np.where(present.any(axis=0), np.nansum(values, axis=0) / sizes, np.nan)
    draws = resampled_means(values, units)
    return _rows(model, other, scores, means, draws, units, present)


def _of_words(model: str, other: str, first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    units = first[UNIT_KEYS].to_numpy()
    # [mixtures, 1, 2]
    counts = [x[["errors", "length"]].to_numpy(float)[:, None] for x in (first, second)]
    draws, sums = [resampled_ratios(x, units) for x in counts], [x.sum(axis=0) for x in counts]
    with np.errstate(invalid="ignore", divide="ignore"):
        rates = [100 * x[:, 0] / x[:, 1] for x in sums]
    difference, drawn = rates[0] - rates[1], 100 * (draws[0] - draws[1])
    present = np.ones((len(first), 1), dtype=bool)
    return _rows(model, other, [WER], difference, drawn, units, present)


def _rows(
    model: str,
    other: str,
    metrics: Sequence[str],
    differences: np.ndarray,
    draws: np.ndarray,
    units: np.ndarray,
    present: np.ndarray,
) -> pd.DataFrame:
    counts = count_units(units, present)
    low, high = interval_of_draws(draws, counts)
    columns = {
        "metric": [*metrics],
        "model": model,
        "other": other,
        "n": present.sum(axis=0),
        "voices": [count_voices(units[column]) for column in present.T],
        "difference": differences,
        "low": low,
        "high": high,
        "p": p_values(differences, draws, counts),
    }
    return pd.DataFrame(columns)


def sections(table: pd.DataFrame, heading: str = "###") -> list[str]:
    """Parts of a page: a matrix and sentences for each of :data:`SHOWN`, and how to read them."""
    parts, counted = [], 0
    for metric in (name for name in SHOWN if (table.metric == name).any()):
        part = table[table.metric == metric]
        counted = max(counted, int(part.p.notna().sum()))
        lines = "\n".join(f"- {sentence}" for sentence in sentences(part))
        parts += [
            f"{heading} {_shown(metric)[0]}, each pair over all mixtures",
            matrix(part),
            lines,
        ]
    note = (
        "Above the diagonal: the row's model minus the column's, mixture by mixture, with its 95 % "
        f"interval. Below it: p, corrected for {_several(counted)} (Holm 1979); sentences are "
        f"of p below {LEVEL:g}."
    )
    return [*parts, note]


def matrix(table: pd.DataFrame) -> str:
    """Of one metric's rows: differences above the diagonal, corrected p below."""
    models = [*dict.fromkeys([*table.model, *table.other])]
    cells = table.set_index(["model", "other"])
    decimals = _shown(table.metric.iloc[0])[1]
    lines = [["row − column", *models]]
    for row, model in enumerate(models):
        line = [model]
        for column, other in enumerate(models):
            if row < column:
                found = cells.loc[(model, other)]
                text = markdown.number(found.difference, decimals)
                bounds = markdown.interval(found.low, found.high, decimals)
                line.append(f"{text} [{bounds}]")
            else:
                line.append("" if row == column else _p(cells.loc[(other, model)].p_holm))
        lines.append(line)
    return markdown.table(lines)


def sentences(table: pd.DataFrame) -> list[str]:
    """What can be said of each model, by one metric's rows.

    >>> rows = pd.DataFrame({"metric": "si_sdri", "model": ["a", "a", "b"],
    ...     "other": ["b", "c", "c"], "difference": [1.0, 2.0, 0.1], "p_holm": [0.01, 0.02, 0.7]})
    >>> print(*sentences(rows), sep=chr(10))
    a is better than b and c.
    b is worse than a; against c nothing can be said.
    c is worse than a; against b nothing can be said.
    """
    said: dict[str, dict[str, list[str]]] = {
        name: {"better": [], "worse": [], "nothing": []}
        for name in dict.fromkeys([*table.model, *table.other])
    }
    for row in table.itertuples():
        is_better = (row.difference > 0) != (row.metric == WER)
        known = row.p_holm < LEVEL
        verdicts = ("better", "worse") if is_better else ("worse", "better")
        for name, other, verdict in zip(
            (row.model, row.other), (row.other, row.model), verdicts, strict=True
        ):
            said[name][verdict if known else "nothing"].append(other)
    if not any(others["better"] for others in said.values()):
        return ["Of no model can be said that it is better than another one."]
    return [_sentence(name, **others) for name, others in said.items()]


def _sentence(name: str, better: list[str], worse: list[str], nothing: list[str]) -> str:
    claims = [f"{x} than {_and(o)}" for x, o in (("better", better), ("worse", worse)) if o]
    if not claims:
        return f"{name}: nothing can be said."
    against = f"against {_and(nothing)} nothing can be said"
    return f"{name} is {', '.join(claims)}{f'; {against}' * bool(nothing)}."


def _and(names: Sequence[str]) -> str:
    *others, last = names or [""]
    return f"{', '.join(others)} and {last}" if others else last


def _several(comparisons: int) -> str:
    return f"{comparisons} comparison{'s' * (comparisons != 1)}"


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p {markdown.number(value, 3)}"


def _shown(metric: str) -> tuple[str, int]:
    """Heading and decimals of a metric's improvement, or of words."""
    if metric == WER:
        return "WER (%)", 1
    found = METRICS[metric.removesuffix("i")]
    return f"{found.heading}i{f' ({found.unit})' * bool(found.unit)}", found.decimals
