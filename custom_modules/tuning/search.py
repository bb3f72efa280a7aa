"""Runs the trials of a study, several at a time."""

import itertools
import json
import os
import socket
import sqlite3
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import check_distribution_compatibility
from optuna.exceptions import OptunaError, UpdateFinishedTrialError
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.storages.journal._file import get_lock_file
from optuna.trial import FrozenTrial, Trial, TrialState
from speechbrain.utils.logger import get_logger
from sqlalchemy.exc import SQLAlchemyError

from custom_modules.errors import InputError
from custom_modules.files import prepare_folder, regular_file
from custom_modules.mmipc import draw_fraction
from custom_modules.processes import TrialProcess
from custom_modules.tuning.sweep import Sweep
from custom_modules.tuning.trainings import Trainings

logger = get_logger(__name__)

#: Of a study: what all its trials have in common.
_COMMON = "common"
#: A trial of another machine that has said nothing for so long is dead.
SILENCE_SECONDS = 1800
ALIVE_SECONDS = 60


def open_storage(where: str, folder: str | Path) -> optuna.storages.BaseStorage:
    """``sqlite`` or ``journal``, a file in ``folder``; else any URL that Optuna takes.

    Of the latter many machines can share one, such as ``postgresql://host/db``. A file
    is read to its end: better refused now than after a trial.
    """
    folder = Path(folder)
    prepare_folder(folder)
    names = {"sqlite": "study.db", "journal": "study.journal"}
    remedy = "use sqlite, journal, or a URL such as postgresql://user@host/database"
    if where in names and (folder / names[where]).exists():
        file = regular_file(folder / names[where])
        remedy = f"if {file} is damaged, move the whole folder away to begin anew"
    try:
        if where not in names:
            return optuna.storages.RDBStorage(where)
        storage = _open_file(folder / names[where])
        for study in storage.get_all_studies():
            storage.get_all_trials(study._study_id)
        return storage
    # A URL or its driver, the database, or tables of another version of Optuna; a
    # journal's lines are taken as they are.
    except (
        *(AttributeError, ImportError, LookupError, OSError, RuntimeError, TypeError),
        *(ValueError, OptunaError, SQLAlchemyError, sqlite3.Error),
    ) as e:
        reason = (str(e).strip() or repr(e)).splitlines()[0]
        raise InputError(f"--storage={where}: cannot be opened ({reason}); {remedy}") from e


def _open_file(file: Path) -> optuna.storages.BaseStorage:
    """A journal or an SQLite database; raises ValueError, or SQLite's errors, if damaged."""
    if file.suffix == ".journal":
        storage = optuna.storages.JournalStorage(JournalFileBackend(str(file)))
        _mend(file)
        return storage
    with closing(sqlite3.connect(file, timeout=60)) as database:
        (answer,) = database.execute("PRAGMA quick_check(1)").fetchone()
    if answer != "ok":
        raise ValueError(answer)
    return optuna.storages.RDBStorage(f"sqlite:///{file}")


def _mend(journal: Path) -> None:
    """Drops what a kill left of the last line; with more after it, Optuna reads nothing.

    Raises ValueError if the last whole line is none either.
    """
    with get_lock_file(JournalFileSymlinkLock(str(journal))):
        written = journal.read_bytes()
        *whole, cut = written.split(b"\n")
        if whole:
            json.loads(whole[-1])
        elif cut:
            raise ValueError("holds no whole line")
        os.truncate(journal, len(written) - len(cut))


def open_study(
    sweep: Sweep,
    storage: optuna.storages.BaseStorage,
    seed: int = 42,
    max_epochs: int | None = None,
    arguments: Sequence[str] = (),
) -> optuna.Study:
    """The study of a sweep, a new one or the one that there is.

    ``max_epochs`` is how long a trial can be, which Hyperband must know; ``arguments`` are
    what the command line gives to every trial.
    """
    direction = "maximize" if sweep.maximize else "minimize"
    common = sweep.common(arguments)
    if sweep.name in optuna.get_all_study_names(storage):
        known = optuna.load_study(study_name=sweep.name, storage=storage)
        _check_same(sweep, known, direction, common)
        # A resumed search, or another machine's, must not draw the same again.
        drawn = len(known.get_trials(deepcopy=False))
        fraction = draw_fraction("search", seed, drawn, socket.gethostname())
        seed = int(fraction * 2**32)
    samplers = optuna.samplers  # a grid is enqueued, nothing of it is drawn
    is_bayes = sweep.method == "bayes"
    sampler = samplers.TPESampler if is_bayes else samplers.RandomSampler
    study = optuna.create_study(
        storage=storage,
        study_name=sweep.name,
        direction=optuna.study.StudyDirection[direction.upper()],
        sampler=sampler(seed=seed),
        pruner=make_pruner(sweep.early_terminate, max_epochs),
        load_if_exists=True,
    )
    study.set_user_attr(_COMMON, common)
    return study


def _check_same(
    sweep: Sweep, study: optuna.Study, direction: str, common: Mapping[str, str]
) -> None:
    """Refuses to go on with a study whose trials those to come could not be compared with."""
    changed = [] if study.direction.name.lower() == direction else ["goal"]
    before: Mapping[str, str] = study.user_attrs.get(_COMMON, common)  # older ones have none
    changed += sorted(k for k in {*before, *common} if before.get(k) != common.get(k))
    for name, parameter in sweep.searched().items():
        kinds = (t.distributions.get(name) for t in study.get_trials(deepcopy=False))
        try:
            for kind in filter(None, kinds):
                check_distribution_compatibility(kind, parameter.distribution)
        except ValueError:
            changed.append(name)
    if changed:
        raise InputError(
            f"{sweep.path}: its study began with another {', '.join(changed)}; "
            "change it back, or name another --tuning_folder"
        )


def make_pruner(
    spec: dict[str, Any] | None, max_epochs: int | None = None
) -> optuna.pruners.BasePruner:
    """Hyperband as ``early_terminate`` describes it.

    Brackets begin at ``min_iter``, or at ``max_iter / eta^s``. Without ``max_epochs``
    a trial is as long as the first ones are.
    """
    if spec is None:
        return optuna.pruners.NopPruner()
    eta = max(2, spec.get("eta", 3))
    most = spec.get("max_iter", max_epochs)
    least = spec.get("min_iter") or max(1, most // eta ** spec.get("s", 1))
    if most is not None and most < least:
        return optuna.pruners.NopPruner()
    return optuna.pruners.HyperbandPruner(least, most or "auto", eta)


def is_interrupted(trial: FrozenTrial) -> bool:
    """Whether its process was gone: another trial goes on with what it had reached."""
    return bool(trial.user_attrs.get("interrupted"))


def recover(study: optuna.Study) -> None:
    """Has trials whose process is gone go on with what they had reached."""
    # Optuna's heartbeats know no journal, begin with study.optimize, and would have
    # a rerun on this machine wait until they are stale.
    for trial in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
        if not _is_dead(trial.user_attrs):
            continue
        logger.warning("trial %d was interrupted and goes on", trial.number)
        study._storage.set_trial_user_attr(trial._trial_id, "interrupted", True)
        study.tell(trial.number, state=TrialState.FAIL)
        if trial.params:
            attrs = {"folder": trial.user_attrs.get("folder")}
            study.enqueue_trial(trial.params, user_attrs=attrs)


def check_any_succeeded(study: optuna.Study) -> None:
    """Refuses a study of which nothing can be reported: all of its trials failed."""
    trials = study.get_trials(deepcopy=False)
    if trials and all(trial.state == TrialState.FAIL for trial in trials):
        last = _why(trials[-1].user_attrs)
        raise InputError(f"all {len(trials)} trials failed; the last: {last}")


@dataclass
class Search:
    """Runs trials of a sweep, each in a folder in ``trials/`` of ``folder``."""

    sweep: Sweep
    study: optuna.Study
    trainings: Trainings
    folder: str | Path
    arguments: Sequence[str] = ()  # appended to the command of every trial
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, trials: int) -> None:
        """Runs until so many trials are finished, also by others."""
        trials_folder = Path(self.folder, "trials")
        if not self.study.get_trials(deepcopy=False) and trials_folder.exists():
            # They would be resumed as if they were this study's.
            raise InputError(f"{trials_folder}: is of another study; name another --tuning_folder")
        recover(self.study)
        if self.sweep.method == "grid":
            # Optuna's GridSampler gives a point to several workers, and ends by
            # stopping study.optimize, which cannot leave a trial for a rerun.
            trials = min(trials, self.sweep.combinations())
            searched = self.sweep.searched()
            for point in itertools.product(*(p.choices for p in searched.values())):
                params = dict(zip(searched, point, strict=True))
                self.study.enqueue_trial(params, skip_if_exists=True)
        self.trainings.map(self._work, [trials] * self.trainings.jobs)

    def _work(self, trials: int) -> None:
        while not self.trainings.are_stopping and (trial := self._next(trials)):
            self._try(trial)

    def _next(self, trials: int) -> Trial | None:
        """A new trial, or None if there are enough."""
        with self._lock:
            known = self.study.get_trials(deepcopy=False)
            taken = [t for t in known if t.state != TrialState.WAITING]
            if sum(not is_interrupted(t) for t in taken) >= trials:
                return None
            searched = self.sweep.searched().items()
            trial = self.study.ask({name: p.distribution for name, p in searched})
            trial.set_user_attr("host", socket.gethostname())
            trial.set_user_attr("pid", os.getpid())
            trial.set_user_attr("alive", time.time())
            # A resumed one goes on in its folder, but nowhere else than here.
            name = Path(str(trial.user_attrs.get("folder"))).name
            name = name if name.isdigit() else f"{trial.number:04d}"
            trial.set_user_attr("folder", str(Path(self.folder, "trials", name)))
            return trial

    def _try(self, trial: Trial) -> None:
        """Runs a trial, prunes it where it lags behind, and keeps its best value."""
        chosen = self.sweep.decode(trial.params)
        settings = ", ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in chosen.items()
        )
        logger.info("trial %d begins: %s", trial.number, settings)
        folder = trial.user_attrs["folder"]
        command = self.sweep.command_line(
            self.sweep.constants() | chosen, [f"--output_folder={folder}", *self.arguments]
        )
        try:
            with self.trainings.run(command, folder, self.sweep.metric) as process:
                best, state = self._watch(trial, process)
                if self.trainings.are_stopping:
                    return  # it stays as it is, and a rerun goes on with it
                # If another has ended it, this says so; tell raises a plain ValueError.
                trial.set_user_attr("alive", time.time())
                is_complete = state == TrialState.COMPLETE
                self.study.tell(trial, best if is_complete else None, state)
        except UpdateFinishedTrialError:
            logger.warning(
                "trial %d was given up here: another tune.py has heard nothing of it "
                "for %d min and has taken it over",
                trial.number,
                SILENCE_SECONDS // 60,
            )
            return
        result = "no value" if best is None else f"{self.sweep.metric} {best:.4g}"
        why = f" ({_why(trial.user_attrs)})" if state == TrialState.FAIL else ""
        end = f"{state.name.lower()}: {result}, {settings}{why}"
        logger.info("trial %d %s", trial.number, end)

    def _watch(self, trial: Trial, process: TrialProcess) -> tuple[float | None, TrialState]:
        """Reports epoch by epoch; returns the best value and how it ended."""

        def beat() -> None:
            if time.time() - trial.user_attrs["alive"] > ALIVE_SECONDS:
                trial.set_user_attr("alive", time.time())

        best: float | None = None
        pick = max if self.sweep.maximize else min
        for epoch, value in process.values(beat):
            trial.report(value, epoch)
            best = value if best is None else pick(best, value)
            if trial.should_prune():
                process.stop()
                return best, TrialState.PRUNED
        if not self.trainings.are_stopping and (failure := process.failure()):
            trial.set_user_attr("failure", failure)
            return best, TrialState.FAIL
        return best, TrialState.COMPLETE


def _is_dead(attrs: dict[str, Any]) -> bool:
    """Whether nobody can be working on a trial any more."""
    if attrs.get("host") == socket.gethostname():
        try:
            os.kill(attrs["pid"], 0)
        except (ProcessLookupError, KeyError):
            return True
        except PermissionError:
            return False
        return attrs["pid"] == os.getpid()  # a number that came round again
    return time.time() - attrs.get("alive", 0) > SILENCE_SECONDS


def _why(attrs: dict[str, Any]) -> str:
    """Why a trial failed, and where all that it printed is, tracebacks included."""
    where = f"; see {attrs['folder']}/output.txt" if "folder" in attrs else ""
    return f"{attrs.get('failure')}{where}"
