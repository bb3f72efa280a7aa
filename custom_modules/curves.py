"""Curves of trainings: one's own after it, several in one picture; colours for all."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from speechbrain.utils.logger import get_logger

from custom_modules.errors import InputError
from custom_modules.files import atomic_path
from custom_modules.tabular import read_table

logger = get_logger(__name__)

#: Okabe and Ito's, which all eyes can tell apart, also in print and in grey.
BLUE, VERMILION, GREEN, PINK, ORANGE, SKY, BLACK = PALETTE = (
    *("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"),
)


def save(figure: Figure, path: Path) -> Path:
    """Writes a figure as PNG; names are drawn as they are, what is no Unicode escaped."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)
        text.set_text(text.get_text().encode("utf-8", "backslashreplace").decode())
    look: Any = {"savefig.dpi": 130, "savefig.bbox": None, "text.usetex": False}
    with atomic_path(path) as partial, matplotlib.rc_context(look):
        figure.savefig(partial, format="png")
    return path


def colours(count: int) -> list[Any]:
    """So many that can be told apart."""
    if count <= len(PALETTE):
        return [*PALETTE[:count]]
    shades = (0.08 + 0.87 * number / (count - 1) for number in range(count))  # no near-black ends
    return [matplotlib.colormaps["turbo"](shade) for shade in shades]


def in_legend(name: str) -> str:
    """A name as a label: Matplotlib leaves those that begin with ``_`` out."""
    return f" {name}" if name.startswith("_") else name


def plot_training(folder: str | Path) -> None:
    """Draws a results folder's ``history.csv``, if any, as ``training_curve.png``."""
    if (Path(folder) / "history.csv").exists():
        figure = plot_histories(read_histories([folder]))
        save(figure, Path(folder) / "training_curve.png")


def read_histories(folders: Sequence[str | Path]) -> dict[str, pd.DataFrame]:
    """The epochs of results folders, or ``history.csv`` files, by short names.

    Those without a history, as of a training in its first epoch, are passed over with
    a warning. The names, such as ``dprnn/42``, tell them apart.
    """
    histories, problems = [], []
    for path in map(Path, folders):
        path = path / "history.csv" if path.is_dir() or not path.suffix else path
        path = path.with_name("history.csv") if path.name == "hyperparams.yaml" else path
        try:
            histories.append((path.parent, _read(path)))
        except InputError as error:
            problems.append(str(error))
    if not histories:
        raise InputError(problems[-1], problems[:-1])
    for problem in problems:
        logger.warning("%s; left out", problem)
    names = _short_names([folder for folder, _ in histories])
    return {n: history for n, (_, history) in zip(names, histories, strict=True)}


def _read(path: Path) -> pd.DataFrame:
    columns = ("epoch", "lr", "valid_si_sdr", "valid_si_sdri", "train_si_sdri", "train_si_sdr")
    remedy = "it is not the history of a training: train first"
    history = read_table(path, columns, remedy=remedy)
    # A failed epoch is one of -inf, and an improvement may be unknown.
    drawn = history[[*columns]].clip(lower=-1e6)
    if history.epoch.isna().any() or (drawn.abs() > 1e6).any(axis=None):
        raise InputError(f"{path}: {remedy}")
    return history.assign(**drawn.round(9))


def _short_names(folders: list[Path]) -> list[str]:
    """As many parts of the paths, from their ends, as tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    for length in range(2, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise InputError(f"{folders[0]}: is named more than once")


def plot_histories(histories: Mapping[str, pd.DataFrame], score: str = "si_sdri") -> Figure:
    """Validation, training and learning rate; ``si_sdr`` or ``si_sdri`` is drawn."""
    figure = Figure(figsize=(9, 6.5), layout="constrained")
    scores, rates = figure.subplots(2, sharex=True, height_ratios=(4, 1))
    for (name, history), colour in zip(histories.items(), colours(len(histories)), strict=True):
        dot = "." if len(history) == 1 else ""  # of one epoch there is no line to see
        _draw_scores(scores, history, score, name, colour, dot)
        rates.step(history.epoch, history.lr, dot, color=colour, where="mid")
    scores.plot([], [], ":", color="0.4", label="dotted: training")
    kind = "SI-SDRi" if score == "si_sdri" else "SI-SDR"
    scores.set(ylabel=f"{kind} (dB)", title="Validation; a star is the best epoch")
    scores.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize="small")
    rates.set(xlabel="epoch", ylabel="learning rate", yscale="log")
    last = max(history.epoch.max() for history in histories.values())
    rates.set_xlim(0.5, last + 0.5)
    ticks = [1, 2, 2.5, 5, 10]  # Matplotlib's own, but for fractions of an epoch
    whole = MaxNLocator("auto", steps=ticks, integer=True, min_n_ticks=1)
    rates.xaxis.set_major_locator(whole)
    rates.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    rates.yaxis.set_major_formatter("{x:.3g}")
    rates.yaxis.set_minor_locator(NullLocator())
    for axes in (scores, rates):
        axes.grid(alpha=0.3)
    return figure


def _draw_scores(
    axes: Axes, history: pd.DataFrame, score: str, name: str, colour: Any, dot: str
) -> None:
    epochs = history.epoch
    valid, train = history[f"valid_{score}"], history[f"train_{score}"]
    label = f"{in_legend(name)}: {valid.max():.2f} dB"
    axes.plot(epochs, valid, ".-", color=colour, label=label, markersize=4)
    axes.plot(epochs, train, f"{dot}:", color=colour, alpha=0.6, linewidth=1)
    if history.valid_si_sdr.notna().any():
        best = history.valid_si_sdr.idxmax()  # an improvement may be NaN
        axes.plot(epochs[best], valid[best], "*", color=colour, markersize=12)
