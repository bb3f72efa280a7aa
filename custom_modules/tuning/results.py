"""What a search found: a leaderboard, pictures, and an hparams file."""

import math
import os
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import matplotlib
import optuna
import pandas as pd
import yaml
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from optuna.trial import FrozenTrial, TrialState
from speechbrain.utils.logger import get_logger

from custom_modules.files import atomic_path
from custom_modules.tabular import write_table, write_text
from custom_modules.tuning.search import is_interrupted
from custom_modules.tuning.sweep import Sweep

matplotlib.use("Agg")
import matplotlib.pyplot as plt

logger = get_logger(__name__)


def leaderboard(sweep: Sweep, study: optuna.Study) -> pd.DataFrame:
    """Every finished trial, the best first.

    Columns: ``trial``, ``state``, ``value``, ``epochs``, ``minutes``, each parameter
    as the sweep file has it, ``folder`` and ``failure``.
    """

    def order(trial: FrozenTrial) -> tuple[TrialState, float]:
        """One that was stopped early is no match for one that went all the way."""
        if trial.value is None:
            return trial.state, math.inf
        return trial.state, -trial.value if sweep.maximize else trial.value

    return pd.DataFrame(
        {
            "trial": trial.number,
            "state": trial.state.name.lower(),
            "value": trial.value,
            "epochs": len(trial.intermediate_values),
            "minutes": trial.duration.total_seconds() / 60 if trial.duration else None,
            **sweep.decode(trial.params),
            **{key: trial.user_attrs.get(key) for key in ("folder", "failure")},
        }
        for trial in sorted(study.get_trials(deepcopy=False), key=order)
        if trial.state.is_finished() and not is_interrupted(trial)
    )


def write_report(
    sweep: Sweep, study: optuna.Study, folder: str | Path, arguments: Sequence[str] = ()
) -> list[Path]:
    """Writes leaderboard, pictures and the best configuration; returns their paths.

    ``arguments`` are what the command line gave to every trial.
    """
    folder = Path(folder)
    written = [folder / "leaderboard.csv"]
    write_table(leaderboard(sweep, study), written[0], digits=6)
    if any(t.state == TrialState.COMPLETE for t in study.get_trials(deepcopy=False)):
        written += _draw(sweep, study, folder)
        if hparams_file := sweep.hparams_file():
            written.append(folder / "best.yaml")
            base = os.path.relpath(hparams_file, folder.resolve())
            write_text(written[-1], _best(sweep, study.best_trial, base, arguments))
    return written


def _best(sweep: Sweep, trial: FrozenTrial, base: str, arguments: Sequence[str]) -> str:
    """What a trial chose, as an hparams file that ``train.py`` takes."""
    fixed = [f"{name} {value}" for name, value in sweep.constants().items()]
    chosen = {
        name: float(f"{value:.6g}") if isinstance(value, float) else value
        for name, value in sweep.decode(trial.params).items()
    }
    # A results folder of its own: another sweep's best is another model.
    hparams = {"base": base, "model_name": f"{sweep.name}_best"} | chosen
    return (
        f"# The best of {sweep.name}: trial {trial.number}, {sweep.metric} "
        f"{trial.value:.4g}, best of {len(trial.intermediate_values)} epochs.\n"
        "# Found with these settings, which are not part of it: "
        f"{', '.join([*fixed, *arguments]) or 'none'}\n"
        f"{yaml.safe_dump(hparams, sort_keys=False, allow_unicode=True)}"
    )


def _draw(sweep: Sweep, study: optuna.Study, folder: Path) -> list[Path]:
    """Importance of the parameters, parallel coordinates, and the way of the trials."""
    plots = optuna.visualization.matplotlib
    varied = [n for n in sweep.searched() if len({t.params.get(n) for t in study.trials}) > 1]
    kinds: dict[str, Callable[[optuna.Study], Axes]] = {
        "intermediate_values": plots.plot_intermediate_values
    }
    for name, plot in (
        ("parallel_coordinate", plots.plot_parallel_coordinate),
        ("importance", plots.plot_param_importances),
    ):
        if varied:
            kinds[name] = partial(plot, params=varied, target_name=sweep.metric)
    drawn = []
    for name, draw in kinds.items():
        path = folder / f"{name}.png"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # experimental, tight layout
                _make_readable(draw(study), sweep.metric)
                with atomic_path(path) as new:
                    plt.savefig(new, format="png", dpi=120, bbox_inches="tight")
        except (RuntimeError, ValueError) as error:  # too few trials to say anything
            logger.info("no %s: %s", path.name, error)
        else:
            drawn.append(path)
        plt.close("all")
    return drawn


def _make_readable(axes: Axes, metric: str) -> None:
    """Optuna's colours fade into its background, and its legends outgrow the page."""
    figure = plt.gcf()
    figure.set_size_inches(10, 5)
    axes.set_facecolor("white")
    for twin in figure.axes:  # white lines across what is drawn
        twin.grid(False)
    for lines in axes.collections:
        lines.set_cmap("viridis")
        lines.set_linewidth(1.5)
    if axes.get_xlabel() == "Step":
        axes.set(xlabel="epoch", ylabel=metric)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(color="0.9")
        if len(axes.lines) > 12 and (legend := axes.get_legend()):
            legend.remove()
