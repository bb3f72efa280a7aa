"""From nothing to a page: costs, runs, comparison, tables."""

import json
import logging
import shutil
from pathlib import Path

import pandas as pd

from custom_modules.distributed import is_out_of_memory
from custom_modules.errors import InputError
from custom_modules.evaluation.comparison import compare_results
from custom_modules.evaluation.record import RECORD_FILE, command, without_folders
from custom_modules.files import atomic_path
from recipes.benchmark.campaign.costs import measure_costs
from recipes.benchmark.campaign.page import COMPARISON, COSTS, PICTURE, RECORD, RUNS
from recipes.benchmark.campaign.runs import MODELS
from recipes.benchmark.measuring import device_name

logger = logging.getLogger(__name__)


def costs_of(hparams, models, folder, options=()):
    """Costs of each architecture, measured once and kept in ``costs.csv``.

    Arguments
    ---------
    hparams : str
        A folder with an hparams file for each architecture.
    models : list of str
    folder : str or pathlib.Path
    options : list of str
        Of every training.

    Returns
    -------
    pandas.DataFrame
        A row for each architecture, see
        :func:`recipes.benchmark.campaign.costs.measure_costs`, and of ``what`` it is.

    Raises
    ------
    InputError
        If the device has not enough memory for a step.
    """
    path = Path(folder, COSTS)
    known = pd.read_csv(path).to_dict("records") if path.exists() else []
    rows = []
    for model in models:
        file = f"{hparams}/{model}.yaml"
        what = f"{file} {list(options)} on {device_name()}"
        row = next((row for row in known if row["what"] == what), None)
        if row is None:
            logger.info("%s: measuring what it costs", model)
            row = {"model": model, "what": what} | _measured(file, options)
        rows.append(row)
        with atomic_path(path) as partial:
            pd.DataFrame(rows).to_csv(partial, index=False, float_format="%.6g")
    return pd.DataFrame(rows)


def _measured(file, options):
    try:
        return measure_costs(file, options)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise InputError(
            f"{file}: a training step does not fit into memory; give all trainings a "
            "lower --batch_size, or --segment_seconds"
        ) from error


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


def table_of_runs(runs):
    """What each run took.

    Arguments
    ---------
    runs : list of recipes.benchmark.campaign.runs.Run
        Finished ones.

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
                "steps": run.steps_done(),
                "epochs": len(history),
                "minutes_per_epoch": whole.mean(),
                "minutes": minutes.sum(),
            }
        )
    return pd.DataFrame(rows)


def collect(runs, budget, folder, figures):
    """Compares the runs and puts the campaign's figures into a folder to commit.

    Arguments
    ---------
    runs : list of recipes.benchmark.campaign.runs.Run
        Finished ones, of two architectures or more.
    budget : float
        Minutes of a run.
    folder : str or pathlib.Path
        Of the campaign; with ``costs.csv``.
    figures : str or pathlib.Path
        The folder to commit.
    """
    folder, figures = Path(folder), Path(figures)
    figures.mkdir(parents=True, exist_ok=True)
    by_model = sorted(runs, key=lambda run: MODELS.index(run.model))
    compare_results([str(run.folder) for run in by_model], folder)
    with atomic_path(figures / RUNS) as path:
        table_of_runs(by_model).to_csv(path, index=False, float_format="%.4g")
    costs = pd.read_csv(folder / COSTS).drop(columns="what")
    with atomic_path(figures / COSTS) as path:
        costs.to_csv(path, index=False, float_format="%.6g")
    with atomic_path(figures / RECORD) as path:
        text = json.dumps(record_of(by_model, budget), indent=1) + "\n"
        path.write_text(text, encoding="utf-8")
    for name in (COMPARISON, PICTURE):
        shutil.copyfile(folder / name, figures / name)


def record_of(runs, budget):
    """What is to be said of how the runs came about, by their own records.

    Arguments
    ---------
    runs : list of recipes.benchmark.campaign.runs.Run
    budget : float

    Returns
    -------
    dict
        JSON values; commits, devices and days are those of all runs.
    """
    records = [
        json.loads((run.folder / RECORD_FILE).read_text(encoding="utf-8"))
        for run in runs
    ]
    versions = {
        f"{name} {version}"
        for record in records
        for name, version in record["versions"].items()
    }
    return {
        "command": without_folders(command()),  # it is published
        "budget_minutes": budget,
        "seeds": sorted({run.seed for run in runs}),
        "commits": sorted({str(record["git_commit"]) for record in records}),
        "device": device_name(),
        "versions": sorted(versions),
        "days": sorted({record["date"][:10] for record in records}),
    }
