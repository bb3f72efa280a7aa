"""Pictures of a test, and of several side by side.

``name`` is the model's, for the title; ``summary`` is what
:func:`custom_modules.evaluation.summary.summarise` returns, ``rows`` are as in
``test_results.csv``.
"""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from custom_modules.curves import BLUE, GREEN, ORANGE, PINK, SKY, VERMILION, colours, in_legend
from custom_modules.evaluation.summary import (
    ALL_MIXTURES,
    ALL_VARIANTS,
    EVERY,
    environments_of,
    over_sources,
)
from custom_modules.metrics import METRICS
from custom_modules.mmipc import VARIANTS

COLOURS = {"model": BLUE, "indoor": BLUE, "outdoor": VERMILION, "oracle": ORANGE}
COLOURS |= {"subsets and means": SKY, "scene only": GREEN, "clean": PINK}

_ORACLE = "background removal alone (oracle)"
_LINE: dict[str, Any] = {"color": "black", "linewidth": 0.8}
_MARKER: dict[str, Any] = {"color": "white", "markeredgecolor": "black", "zorder": 4}
_MEDIAN = {"color": "black", "linewidth": 2}


def plot_variants(summary: pd.DataFrame, name: str) -> Figure:
    """SI-SDRi per variant with its interval, beside the background-removal oracle."""
    every = summary[summary.group == EVERY]
    table = every[every.metric == "si_sdri"].set_index("variant")
    figure = Figure(figsize=(9.5, 4.8), layout="constrained")
    axes = figure.add_subplot()
    places = _draw_gains(axes, every, "si_sdri")
    gains = summary[summary.metric == "si_sdri"].set_index(["group", "variant"])["mean"]
    for group, marker in (("same gender", "v"), ("cross gender", "^")):
        if group in gains.index:
            heights = gains[group].reindex(table.index)
            axes.plot(places, heights, marker, label=group, **_MARKER)
    axes.set_ylim(bottom=min(axes.get_ylim()[0], -0.3))  # an oracle of 0 is seen
    labels = [f"{_broken(name)}\nn = {n}" for name, n in table.n.items()]
    axes.set_xticks(places, labels, fontsize=8.5)
    axes.set(ylabel="SI-SDRi (dB)", title=f"{name}: improvement over the mixture")
    figure.legend(loc="outside lower center", ncols=5, fontsize=9)
    return figure


def plot_metrics(summary: pd.DataFrame, name: str) -> Figure:
    """The improvement in every metric per variant, each on its own axes."""
    every = summary[summary.group == EVERY]
    known = set(every.metric)
    metrics = {f"{key}i": m for key, m in METRICS.items() if f"{key}i" in known}
    figure, grid = _grid(len(metrics), 2, (6.6, 2.8), (0, 0.8))
    for axes, (column, metric) in zip(grid, metrics.items(), strict=False):
        places = _draw_gains(axes, every, column)
        labels = map(_broken, dict.fromkeys(every.variant))
        axes.set_xticks(places, labels, fontsize=7)
        axes.set_title(f"{metric.heading}i{f' ({metric.unit})' * bool(metric.unit)}")
    figure.suptitle(f"{name}: improvement over the mixture")
    shown = grid[0].get_legend_handles_labels()
    figure.legend(*shown, loc="outside lower center", ncols=3, fontsize=9)
    return figure


def plot_distribution(rows: pd.DataFrame, name: str) -> Figure:
    """How SI-SDRi is spread over the mixtures of each variant."""
    table = over_sources(rows).dropna(subset="si_sdri")
    figure = Figure(figsize=(9.5, 4.8), layout="constrained")
    axes = figure.add_subplot()
    variants = [v for v in VARIANTS if (table.variant == v).any()]
    places = range(len(variants))
    random = np.random.default_rng(0)
    for place, variant in enumerate(variants):
        subset = table[table.variant == variant]
        for environment in environments_of(subset):
            gains = subset.si_sdri[subset.environment == environment]
            across = place + random.uniform(-0.28, 0.28, len(gains))
            _draw_points(axes, across, gains, environment, alpha=0.15)
    gains = [table.si_sdri[table.variant == v] for v in variants]
    if gains:
        look: dict[str, Any] = {"widths": 0.64, "showfliers": False, "zorder": 2}
        axes.boxplot(gains, positions=places, medianprops=_MEDIAN, **look)
    _name_environments(axes, table)
    axes.axhline(0, **_LINE)
    labels = [f"{v}\nn = {len(g)}" for v, g in zip(variants, gains, strict=True)]
    axes.set_xticks(places, labels)
    title = f"{name}: each mixture, with median and quartiles"
    axes.set(ylabel="SI-SDRi (dB)", title=title)
    axes.grid(axis="y", alpha=0.3)
    axes.legend()
    return figure


def plot_in_out(rows: pd.DataFrame, name: str) -> Figure:
    """SI-SDR of the mixture against that of the estimate, a point per source."""
    rows = rows.dropna(subset=["si_sdr", "si_sdr_mixture"])
    variants = [v for v in VARIANTS if (rows.variant == v).any()]
    figure, grid = _grid(len(variants), 4, (2.6, 2.7), (0.6, 0.6), sharex=True, sharey=True)
    limits = _limits(rows)
    for axes, variant in zip(grid, variants, strict=False):
        subset = rows[rows.variant == variant]
        axes.plot(limits, limits, **_LINE)
        for environment in environments_of(subset):
            part = subset[subset.environment == environment]
            _draw_points(axes, part.si_sdr_mixture, part.si_sdr, environment, alpha=0.2)
        better = (subset.si_sdr > subset.si_sdr_mixture).mean()
        axes.set_title(f"{variant}: {100 * better:.0f} % improved", fontsize=10)
        axes.grid(alpha=0.3)
        axes.set(xlim=limits, ylim=limits, aspect="equal")
    _name_environments(grid[0], rows)
    grid[0].plot([], [], color="black", label="no improvement")
    figure.supxlabel("SI-SDR of the mixture (dB)", fontsize="medium")
    figure.supylabel("SI-SDR of the estimate (dB)", fontsize="medium")
    figure.suptitle(f"{name}: before and after, each source")
    grid[0].legend(fontsize=8, loc="upper left")
    return figure


def plot_words(rows: pd.DataFrame, words: pd.DataFrame, name: str) -> Figure:
    """Word error of the model's outputs against SI-SDRi, a point for each mixture.

    ``words`` are rows of :class:`custom_modules.evaluation.words.WordResults`.
    """
    words = words[words.length > 0]
    words = words.assign(wer=100 * words.errors / words.length)
    arms = dict(iter(words.groupby("arm")))
    gains = over_sources(rows)[["id", "variant", "environment", "si_sdri"]]
    model = arms.get("model", words)[["id", "variant", "wer"]]
    points = gains.merge(model, on=["id", "variant"]).dropna()
    variants = [v for v in VARIANTS if (points.variant == v).any()]
    figure, grid = _grid(len(variants), 4, (2.6, 2.7), (0.6, 0.6), sharex=True, sharey=True)
    for axes, variant in zip(grid, variants, strict=False):
        part = points[points.variant == variant]
        for environment in environments_of(part):
            shown = part[part.environment == environment]
            _draw_points(axes, shown.si_sdri, shown.wer, environment, alpha=0.2)
        for arm, look in (("mixture", "--"), ("targets", ":")):
            of_arm = arms[arm][arms[arm].variant == variant]
            rate = 100 * of_arm.errors.sum() / of_arm.length.sum()
            axes.axhline(rate, color="black", linestyle=look, linewidth=0.8)
        axes.set_title(variant, fontsize=10)
        axes.grid(alpha=0.3)
    _name_environments(grid[0], points)
    for label, look in (("mixture once", "--"), ("targets", ":")):
        grid[0].plot([], [], color="black", linestyle=look, linewidth=0.8, label=label)
    figure.supxlabel("SI-SDRi (dB)", fontsize="medium")
    figure.supylabel("word error rate of the model (%)", fontsize="medium")
    figure.suptitle(f"{name}: words and decibels, each mixture")
    grid[0].legend(fontsize=8)
    return figure


def plot_comparison(table: pd.DataFrame) -> Figure:
    """SI-SDRi of all models by variant, and below it the paired differences.

    Of what :func:`custom_modules.evaluation.comparison.compare` returns.
    """
    table = table[table.metric == "si_sdri"]
    models = list(dict.fromkeys(table.model))
    variants = list(dict.fromkeys(table.variant))
    size = (max(9.5, 1.5 * len(models)), 6.4)
    figure = Figure(figsize=size, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    width = 0.8 / len(models)
    for number, (model, colour) in enumerate(zip(models, colours(len(models)), strict=True)):
        part = table[table.model == model].set_index("variant").loc[variants]
        places = np.arange(len(variants)) + (number - (len(models) - 1) / 2) * width
        spread = _spread(part["mean"], part.ci_low, part.ci_high)
        capsize = 3 if len(models) < 6 else 1
        look = {"fmt": "o", "markersize": 4, "color": colour, "capsize": capsize}
        above.errorbar(places, part["mean"], yerr=spread, label=in_legend(model), **look)
        if number:
            bounds = part.difference_ci_low, part.difference_ci_high
            spread = _spread(part.difference, *bounds)
            below.errorbar(places, part.difference, yerr=spread, **look)
    for axes in (above, below):
        axes.axhline(0, **_LINE)
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
    below.set_xticks(range(len(variants)), map(_broken, variants), fontsize=9)
    above.set(ylabel="SI-SDRi (dB)", title="Improvement over the mixture, 95 % intervals")
    below.set(ylabel=f"difference from\n{models[0]} (dB)")
    # Inside, it would hide some results.
    figure.legend(loc="outside upper center", ncols=min(len(models), 6), frameon=False)
    return figure


def _draw_gains(axes: Axes, summary: pd.DataFrame, column: str) -> np.ndarray:
    """Bars of an improvement with its oracle; their places, the averages set apart."""
    table = summary[summary.metric == column].set_index("variant")
    names = list(table.index)
    places = np.arange(len(names)) + 0.5 * np.isin(names, [ALL_VARIANTS, ALL_MIXTURES])
    spread = _spread(table["mean"], table.ci_low, table.ci_high)
    is_variant = np.isin(names, VARIANTS)
    for kind, chosen in (("model", is_variant), ("subsets and means", ~is_variant)):
        label = "this model, 95 % interval" if kind == "model" else kind
        look: dict[str, Any] = {"capsize": 4, "color": COLOURS[kind], "label": label}
        bars, bounds = table["mean"][chosen], spread[:, chosen]
        axes.bar(places[chosen], bars, 0.7, yerr=bounds, **look)
    oracle = summary[summary.metric == f"{column}_oracle"].set_index("variant")["mean"]
    if len(oracle):
        lines = axes.hlines(oracle.reindex(names), places - 0.42, places + 0.42)
        lines.set(color=COLOURS["oracle"], linewidth=3, zorder=3, label=_ORACLE)
    axes.axhline(0, **_LINE)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    return places


def _draw_points(axes: Axes, x: ArrayLike, y: pd.Series, environment: str, alpha: float) -> None:
    """A dot for each; with ``alpha`` if they are many."""
    alpha = 0.6 if len(y) < 500 else alpha
    look: dict[str, Any] = {"color": COLOURS[environment], "alpha": alpha, "zorder": 1}
    axes.plot(x, y, ".", markersize=4, **look)


def _name_environments(axes: Axes, table: pd.DataFrame) -> None:
    for name in environments_of(table):
        axes.plot([], [], "o", color=COLOURS[name], label=name)


def _spread(mean: pd.Series, low: pd.Series, high: pd.Series) -> np.ndarray:
    return np.nan_to_num([mean - low, high - mean]).clip(0)


def _broken(name: str) -> str:
    return name.replace(" ", "\n", 1)


def _limits(rows: pd.DataFrame) -> tuple[float, float]:
    if rows.empty:
        return (-1, 1)
    values = rows[["si_sdr", "si_sdr_mixture"]].to_numpy()
    low, high = values.min(), values.max()
    margin = 0.05 * (high - low) + 0.5
    return (low - margin, high + margin)


def _grid(
    count: int, columns: int, cell: tuple[float, float], margin: tuple[float, float], **options: Any
) -> tuple[Figure, list[Axes]]:
    """So many axes, at most so many in a line; ``cell`` and ``margin`` in inches."""
    columns = max(1, min(columns, count))
    lines = max(1, -(-count // columns))
    size = np.multiply(cell, (columns, lines)) + margin
    figure = Figure(figsize=tuple(size), layout="constrained")
    grid = list(figure.subplots(lines, columns, squeeze=False, **options).flat)
    for axes in grid[count:]:
        axes.set_axis_off()
    return figure, grid
