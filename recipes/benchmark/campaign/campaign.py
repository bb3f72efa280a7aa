"""From nothing to a page: corpus, costs, runs, comparison, tables."""

import logging
import shutil
import subprocess
import sys
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from custom_modules.distributed import is_out_of_memory
from custom_modules.errors import InputError
from custom_modules.evaluation.comparison import compare_results
from custom_modules.evaluation.record import RECORD_FILE, command, without_folders
from custom_modules.files import atomic_path, digest_of, prepare_folder
from custom_modules.hparams import read_hparams
from custom_modules.processes import available_cores, gpus_here
from custom_modules.tabular import read_record, read_table, write_record, write_table
from custom_modules.tuning.trainings import Trainings
from custom_modules.yaml_trees import plain
from recipes.benchmark.campaign.costs import measure_costs
from recipes.benchmark.campaign.page import (
    COMPARISON,
    COST_COLUMNS,
    COSTS,
    PAIRS,
    PICTURE,
    RECORD,
    RUNS,
    WORDS,
)
from recipes.benchmark.campaign.runs import COMMITS_FILE, ENDLESS, TEST, Run, do_runs
from recipes.benchmark.measuring import device_name

logger = logging.getLogger(__name__)

#: Of a run, as measured with hparams/small on one core: validation beside the budget of
#: training; minutes that the test of a mixture takes, with its words.
WITH_VALIDATION, TEST_MINUTES = 1.1, 0.04
#: What the small preset's corpus is made of. With 8 voices and 24 mixtures to test with,
#: differences of 3 dB between models do not outlast the correction for all comparisons.
CORPUS_OPTIONS = (
    *("--n_train=1500", "--n_val=24", "--n_test=96", "--sentences=matrix"),
    "--test_voices=24",
)


def generate(
    corpus: str | Path, options: Sequence[str], hparams: str = "hparams/corpus/mini_polsess.yaml"
) -> str:
    """A corpus by ``generate.py``, which leaves one as it is that is there already."""
    script = ("recipes/corpus/generate.py", hparams, f"--output_folder={corpus}")
    if status := subprocess.run([sys.executable, *script, *options], check=False).returncode:
        raise InputError(f"{corpus}: generate.py ended with status {status}; see above")
    return str(corpus)


def mixtures_worth(minutes: float) -> int:
    """To test on, for a budget: the longer the trainings, the narrower the intervals.

    >>> [mixtures_worth(minutes) for minutes in (1, 4, 60)]
    [12, 48, 96]
    """
    return round(min(max(12, 12 * minutes), 96))


def recogniser_run(corpus: str, folder: Path) -> Run:
    """The training of the embedded recogniser, on the generated corpus."""
    place = folder / "recogniser"
    train = ["recipes/recognition/train.py", "hparams/recognition/mini.yaml"]
    train += [f"--data_folder={corpus}", f"--output_folder={place}", "--noprogressbar"]
    return Run("recogniser", 42, place, [train], ENDLESS, metric="")


def costs_of(
    hparams: str, models: Sequence[str], folder: Path, options: Sequence[str] = ()
) -> pd.DataFrame:
    """Costs of each architecture, measured once and kept in ``costs.csv``.

    A row has :func:`recipes.benchmark.campaign.costs.measure_costs`, and of ``what`` it
    is: the file in the folder ``hparams`` as it is, the ``options`` of training, the device.
    """
    path = folder / COSTS
    known: dict[str, dict[Hashable, Any]] = {}
    if path.exists():
        needed = ("model", "what", "step_seconds", *list(COST_COLUMNS)[:5])
        table = read_table(path, needed, needed[:2], "remove it to measure again")
        known = {row["what"]: row for row in table.to_dict("records")}
    rows = []
    for model in models:
        file = f"{hparams}/{model}.yaml"
        what = what_costs(file, options)
        if what not in known:
            logger.info("%s: measuring what it costs", model)
            try:
                known[what] = {"model": model, "what": what, **measure_costs(file, options)}
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                raise InputError(
                    f"{file}: a training step does not fit into memory; give all "
                    "trainings a lower --batch_size, or --segment_seconds"
                ) from error
            write_table(pd.DataFrame(known.values()), path)  # steps are of every digit
        rows.append(known[what])
    return pd.DataFrame(rows)


def steps_of(costs: pd.DataFrame, minutes: float) -> dict[str, int]:
    """Training steps of each architecture that take so long here."""
    steps = (60 * minutes / costs.step_seconds).round().clip(lower=1).astype(int)
    return dict(zip(costs.model, steps, strict=True))


def what_costs(file: str, options: Sequence[str]) -> str:
    """What costs are of, so that those of another file, device or training are none of it."""
    digest = digest_of([str(plain(read_hparams(file))).encode()], size=3)
    return f"{file} ({digest}) {list(options)} on {device_name()}"


def train_and_test(
    trainings: Sequence[Run],
    tests: Sequence[Run],
    budget: float,
    jobs: int | None,
    mixtures: int | None = None,
) -> None:
    """Does what is not done, so many at a time: by default a GPU or core each.

    ``budget`` is in minutes of a training; a test is of so many ``mixtures``, if known.
    """
    gpus = gpus_here()
    jobs = jobs or len(gpus) or available_cores()
    training, testing = (sum(not run.is_finished() for run in x) for x in (trainings, tests))
    minutes = training * budget * WITH_VALIDATION / jobs
    what = "%d trainings: about %.0f minutes, %d at a time; then %d tests"
    if mixtures:
        what += f" of {mixtures} mixtures, {testing * mixtures * TEST_MINUTES / jobs:.0f} minutes"
    logger.info(what, training, minutes, jobs, testing)
    for todo in (trainings, tests):
        do_runs(todo, Trainings(jobs, gpus))


def collect(
    runs: Sequence[Run],
    costs: pd.DataFrame,
    budget: float,
    folder: Path,
    figures: Path,
    results: Sequence[str] = (),
) -> None:
    """Compares finished runs and puts a campaign's figures into a folder to commit.

    ``costs`` are of :func:`costs_of`; ``budget`` is in minutes of a run; ``folder`` is the
    campaign's; ``results`` are the folders to compare, if not the runs' own.
    """
    prepare_folder(figures)
    runs = sorted(runs, key=lambda run: run.model)
    compare_results(results or [str(run.folder / TEST) for run in runs], folder)
    write_table(pd.DataFrame(map(_figures_of, runs)), figures / RUNS, digits=4)
    write_table(costs.drop(columns="what"), figures / COSTS, digits=6)
    write_record(_record_of(runs, budget), figures / RECORD)
    for name in (COMPARISON, PAIRS, PICTURE, WORDS):
        if (folder / name).exists():
            with atomic_path(figures / name) as path:
                shutil.copyfile(folder / name, path)
        else:
            (figures / name).unlink(missing_ok=True)  # of an earlier campaign


def _figures_of(run: Run) -> dict[str, Any]:
    """What a run took; the last of its epochs perhaps is not whole."""
    history = read_table(run.folder / "history.csv", ["seconds"], remedy="train that run again")
    minutes = history.seconds / 60
    return {
        "model": run.model,
        "seed": run.seed,
        "steps": run.steps_done(),
        "epochs": len(minutes),
        "minutes_per_epoch": minutes.iloc[: max(1, len(minutes) - 1)].mean(),
        "minutes": minutes.sum(),  # training and validation
    }


def _record_of(runs: Sequence[Run], budget: float) -> dict[str, Any]:
    """How the runs came about, by their own records; JSON values."""
    records = [read_record(run.folder / TEST / RECORD_FILE) for run in runs]
    trained = [(run.folder / COMMITS_FILE).read_text(encoding="utf-8").split() for run in runs]
    versions = {pair for record in records for pair in record.get("versions", {}).items()}
    return {
        "command": without_folders(command()),  # it is published
        "budget_minutes": budget,
        "seeds": sorted({run.seed for run in runs}),
        "commits": sorted({str(record.get("git_commit")) for record in records}),
        "trained_at": sorted({commit for commits in trained for commit in commits}),
        "device": device_name(),
        "versions": sorted(f"{name} {version}" for name, version in versions),
        "days": sorted({str(record.get("date"))[:10] for record in records}),
    }
