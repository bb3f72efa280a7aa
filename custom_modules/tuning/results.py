"""What a search found: a leaderboard, pictures, and an hparams file."""

import os
import warnings
from pathlib import Path

import matplotlib
import optuna
import pandas as pd
from optuna.trial import TrialState
from speechbrain.utils.logger import get_logger

from custom_modules.files import atomic_path

matplotlib.use("Agg")
import matplotlib.pyplot as plt

logger = get_logger(__name__)


def leaderboard(sweep, study):
    """Every finished trial, the best first.

    Arguments
    ---------
    sweep : custom_modules.tuning.sweep.Sweep
    study : optuna.Study

    Returns
    -------
    pandas.DataFrame
        ``trial``, ``state``, ``value``, ``epochs``, ``minutes``, a column for each
        parameter, ``folder`` and ``failure``.
    """
    rows = []
    for trial in study.get_trials(deepcopy=False):
        if not trial.state.is_finished() or trial.user_attrs.get("interrupted"):
            continue
        minutes = trial.duration.total_seconds() / 60 if trial.duration else None
        row = {"trial": trial.number, "state": trial.state.name.lower()}
        row |= {"value": trial.value, "epochs": len(trial.intermediate_values)}
        row |= {"minutes": minutes, **sweep.decode(trial.params)}
        row |= {k: trial.user_attrs.get(k) for k in ("folder", "failure")}
        rows.append(row)
    table = pd.DataFrame(rows)
    if table.empty:
        return table
    # A trial that was stopped early is no match for one that went all the way.
    order = table.state.map({"complete": 0, "pruned": 1, "fail": 2})
    maximize = study.direction == optuna.study.StudyDirection.MAXIMIZE
    table = table.assign(order=order).sort_values(
        ["order", "value"], ascending=[True, not maximize], kind="stable"
    )
    return table.drop(columns="order").reset_index(drop=True)


def write_report(sweep, study, folder, arguments=()):
    """Writes leaderboard, pictures and the best configuration.

    Arguments
    ---------
    sweep : custom_modules.tuning.sweep.Sweep
    study : optuna.Study
    folder : str or pathlib.Path
    arguments : list of str
        What the command line gave to every trial.

    Returns
    -------
    list of pathlib.Path
        What was written.
    """
    folder, table = Path(folder), leaderboard(sweep, study)
    written = [folder / "leaderboard.csv"]
    with atomic_path(written[0]) as path:
        table.to_csv(path, index=False, float_format="%.6g")
    complete = [t for t in study.trials if t.state == TrialState.COMPLETE]
    if complete:
        written += _draw(sweep, study, folder)
        if sweep.hparams_file():
            best = folder / "best.yaml"
            written.append(write_best(sweep, study.best_trial, best, arguments))
    return written


def write_best(sweep, trial, target, arguments=()):
    """Writes what a trial chose as an hparams file that ``train.py`` takes.

    Arguments
    ---------
    sweep : custom_modules.tuning.sweep.Sweep
    trial : optuna.trial.FrozenTrial
    target : pathlib.Path
    arguments : list of str
        What the command line gave to every trial; a comment says so.

    Returns
    -------
    pathlib.Path
    """
    base = sweep.hparams_file()
    where = os.path.relpath(base, Path(target).resolve().parent)
    fixed = [f"{name} {value}" for name, value in sweep.constants().items()]
    lines = [
        f"# The best of {sweep.name}: trial {trial.number}, {sweep.metric} "
        f"{trial.value:.4g}, best of {len(trial.intermediate_values)} epochs.",
        "# Found with these settings, which are not part of it: "
        + (", ".join([*fixed, *arguments]) or "none"),
        f"base: {where}",
        "",
        # A results folder of its own: another sweep's best is another model.
        f"model_name: {sweep.name}_best",
        *(f"{n}: {_number(v)}" for n, v in sweep.decode(trial.params).items()),
    ]
    with atomic_path(target) as path:
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return Path(target)


def _draw(sweep, study, folder):
    """Importance of the parameters, parallel coordinates, and the way of the trials."""
    plots = optuna.visualization.matplotlib
    varied = [
        n for n in sweep.searched() if len({t.params.get(n) for t in study.trials}) > 1
    ]
    kinds = {"intermediate_values": (plots.plot_intermediate_values, {})}
    if varied:
        named = {"params": varied, "target_name": sweep.metric}
        kinds["parallel_coordinate"] = (plots.plot_parallel_coordinate, named)
        kinds["importance"] = (plots.plot_param_importances, named)
    drawn = []
    for name, (plot, options) in kinds.items():
        path = folder / f"{name}.png"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # experimental, tight layout
                axes = plot(study, **options)
                figure = _make_readable(axes, sweep).figure
                with atomic_path(path) as partial:
                    figure.savefig(partial, format="png", dpi=120, bbox_inches="tight")
        except (RuntimeError, ValueError) as error:  # too few trials to say anything
            logger.info("no %s: %s", path.name, error)
        else:
            drawn.append(path)
        plt.close("all")
    return drawn


def _make_readable(axes, sweep):
    """Optuna's colours fade into its background, and its legends outgrow the page."""
    axes.figure.set_size_inches(10, 5)
    axes.set_facecolor("white")
    for twin in axes.figure.axes:  # white lines across what is drawn
        twin.grid(False)
    for lines in axes.collections:
        lines.set_cmap("viridis")
        lines.set_linewidth(1.5)
    if axes.get_xlabel() == "Step":
        axes.set_xlabel("epoch")
        axes.set_ylabel(sweep.metric)
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
        axes.grid(color="0.9")
        if len(axes.lines) > 12:
            axes.get_legend().remove()
    return axes


def _number(value):
    """As YAML 1.1 reads it: 1e-05 would be text."""
    if isinstance(value, float):
        if abs(value) >= 1e-3:
            return f"{value:.6g}" if value % 1 else f"{value:.1f}"
        mantissa, _, exponent = f"{value:.5e}".partition("e")
        return f"{mantissa.rstrip('0').ljust(3, '0')}e{int(exponent)}"
    return "null" if value is None else value
