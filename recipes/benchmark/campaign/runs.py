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

import yaml

from custom_modules.errors import InputError
from custom_modules.files import atomic_path
from custom_modules.hparams import read_hparams
from custom_modules.processes import TrialProcess

logger = logging.getLogger(__name__)

MODELS = ("convtasnet", "dprnn", "sepformer", "spmamba")
#: The budget alone ends a training, and none waits for a later epoch's variants.
ALIKE = ("--number_of_epochs=1000000", "--curriculum=null")
#: In a run's folder once it is finished: the commands that made it.
FINISHED_FILE = "finished.json"


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
    steps : int
        Of the training.
    """

    model: str
    seed: int
    folder: Path
    commands: list
    steps: int

    def is_finished(self):
        """Whether all of it has been through already, by the same hparams."""
        try:
            known = (self.folder / FINISHED_FILE).read_text(encoding="utf-8")
            return json.loads(known) == self._identity()
        except (OSError, ValueError):
            return False

    def keep_finished(self):
        """Remembers that it has."""
        with atomic_path(self.folder / FINISHED_FILE) as path:
            path.write_text(json.dumps(self._identity(), indent=1) + "\n")

    def _identity(self):
        hparams = {k: str(v) for k, v in read_hparams(self.commands[0][1]).items()}
        return {"commands": self.commands, "hparams": hparams}

    def steps_done(self):
        """Steps behind the newest checkpoint; 0 without one."""
        states = self.folder.glob("save/CKPT+*/brain.ckpt")
        loaded = (yaml.safe_load(state.read_text(encoding="utf-8")) for state in states)
        return max((state["optimizer_step"] for state in loaded), default=0)


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
    runs = []
    for seed in seeds:
        for model, count in steps.items():
            place = Path(folder, model, str(seed))
            train = [
                "recipes/separation/train.py",
                f"{hparams}/{model}.yaml",
                f"--data_folder={data_folder}",
                f"--output_folder={place}",
                f"--seed={seed}",
                f"--model_name={model}",
                f"--optimizer_step_limit={count}",
                *ALIKE,
                "--test_after_training=False",
                "--noprogressbar",
                *options,
            ]
            test = [
                "recipes/separation/evaluate.py",
                f"{place}/hyperparams.yaml",
                f"--data_folder={data_folder}",
                "--noprogressbar",
            ]
            runs.append(Run(model, seed, place, [train, test], count))
    return runs


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
            If any failed, after all are through; or one was trained for longer.
        """
        waiting = [run for run in runs if not run.is_finished()]
        for run in waiting:
            if (done := run.steps_done()) > run.steps:
                raise InputError(
                    f"{run.folder}: was trained for {done} steps, more than the "
                    f"{run.steps} of this budget; raise --budget, or name another "
                    "--output_folder"
                )
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
            raise InputError(f"{len(failures)} of the runs failed; see above", failures)

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
        except OSError as error:
            return f"{run.folder}: cannot be written to ({error.strerror})"
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
        before = dict(process.rows())  # of an earlier run; it has just been started
        try:
            if self.stopping.is_set():
                return None
            for epoch, value in process.values():
                if epoch not in before:
                    logger.info("%s: epoch %d, %.2f dB", name, epoch, value)
            failure = process.failure()
        finally:
            process.stop()
            self.processes.discard(process)
        minutes = (time.monotonic() - start) / 60
        logger.info("%s: %s, %.1f min", name, Path(command[0]).name, minutes)
        return failure
