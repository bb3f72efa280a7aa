"""Pictures of a training and of its test."""

from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from custom_modules.files import atomic_path
from custom_modules.results import ALL_MIXTURES, ALL_VARIANTS

#: Readable in print, in grey and with the common colour blindnesses.
COLOURS = {"model": "#0072b2", "oracle": "#e69f00", "train": "#56b4e9"}


def plot_results(folder):
    """Draws what a results folder holds.

    Arguments
    ---------
    folder : str or pathlib.Path
        ``history.csv``, if there is one, becomes ``training_curve.png``, and
        ``test_summary.csv`` ``test_results.png``.

    Returns
    -------
    list of pathlib.Path
        The pictures.
    """
    folder = Path(folder)
    pictures = []
    if (folder / "history.csv").exists():
        history = pd.read_csv(folder / "history.csv")
        pictures.append(_save(plot_history(history), folder / "training_curve.png"))
    table = pd.read_csv(folder / "test_summary.csv", index_col="variant")
    pictures.append(_save(plot_summary(table), folder / "test_results.png"))
    return pictures


def plot_history(history):
    """SI-SDRi in training and validation over the epochs.

    Arguments
    ---------
    history : pandas.DataFrame
        ``history.csv``.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for split, colour in (("train", COLOURS["train"]), ("valid", COLOURS["model"])):
        gain = history[f"{split}_si_sdri"]
        axes.plot(history.epoch, gain, ".-", color=colour, label=split)
    best = history.valid_si_sdr.idxmax()
    axes.plot(
        history.epoch[best],
        history.valid_si_sdri[best],
        "*",
        markersize=14,
        color=COLOURS["model"],
        label="best checkpoint",
    )
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(xlabel="epoch", ylabel="SI-SDRi (dB)", title="Training")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def plot_summary(table):
    """SI-SDRi per variant, beside the background-removal oracle.

    Arguments
    ---------
    table : pandas.DataFrame
        ``test_summary.csv``.

    Returns
    -------
    matplotlib.figure.Figure
    """
    table = table.drop(index=[ALL_VARIANTS, ALL_MIXTURES])
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.add_subplot()
    places = range(len(table))
    axes.bar(places, table.si_sdri, 0.7, color=COLOURS["model"], label="this model")
    if "oracle_si_sdri" in table:
        axes.hlines(
            table.oracle_si_sdri,
            [p - 0.42 for p in places],
            [p + 0.42 for p in places],
            color=COLOURS["oracle"],
            linewidth=3,
            label="background removal alone (oracle)",
        )
    for genders, marker in (("same", "v"), ("cross", "^")):
        if f"si_sdri_{genders}" in table:
            gains = table[f"si_sdri_{genders}"]
            label = f"{genders} gender"
            axes.plot(
                places,
                gains,
                marker,
                color="white",
                markeredgecolor="black",
                markersize=6,
                label=label,
            )
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(places, [f"{v}\n(n = {n})" for v, n in table.n.items()], fontsize=9)
    axes.set(ylabel="SI-SDRi (dB)", title="Test set: improvement over the mixture")
    axes.grid(axis="y", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=4)
    return figure


def _save(figure, path):
    with atomic_path(path) as partial, matplotlib.rc_context({"savefig.dpi": 130}):
        figure.savefig(partial, format="png")
    return path
