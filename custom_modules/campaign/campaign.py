"""From nothing to a page: costs, runs, comparison, tables."""

import json
import logging
import platform
import shutil
from datetime import datetime, timezone
from pathlib import Path

import pandas as pd

from custom_modules.campaign.costs import measure_costs
from custom_modules.campaign.page import COMPARISON, COSTS, PICTURE, RECORD, RUNS
from custom_modules.evaluation.comparison import compare_results
from custom_modules.evaluation.record import command, git_commit, versions
from custom_modules.files import atomic_path
from custom_modules.measuring import describe

logger = logging.getLogger(__name__)


def costs_of(hparams, models, folder):
    """Costs of each architecture, measured once and kept in ``costs.csv``.

    Arguments
    ---------
    hparams : str
        A folder with an hparams file for each architecture.
    models : list of str
    folder : str or pathlib.Path

    Returns
    -------
    pandas.DataFrame
        A row for each architecture, see
        :func:`custom_modules.campaign.costs.measure_costs`.
    """
    path = Path(folder, COSTS)
    rows = pd.read_csv(path).to_dict("records") if path.exists() else []
    for model in models:
        if model in [row["model"] for row in rows]:
            continue
        logger.info("%s: measuring what it costs", model)
        rows.append({"model": model} | measure_costs(f"{hparams}/{model}.yaml", {}))
        with atomic_path(path) as partial:
            pd.DataFrame(rows).to_csv(partial, index=False, float_format="%.6g")
    table = pd.DataFrame(rows).set_index("model", drop=False)
    return table.loc[list(models)].reset_index(drop=True)


def steps_of(costs, minutes):
    """Training steps of each architecture that take so long here.

    Arguments
    ---------
    costs : pandas.DataFrame
        From :func:`costs_of`.
    minutes : float

    Returns
    -------
    dict of str to int

    Example
    -------
    >>> steps_of(pd.DataFrame({"model": ["dprnn"], "step_seconds": [0.5]}), 10)
    {'dprnn': 1200}
    """
    pairs = zip(costs.model, costs.step_seconds, strict=True)
    return {model: max(1, round(60 * minutes / seconds)) for model, seconds in pairs}


def table_of_runs(runs, steps):
    """What each run took.

    Arguments
    ---------
    runs : list of custom_modules.campaign.runs.Run
        Finished ones.
    steps : dict of str to int

    Returns
    -------
    pandas.DataFrame
        ``model``, ``seed``, ``steps``, ``epochs`` (the last perhaps not whole),
        ``minutes`` of training and validation, and ``minutes_per_epoch``.
    """
    rows = []
    for run in runs:
        history = pd.read_csv(run.folder / "history.csv")
        minutes = history.seconds / 60
        whole = minutes.iloc[:-1] if len(minutes) > 1 else minutes
        rows.append(
            {
                "model": run.model,
                "seed": run.seed,
                "steps": steps[run.model],
                "epochs": len(history),
                "minutes_per_epoch": whole.mean(),
                "minutes": minutes.sum(),
            }
        )
    return pd.DataFrame(rows)


def collect(runs, steps, budget, folder, figures):
    """Compares the runs and puts the campaign's figures into a folder to commit.

    Arguments
    ---------
    runs : list of custom_modules.campaign.runs.Run
        Finished ones.
    steps : dict of str to int
    budget : float
        Minutes of a run.
    folder : str or pathlib.Path
        Of the campaign; with ``costs.csv``.
    figures : str or pathlib.Path
        The folder to commit.
    """
    folder, figures = Path(folder), Path(figures)
    figures.mkdir(parents=True, exist_ok=True)
    by_model = sorted(runs, key=lambda run: list(steps).index(run.model))
    compare_results([str(run.folder) for run in by_model], folder)
    table = table_of_runs(by_model, steps)
    with atomic_path(folder / RUNS) as path:
        table.to_csv(path, index=False, float_format="%.4g")
    record = {
        "command": command(),
        "budget_minutes": budget,
        "seeds": sorted({run.seed for run in runs}),
        "git_commit": git_commit(),
        "device": describe().split(", torch")[0],
        "versions": {"python": platform.python_version(), **versions()},
        "date": datetime.now(timezone.utc).date().isoformat(),
    }
    with atomic_path(folder / RECORD) as path:
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    for name in (COMPARISON, COSTS, RUNS, PICTURE, RECORD):
        shutil.copyfile(folder / name, figures / name)
