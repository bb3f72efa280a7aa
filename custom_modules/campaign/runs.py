"""The runs of a campaign: every architecture with every seed, on one budget."""

import json
import logging
import queue
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from custom_modules.errors import InputError
from custom_modules.files import atomic_path
from custom_modules.tuning.process import TrialProcess

logger = logging.getLogger(__name__)

MODELS = ("convtasnet", "dprnn", "sepformer", "spmamba")
#: In a run's folder once it is finished: the commands that made it.
FINISHED_FILE = "finished.json"
#: Epochs that are there sooner after a start were there before.
PATIENCE_SECONDS = 5


class Run(NamedTuple):
    """A training and its test.

    Arguments
    ---------
    model : str
    seed : int
    folder : pathlib.Path
        Of its results.
    commands : list of list of str
        To train, then to test.
    """

    model: str
    seed: int
    folder: Path
    commands: list

    def is_finished(self):
        """Whether the same commands have been through already."""
        try:
            known = (self.folder / FINISHED_FILE).read_text(encoding="utf-8")
            return json.loads(known) == self.commands
        except (OSError, ValueError):
            return False

    def keep_finished(self):
        """Remembers that they are."""
        with atomic_path(self.folder / FINISHED_FILE) as path:
            path.write_text(json.dumps(self.commands, indent=1) + "\n")


def plan(hparams, data_folder, folder, steps, seeds, options=()):
    """All runs, seed by seed, so that each architecture has one early.

    Arguments
    ---------
    hparams : str
        A folder with an hparams file for each architecture.
    data_folder : str or pathlib.Path
    folder : str or pathlib.Path
        Each run has a folder ``<model>/<seed>`` in it.
    steps : dict of str to int
        Training steps of each architecture.
    seeds : list of int
    options : list of str
        Appended to every training.

    Returns
    -------
    list of Run
    """
    return [
        Run(
            model,
            seed,
            Path(folder, model, str(seed)),
            [
                [
                    "recipes/separation/train.py",
                    f"{hparams}/{model}.yaml",
                    f"--data_folder={data_folder}",
                    f"--output_folder={Path(folder, model, str(seed))}",
                    f"--seed={seed}",
                    f"--model_name={model}",
                    f"--optimizer_step_limit={count}",
                    "--test_after_training=False",
                    "--noprogressbar",
                    *options,
                ],
                [
                    "recipes/separation/evaluate.py",
                    f"{Path(folder, model, str(seed))}/hyperparams.yaml",
                    "--noprogressbar",
                ],
            ],
        )
        for seed in seeds
        for model, count in steps.items()
    ]


class Queue:
    """Does runs, several at a time; one that fails does not stop the others.

    Arguments
    ---------
    jobs : int
        Runs at a time, on one thread each.
    gpus : list of str
        Given to the jobs in turn, by ``CUDA_VISIBLE_DEVICES``.
    """

    def __init__(self, jobs, gpus=()):
        self.jobs, self.gpus = jobs, queue.Queue()
        for place in range(jobs if gpus else 0):
            self.gpus.put(gpus[place % len(gpus)])
        self.stopping, self.processes = threading.Event(), set()

    def do(self, runs):
        """Does what is not finished; Ctrl-C ends all, and a rerun goes on.

        Arguments
        ---------
        runs : list of Run

        Raises
        ------
        InputError
            If any failed, after all are through.
        """
        waiting = [run for run in runs if not run.is_finished()]
        logger.info("%d of %d runs to do", len(waiting), len(runs))
        with ThreadPoolExecutor(self.jobs) as pool:
            try:
                failures = list(pool.map(self._do, waiting))
            except BaseException:
                self.stopping.set()
                for process in list(self.processes):
                    process.stop()
                raise
        failures = [failure for failure in failures if failure]
        if failures:
            raise InputError(f"{len(failures)} runs failed; run again", failures)

    def _do(self, run):
        """The failure of a run, in a line; None if there is none."""
        gpu = None if self.gpus.empty() else self.gpus.get()
        try:
            for command in run.commands:
                failure = self._call(run, command, gpu)
                if self.stopping.is_set():
                    return None
                if failure:
                    name = f"{run.model}, seed {run.seed}: {Path(command[0]).stem}"
                    return f"{name}: {failure}; see {run.folder}/output.txt"
            run.keep_finished()
            return None
        finally:
            if gpu is not None:
                self.gpus.put(gpu)

    def _call(self, run, command, gpu):
        """Why a command failed, in a line; None if it did not."""
        name = f"{run.model}, seed {run.seed}"
        environment = {"OMP_NUM_THREADS": "1"}
        environment |= {} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}
        start = time.monotonic()
        process = TrialProcess(
            [sys.executable, *command], run.folder, "valid_si_sdr", environment
        )
        self.processes.add(process)
        try:
            if self.stopping.is_set():
                return None
            for epoch, value in process.values():
                if time.monotonic() - start > PATIENCE_SECONDS:
                    logger.info("%s: epoch %d, %.2f dB", name, epoch, value)
            failure = process.failure()
        finally:
            process.stop()
            self.processes.discard(process)
        minutes = (time.monotonic() - start) / 60
        logger.info("%s: %s, %.1f min", name, Path(command[0]).name, minutes)
        return failure
