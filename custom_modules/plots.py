"""Pictures of a training."""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from custom_modules.evaluation.plots import save

#: Readable in print, in grey and with the common colour blindnesses.
COLOURS = {"model": "#0072b2", "train": "#56b4e9"}


def plot_training(folder):
    """Draws ``history.csv`` as ``training_curve.png``, if there is one.

    Arguments
    ---------
    folder : str or pathlib.Path
        The results folder.
    """
    folder = Path(folder)
    if (folder / "history.csv").exists():
        history = pd.read_csv(folder / "history.csv")
        name = "/".join(folder.absolute().parts[-2:])
        save(plot_history(history, name), folder / "training_curve.png")


def plot_history(history, name):
    """SI-SDRi in training and validation over the epochs.

    Arguments
    ---------
    history : pandas.DataFrame
        ``history.csv``.
    name : str
        Of the training, for the title.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for split, colour, label in (
        ("train", COLOURS["train"], "training, as drawn and cropped"),
        ("valid", COLOURS["model"], "validation"),
    ):
        gain = history[f"{split}_si_sdri"]
        axes.plot(history.epoch, gain, ".-", color=colour, label=label)
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
    axes.set(xlabel="epoch", ylabel="SI-SDRi (dB)", title=f"{name}: training")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure
