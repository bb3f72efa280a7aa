"""The runs of a campaign: every architecture with every seed, on one budget."""

import itertools
import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import yaml

from custom_modules.errors import InputError
from custom_modules.evaluation.record import git_commit
from custom_modules.files import prepare_folder
from custom_modules.hparams import HPARAMS_FILE, read_hparams
from custom_modules.tabular import write_text
from custom_modules.tuning.trainings import Trainings
from custom_modules.yaml_trees import plain

logger = logging.getLogger(__name__)

#: An hparams file beside those of the architectures: one of them again, very small.
DEMO = "demo"
#: The budget alone ends a training, and none waits for a later epoch's variants.
ALIKE = ("--number_of_epochs=1000000", "--curriculum=null")
#: In a run's folder, the commands that make it: once it is finished, and of a training from
#: its beginning on.
FINISHED_FILE, BEGUN_FILE = "finished.json", "begun.json"
#: Beside them, the commits that a training was of, a line for each time that it went on.
COMMITS_FILE = "commits.txt"
#: What may be another when a training goes on.
LIMIT = "--optimizer_step_limit="
#: Steps that no training reaches.
ENDLESS = 10**9
#: In a training's folder, that of its test.
TEST = "test"

#: Where the hparams files of a size are.
FOLDERS = {"published": "hparams", "small": "hparams/small"}


def hparams_folder(size: str) -> str:
    """Of a size that ``--sizes`` names."""
    if size not in FOLDERS:
        raise InputError(f"--sizes={size}: choose from {', '.join(FOLDERS)}")
    return FOLDERS[size]


def models_in(hparams: str | Path) -> list[str]:
    """The architectures of a folder: its hparams files that make a separator.

    >>> models_in("hparams/tuned")
    ['convtasnet', 'dprnn', 'sepformer', 'spmamba']
    """
    files = [f for f in sorted(Path(hparams).glob("*.yaml")) if f.stem != DEMO]
    return [file.stem for file in files if "separator" in read_hparams(str(file))]


def chosen_models(hparams: str | Path, names: str | None, least: int = 1) -> list[str]:
    """The architectures of a folder that ``--models`` names, with commas; all by default."""
    found = models_in(hparams)
    chosen = names.split(",") if names else found
    if len(set(chosen)) < max(least, len(chosen)):
        raise InputError(f"--models: must be {least} or more, each of them once")
    if unknown := sorted(set(chosen) - set(found)):
        raise InputError(f"--models: no {hparams}/{unknown[0]}.yaml; there are {', '.join(found)}")
    return chosen


class Run(NamedTuple):
    """A training, or a test."""

    model: str
    seed: int
    folder: Path
    commands: list[list[str]]
    steps: int  # of the training, or ENDLESS
    metric: str = "valid_si_sdr"  # that history.csv must hold; empty without one

    @property
    def name(self) -> str:
        return f"{self.model}, seed {self.seed}"

    @property
    def is_training(self) -> bool:
        return Path(self.commands[0][0]).name == "train.py"

    def is_finished(self) -> bool:
        """Whether these commands are through already, with the same hparams."""
        file = self.folder / FINISHED_FILE
        return file.is_file() and file.read_bytes() == self.identity().encode()

    def keep_begun(self) -> None:
        """Says what is trained here; InputError if it was something else."""
        file, identity = self.folder / BEGUN_FILE, self.identity(but=LIMIT)
        if not self.is_training:
            return
        if file.is_file() and file.read_bytes() != identity.encode():
            what = f"was begun with other options, or another {self.commands[0][1]}"
            raise InputError(f"{self.folder}: {what}; name another --output_folder")
        prepare_folder(self.folder)
        write_text(file, identity)

    def keep_commit(self) -> None:
        """Adds what is checked out to the commits that are trained here."""
        if self.is_training:
            with open(self.folder / COMMITS_FILE, "a", encoding="utf-8") as stream:
                stream.write(f"{git_commit() or ''}\n")

    def identity(self, but: str = "\n") -> str:
        """All that makes the run, ``but`` options that begin so."""
        hparams = plain(read_hparams(self.commands[0][1]))
        commands = [[x for x in words if not x.startswith(but)] for words in self.commands]
        return json.dumps({"commands": commands, "hparams": hparams}, indent=1) + "\n"

    def steps_done(self) -> int:
        """Steps behind the newest checkpoint; 0 without one, or if it is damaged."""
        steps = [0]
        for state in self.folder.glob("save/CKPT+*/brain.ckpt"):
            with suppress(OSError, LookupError, TypeError, ValueError, yaml.YAMLError):
                steps.append(int(yaml.safe_load(state.read_bytes())["optimizer_step"]))
        return max(steps)


def plan(
    hparams: str,
    data_folder: str | Path,
    folder: str | Path,
    steps: Mapping[str, int],
    seeds: Sequence[int],
    options: Sequence[str] = (),
) -> list[Run]:
    """All trainings, seed by seed, so that each architecture has one early.

    ``hparams`` is a folder with a file for each model of ``steps``; a run's own is
    ``<model>/<seed>`` in ``folder``; ``options`` are appended to every training.
    """
    runs, corpus = [], f"--data_folder={data_folder}"
    for seed, (model, count) in itertools.product(seeds, steps.items()):
        place = Path(folder, model, str(seed))
        train = [
            *("recipes/separation/train.py", f"{hparams}/{model}.yaml", corpus),
            *(f"--output_folder={place}", f"--seed={seed}", f"--model_name={model}"),
            *(f"{LIMIT}{count}", *ALIKE, "--test_after_training=False"),
            *("--noprogressbar", *options),
        ]
        runs.append(Run(model, seed, place, [train], count))
    return runs


def test_of(
    run: Run,
    data_folder: str | Path,
    recogniser: str | None,
    options: Sequence[str] = (),
    place: str = TEST,
) -> Run:
    """The test of a training, with words if there is a recogniser.

    ``place`` is its folder in that of the training, where a test by hand does not write.
    """
    folder = run.folder / place
    test = ["recipes/separation/evaluate.py", str(run.folder / HPARAMS_FILE)]
    test += [f"--data_folder={data_folder}", f"--output_folder={folder}", "--noprogressbar"]
    words = [f"--recogniser={recogniser}"] if recogniser else []
    return Run(
        f"{place} of {run.model}", run.seed, folder, [[*test, *options, *words]], ENDLESS, ""
    )


def do_runs(runs: Sequence[Run], trainings: Trainings) -> None:
    """Does what is not finished; one that fails does not stop the others.

    Ctrl-C ends all, and a rerun goes on.
    """
    waiting = [run for run in runs if not run.is_finished()]
    for run in waiting:
        if (done := run.steps_done()) > run.steps:
            more = f"was trained for {done} steps, more than the {run.steps} of this"
            remedy = "raise --budget, or name another --output_folder"
            raise InputError(f"{run.folder}: {more} budget; {remedy}")
        run.keep_begun()
    logger.info("%d of %d runs to do", len(waiting), len(runs))
    answers = trainings.map(lambda run: _do(run, trainings), waiting)
    if failures := [answer for answer in answers if answer]:
        raise InputError(f"{len(failures)} of the runs failed; see above", failures)


def _do(run: Run, trainings: Trainings) -> str | None:
    """The failure of a run, in a line; None if there is none."""
    one_thread = {"OMP_NUM_THREADS": "1"}
    try:
        run.keep_begun()  # again, as hours may have passed
        begun = run.identity()
        run.keep_commit()
    except InputError as error:
        return str(error)
    for script, *arguments in run.commands:
        start, command = time.monotonic(), [sys.executable, script, *arguments]
        try:
            training = trainings.run(command, run.folder, run.metric, one_thread)
            with training as process:
                before = dict(process.rows())  # of an earlier run; it has just begun
                for epoch, value in process.values():
                    if epoch not in before:
                        logger.info("%s: epoch %d, %.2f dB", run.name, epoch, value)
                failure = process.failure()
        except OSError as error:
            return f"{run.folder}: cannot be written to ({error.strerror})"
        minutes = (time.monotonic() - start) / 60
        logger.info("%s: %s, %.1f min", run.name, Path(script).name, minutes)
        if trainings.are_stopping:
            return None
        if failure:
            where = f"{run.name}: {Path(script).stem}"
            return f"{where}: {failure}; see {run.folder}/output.txt"
    write_text(run.folder / FINISHED_FILE, begun)
    return None
