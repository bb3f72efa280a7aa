"""What a search found: a leaderboard, pictures, and an hparams file."""

import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import optuna
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from optuna.trial import FrozenTrial, TrialState
from speechbrain.utils.logger import get_logger

from custom_modules.files import atomic_path
from custom_modules.tuning.search import is_interrupted
from custom_modules.tuning.sweep import Sweep

matplotlib.use("Agg")
import matplotlib.pyplot as plt

logger = get_logger(__name__)

#: A trial that was stopped early is no match for one that went all the way.
_ORDER = {"complete": 0, "pruned": 1, "fail": 2}


def leaderboard(sweep: Sweep, study: optuna.Study) -> pd.DataFrame:
    """Every finished trial, the best first.

    Columns: ``trial``, ``state``, ``value``, ``epochs``, ``minutes``, each parameter
    as the sweep file has it, ``folder`` and ``failure``.
    """
    table = pd.DataFrame(
        {
            "trial": trial.number,
            "state": trial.state.name.lower(),
            "value": trial.value,
            "epochs": len(trial.intermediate_values),
            "minutes": trial.duration.total_seconds() / 60 if trial.duration else None,
            **sweep.decode(trial.params),
            **{key: trial.user_attrs.get(key) for key in ("folder", "failure")},
        }
        for trial in study.get_trials(deepcopy=False)
        if trial.state.is_finished() and not is_interrupted(trial)
    )
    if table.empty:
        return table
    maximize = study.direction == optuna.study.StudyDirection.MAXIMIZE
    table = table.assign(order=table.state.map(_ORDER)).sort_values(
        ["order", "value"], ascending=[True, not maximize], kind="stable"
    )
    return table.drop(columns="order").reset_index(drop=True)


def write_report(
    sweep: Sweep, study: optuna.Study, folder: str | Path, arguments: Sequence[str] = ()
) -> list[Path]:
    """Writes leaderboard, pictures and the best configuration; returns their paths.

    ``arguments`` are what the command line gave to every trial.
    """
    folder = Path(folder)
    written = [folder / "leaderboard.csv"]
    with atomic_path(written[0]) as path:
        leaderboard(sweep, study).to_csv(path, index=False, float_format="%.6g")
    if any(t.state == TrialState.COMPLETE for t in study.get_trials(deepcopy=False)):
        written += _draw(sweep, study, folder)
        if hparams_file := sweep.hparams_file():
            written.append(folder / "best.yaml")
            base = os.path.relpath(hparams_file, folder.resolve())
            text = _best(sweep, study.best_trial, base, arguments)
            with atomic_path(written[-1]) as path:
                path.write_text(text, encoding="utf-8")
    return written


def _best(sweep: Sweep, trial: FrozenTrial, base: str, arguments: Sequence[str]) -> str:
    """What a trial chose, as an hparams file that ``train.py`` takes."""
    fixed = [f"{name} {value}" for name, value in sweep.constants().items()]
    lines = [
        f"# The best of {sweep.name}: trial {trial.number}, {sweep.metric} "
        f"{trial.value:.4g}, best of {len(trial.intermediate_values)} epochs.",
        "# Found with these settings, which are not part of it: "
        + (", ".join([*fixed, *arguments]) or "none"),
        f"base: {base}",
        "",
        # A results folder of its own: another sweep's best is another model.
        f"model_name: {sweep.name}_best",
        *(f"{n}: {_as_yaml(v)}" for n, v in sweep.decode(trial.params).items()),
    ]
    return "\n".join(lines) + "\n"


def _as_yaml(value: Any) -> Any:
    """As YAML 1.1 reads it: 1e-05 would be text."""
    if isinstance(value, float):
        if abs(value) >= 1e-3:
            return f"{value:.6g}" if value % 1 else f"{value:.1f}"
        mantissa, _, exponent = f"{value:.5e}".partition("e")
        return f"{mantissa.rstrip('0').ljust(3, '0')}e{int(exponent)}"
    return "null" if value is None else value


def _draw(sweep: Sweep, study: optuna.Study, folder: Path) -> list[Path]:
    """Importance of the parameters, parallel coordinates, and the way of the trials."""
    plots = optuna.visualization.matplotlib
    varied = [
        n for n in sweep.searched() if len({t.params.get(n) for t in study.trials}) > 1
    ]
    named = {"params": varied, "target_name": sweep.metric}
    kinds: dict[str, tuple[Callable[..., Axes], dict[str, Any]]] = {
        "intermediate_values": (plots.plot_intermediate_values, {})
    }
    if varied:
        kinds["parallel_coordinate"] = (plots.plot_parallel_coordinate, named)
        kinds["importance"] = (plots.plot_param_importances, named)
    drawn = []
    for name, (plot, options) in kinds.items():
        path = folder / f"{name}.png"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # experimental, tight layout
                _make_readable(plot(study, **options), sweep.metric)
                with atomic_path(path) as partial:
                    plt.savefig(partial, format="png", dpi=120, bbox_inches="tight")
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
        axes.set_xlabel("epoch")
        axes.set_ylabel(metric)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(color="0.9")
        if len(axes.lines) > 12 and (legend := axes.get_legend()):
            legend.remove()
