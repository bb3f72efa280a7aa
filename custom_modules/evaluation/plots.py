"""Pictures of a test."""

import numpy as np
from matplotlib.figure import Figure

from custom_modules.curves import BLUE, GREEN, ORANGE, PINK, SKY, VERMILION
from custom_modules.evaluation.summary import (
    ALL_MIXTURES,
    ALL_VARIANTS,
    EVERY,
    environments_of,
    over_sources,
)
from custom_modules.mmipc import VARIANTS

#: Readable in print, in grey and with the common colour blindnesses.
COLOURS = {"model": BLUE, "indoor": BLUE, "outdoor": VERMILION, "oracle": ORANGE}
COLOURS |= {"subsets and means": SKY, "scene only": GREEN, "clean": PINK}


def plot_variants(summary, name):
    """SI-SDRi per variant with its interval, beside the background-removal oracle.

    Arguments
    ---------
    summary : pandas.DataFrame
        From :func:`custom_modules.evaluation.summary.summarise`.
    name : str
        The model's, for the title.

    Returns
    -------
    matplotlib.figure.Figure
    """
    table = summary[(summary.group == EVERY) & (summary.metric == "si_sdri")]
    table = table.set_index("variant")
    figure = Figure(figsize=(9.5, 4.8), layout="constrained")
    axes = figure.add_subplot()
    places = _places(list(table.index))
    _draw_gains(axes, table, places)
    _mark_oracle(axes, summary, list(table.index), places)
    _mark_genders(axes, summary, list(table.index), places)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_ylim(bottom=min(axes.get_ylim()[0], -0.3))  # an oracle of 0 is seen
    labels = [f"{_broken(name)}\nn = {n}" for name, n in table.n.items()]
    axes.set_xticks(places, labels, fontsize=8.5)
    axes.set(ylabel="SI-SDRi (dB)", title=f"{name}: improvement over the mixture")
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    figure.legend(loc="outside lower center", ncols=5, fontsize=9)
    return figure


def plot_distribution(rows, name):
    """How SI-SDRi is spread over the mixtures of each variant.

    Arguments
    ---------
    rows : pandas.DataFrame
        As in ``test_results.csv``.
    name : str
        The model's, for the title.

    Returns
    -------
    matplotlib.figure.Figure
    """
    table = over_sources(rows).dropna(subset="si_sdri")
    figure = Figure(figsize=(9.5, 4.8), layout="constrained")
    axes = figure.add_subplot()
    variants = [v for v in VARIANTS if (table.variant == v).any()]
    random = np.random.default_rng(0)
    for place, variant in enumerate(variants):
        subset = table[table.variant == variant]
        for environment in environments_of(subset):
            gains = subset.si_sdri[subset.environment == environment]
            axes.plot(
                place + random.uniform(-0.28, 0.28, len(gains)),
                gains,
                ".",
                color=COLOURS[environment],
                markersize=4,
                alpha=0.6 if len(gains) < 500 else 0.15,
                zorder=1,
            )
    gains = [table.si_sdri[table.variant == v] for v in variants]
    if gains:
        axes.boxplot(
            gains,
            positions=range(len(variants)),
            widths=0.64,
            showfliers=False,
            medianprops={"color": "black", "linewidth": 2},
            zorder=2,
        )
    for environment in environments_of(table):
        axes.plot([], [], "o", color=COLOURS[environment], label=environment)
    axes.axhline(0, color="black", linewidth=0.8)
    labels = [f"{v}\nn = {len(g)}" for v, g in zip(variants, gains, strict=True)]
    axes.set_xticks(range(len(variants)), labels)
    axes.set(
        ylabel="SI-SDRi (dB)",
        title=f"{name}: each mixture, with median and quartiles",
    )
    axes.grid(axis="y", alpha=0.3)
    axes.legend()
    return figure


def plot_in_out(rows, name):
    """SI-SDR of the mixture against that of the estimate, a point per source.

    Arguments
    ---------
    rows : pandas.DataFrame
        As in ``test_results.csv``.
    name : str
        The model's, for the title.

    Returns
    -------
    matplotlib.figure.Figure
    """
    rows = rows.dropna(subset=["si_sdr", "si_sdr_mixture"])
    variants = [v for v in VARIANTS if (rows.variant == v).any()]
    columns = min(4, len(variants)) or 1
    lines = -(-len(variants) // columns) or 1
    figure = Figure(
        figsize=(2.6 * columns + 0.6, 2.7 * lines + 0.6), layout="constrained"
    )
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    limits = _limits(rows)
    for axes, variant in zip(grid.flat, variants, strict=False):
        subset = rows[rows.variant == variant]
        axes.plot(limits, limits, color="black", linewidth=0.8)
        for environment in environments_of(subset):
            part = subset[subset.environment == environment]
            axes.plot(
                part.si_sdr_mixture,
                part.si_sdr,
                ".",
                color=COLOURS[environment],
                markersize=4,
                alpha=0.6 if len(part) < 500 else 0.2,
            )
        better = (subset.si_sdr > subset.si_sdr_mixture).mean()
        axes.set_title(f"{variant}: {100 * better:.0f} % improved", fontsize=10)
        axes.grid(alpha=0.3)
        axes.set(xlim=limits, ylim=limits, aspect="equal")
    for axes in list(grid.flat)[len(variants) :]:
        axes.set_axis_off()
    for environment in environments_of(rows):
        grid[0, 0].plot([], [], "o", color=COLOURS[environment], label=environment)
    grid[0, 0].plot([], [], color="black", label="no improvement")
    figure.supxlabel("SI-SDR of the mixture (dB)", fontsize="medium")
    figure.supylabel("SI-SDR of the estimate (dB)", fontsize="medium")
    figure.suptitle(f"{name}: before and after, each source")
    grid[0, 0].legend(fontsize=8, loc="upper left")
    return figure


def _places(names):
    """Positions of bars, the averages set apart."""
    gap = 0.5
    return np.array(
        [
            place + gap * (name in (ALL_VARIANTS, ALL_MIXTURES))
            for place, name in enumerate(names)
        ]
    )


def _broken(name):
    return name.replace(" ", "\n", 1)


def _draw_gains(axes, table, places):
    below, above = table["mean"] - table.ci_low, table.ci_high - table["mean"]
    spread = np.nan_to_num([below, above]).clip(0)
    is_variant = np.array([name in VARIANTS for name in table.index])
    for kind, chosen in (("model", is_variant), ("subsets and means", ~is_variant)):
        axes.bar(
            places[chosen],
            table["mean"][chosen],
            0.7,
            yerr=spread[:, chosen],
            capsize=4,
            color=COLOURS[kind],
            label="this model, 95 % interval" if kind == "model" else kind,
        )


def _mark_oracle(axes, summary, names, places):
    oracle = summary[(summary.group == EVERY) & (summary.metric == "si_sdri_oracle")]
    if oracle.empty:
        return
    means = oracle.set_index("variant")["mean"].reindex(names)
    axes.hlines(
        means,
        places - 0.42,
        places + 0.42,
        color=COLOURS["oracle"],
        linewidth=3,
        label="background removal alone (oracle)",
        zorder=3,
    )


def _mark_genders(axes, summary, names, places):
    gains = summary[summary.metric == "si_sdri"].set_index(["group", "variant"])["mean"]
    for group, marker in (("same gender", "v"), ("cross gender", "^")):
        if group not in gains.index:
            continue
        axes.plot(
            places,
            gains[group].reindex(names),
            marker,
            color="white",
            markeredgecolor="black",
            markersize=6,
            label=group,
            zorder=4,
        )


def _limits(rows):
    values = rows[["si_sdr", "si_sdr_mixture"]].to_numpy()
    values = values[np.isfinite(values)]
    if not len(values):
        return (-1, 1)
    low, high = values.min(), values.max()
    margin = 0.05 * (high - low) + 0.5
    return (low - margin, high + margin)
