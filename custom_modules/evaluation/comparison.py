"""Several results side by side, as table, CSV and plot."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from custom_modules.evaluation.compare import (
    compare,
    in_common,
    left_out,
    read_contenders,
)
from custom_modules.evaluation.plots import save
from custom_modules.evaluation.record import command, without_folders
from custom_modules.evaluation.summary import ALL_MIXTURES
from custom_modules.evaluation.tables import DASH, interval, markdown, number
from custom_modules.files import atomic_path
from custom_modules.metrics import METRICS

#: Readable in print, in grey and with the common colour blindnesses.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9")

#: Column of an improvement → its metric.
GAINS = {f"{name}i": metric for name, metric in METRICS.items()}

COMPARISON_FOLDER = "results/comparison"


def compare_results(folders, output_folder=COMPARISON_FOLDER, output=None):
    """Compares results and writes what came out of it.

    Seeds of one model are pooled. Every other model is compared with the first,
    on the mixtures and variants that all have.

    Arguments
    ---------
    folders : list of str
        Results folders with ``test_results.csv``.
    output_folder : str or pathlib.Path
        ``comparison.csv``, ``comparison.md`` and ``comparison.png`` go there.
    output : str, optional
        Another path for the CSV.

    Returns
    -------
    pandas.DataFrame
        See :func:`~custom_modules.evaluation.compare.compare`.

    Raises
    ------
    InputError
        If a folder holds no results, tasks differ, or no mixture is in all.
    """
    contenders = read_contenders(folders)
    common = in_common(contenders)
    table = compare(common)
    folder = Path(output_folder)
    for path in filter(None, (folder / "comparison.csv", output)):
        with atomic_path(path) as partial:
            table.to_csv(partial, index=False, float_format="%.6g")
    text = report(table, left_out(contenders, common))
    with atomic_path(folder / "comparison.md") as path:
        path.write_text(text, encoding="utf-8")
    save(plot_comparison(table), folder / "comparison.png")
    print(f"{text}\nTo look at:")
    for name in ("comparison.md", "comparison.png"):
        print(f"  {folder / name}")
    return table


def report(table, missing=""):
    """A comparison as Markdown.

    Arguments
    ---------
    table : pandas.DataFrame
        From :func:`~custom_modules.evaluation.compare.compare`.
    missing : str
        From :func:`~custom_modules.evaluation.compare.left_out`.

    Returns
    -------
    str
    """
    models = list(dict.fromkeys(table.model))
    gains = table[table.metric == "si_sdri"]
    averages = table[(table.variant == ALL_MIXTURES) & table.metric.isin(GAINS)]
    seeds = dict.fromkeys(zip(table.model, table.seeds, strict=True))
    note = (
        f"Differences are from {models[0]}, mixture by mixture, with 95 % bootstrap "
        "intervals; `won` is the share of mixtures in which the model is better"
    )
    spread = "; ± is the standard deviation over seeds"
    note += f"{spread if table.seeds.max() > 1 else ''}."
    if missing:
        note += f"\n\nLeft out, as not all results have them: {missing}."
    facts = [f"- {name}: {count} seed{'s' * (count > 1)}" for name, count in seeds]
    parts = [
        f"# {', '.join(models)}",
        "## SI-SDRi (dB) by variant",
        _comparison_table(gains, "variant", lambda _: 2),
        "## All metrics, over all mixtures",
        _comparison_table(averages, "metric", decimals_of, heading_of),
        note,
        "\n".join([*facts, f"- Command: `{without_folders(command())}`"]),
    ]
    return "\n\n".join(parts) + "\n"


def _comparison_table(table, key, decimals, heading=str):
    models = list(dict.fromkeys(table.model))
    cells = table.set_index(["model", key])
    lines = [[key, "n", *models]]
    for name in models[1:]:
        lines[0] += [f"{name} − {models[0]}", "95 % interval", "won"]
    for row in dict.fromkeys(table[key]):
        places = decimals(row)
        line = [heading(row), str(cells.loc[(models[0], row), "n"])]
        line += [mean_over_seeds(cells.loc[(name, row)], places) for name in models]
        for name in models[1:]:
            cell = cells.loc[(name, row)]
            bounds = (cell.difference_ci_low, cell.difference_ci_high)
            line += [number(cell.difference, places), interval(*bounds, places)]
            line.append(DASH if pd.isna(cell.won) else f"{100 * cell.won:.0f} %")
        lines.append(line)
    return markdown(lines)


def mean_over_seeds(cell, decimals):
    """A mean, ± the standard deviation over seeds if there are several.

    Arguments
    ---------
    cell : pandas.Series
        A row of :func:`~custom_modules.evaluation.compare.compare`.
    decimals : int

    Returns
    -------
    str
    """
    mean = number(cell["mean"], decimals)
    if cell.seeds == 1:
        return mean
    return f"{mean} ± {number(cell.std_over_seeds, decimals)}"


def decimals_of(gain):
    """Decimals that an improvement is shown with."""
    return GAINS[gain].decimals


def heading_of(gain):
    """What an improvement is called in a table."""
    return f"{GAINS[gain].heading}i"


def plot_comparison(table):
    """SI-SDRi of all models by variant, and below it the paired differences.

    Arguments
    ---------
    table : pandas.DataFrame
        From :func:`~custom_modules.evaluation.compare.compare`.

    Returns
    -------
    matplotlib.figure.Figure
    """
    table = table[table.metric == "si_sdri"]
    models = list(dict.fromkeys(table.model))
    variants = list(dict.fromkeys(table.variant))
    figure = Figure(figsize=(9.5, 6.4), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    width = 0.8 / len(models)
    for place, model in enumerate(models):
        part = table[table.model == model].set_index("variant").loc[variants]
        colour = COLOURS[place % len(COLOURS)]
        where = np.arange(len(variants)) + (place - (len(models) - 1) / 2) * width
        above.bar(
            where,
            part["mean"],
            width,
            yerr=_errors(part["mean"], part.ci_low, part.ci_high),
            capsize=3,
            color=colour,
            label=model,
        )
        if place:
            below.errorbar(
                where,
                part.difference,
                yerr=_errors(
                    part.difference, part.difference_ci_low, part.difference_ci_high
                ),
                fmt="o",
                capsize=3,
                color=colour,
            )
    for axes in (above, below):
        axes.axhline(0, color="black", linewidth=0.8)
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
    labels = [name.replace(" ", "\n", 1) for name in variants]
    below.set_xticks(range(len(variants)), labels, fontsize=9)
    above.set(ylabel="SI-SDRi (dB)", title="Improvement over the mixture")
    below.set(ylabel=f"difference from\n{models[0]} (dB)")
    # Inside, it would hide bars of some results.
    figure.legend(loc="outside upper center", ncols=len(models), frameon=False)
    return figure


def _errors(mean, low, high):
    return np.nan_to_num([mean - low, high - mean]).clip(0)
