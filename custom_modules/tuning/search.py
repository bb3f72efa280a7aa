"""Runs the trials of a study, several at a time."""

import itertools
import os
import socket
import threading
import time
from pathlib import Path

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState
from speechbrain.utils.logger import get_logger

from custom_modules.errors import InputError
from custom_modules.files import prepare_folder
from custom_modules.mmipc import draw_fraction
from custom_modules.processes import TrialProcess

logger = get_logger(__name__)

#: A trial of another machine that has said nothing for so long is dead.
SILENCE_SECONDS = 1800
ALIVE_SECONDS = 60


def open_storage(where, folder):
    """A storage by its kind or URL.

    Arguments
    ---------
    where : str
        ``sqlite`` or ``journal``, a file in ``folder``; else any URL that Optuna
        takes, such as ``postgresql://host/db``, for many machines at once.
    folder : str or pathlib.Path

    Returns
    -------
    optuna.storages.BaseStorage

    Raises
    ------
    InputError
        If it cannot be opened.
    """
    folder = Path(folder)
    prepare_folder(folder)
    if where == "journal":
        path = str(folder / "study.journal")
        backend = optuna.storages.journal.JournalFileBackend(path)
        return optuna.storages.JournalStorage(backend)
    url = f"sqlite:///{folder / 'study.db'}" if where == "sqlite" else where
    try:
        return optuna.storages.RDBStorage(url)
    except Exception as error:  # of SQLAlchemy, of its drivers, of their imports
        reason = str(error).strip().splitlines()[0] if str(error) else repr(error)
        raise InputError(
            f"--storage={where}: cannot be opened ({reason}); "
            "use sqlite, journal, or a URL such as postgresql://user@host/database"
        ) from error


def open_study(sweep, storage, seed=42, max_epochs=None):
    """The study of a sweep, made anew or gone on with.

    Arguments
    ---------
    sweep : custom_modules.tuning.sweep.Sweep
    storage : optuna.storages.BaseStorage
    seed : int
        Of the sampler.
    max_epochs : int, optional
        How long a trial can be, which Hyperband must know.

    Returns
    -------
    optuna.Study
    """
    if (study := _existing(sweep.name, storage)) is not None:
        # A resumed search, or another machine's, must not draw the same again.
        drawn = len(study.get_trials(deepcopy=False))
        fraction = draw_fraction("search", seed, drawn, socket.gethostname())
        seed = int(fraction * 2**32)
    samplers = {
        "bayes": lambda: optuna.samplers.TPESampler(seed=seed),
        "random": lambda: optuna.samplers.RandomSampler(seed=seed),
        "grid": lambda: optuna.samplers.RandomSampler(seed=seed),  # all is enqueued
    }
    return optuna.create_study(
        storage=storage,
        study_name=sweep.name,
        direction="maximize" if sweep.maximize else "minimize",
        sampler=samplers[sweep.method](),
        pruner=make_pruner(sweep.early_terminate, max_epochs),
        load_if_exists=True,
    )


def _existing(name, storage):
    try:
        return optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        return None


def make_pruner(spec, max_epochs=None):
    """Hyperband as ``early_terminate`` describes it.

    Arguments
    ---------
    spec : dict, optional
        With ``min_iter``, or with ``max_iter`` and ``s``: brackets begin at
        ``min_iter``, or at ``max_iter / eta^s``.
    max_epochs : int, optional
        The longest that a trial can be; by default what the first ones take.

    Returns
    -------
    optuna.pruners.BasePruner

    Example
    -------
    >>> make_pruner({"type": "hyperband", "min_iter": 10}, max_epochs=100)._min_resource
    10
    >>> make_pruner({"type": "hyperband", "max_iter": 27, "s": 2})._min_resource
    3
    """
    if spec is None:
        return optuna.pruners.NopPruner()
    eta = max(2, spec.get("eta", 3))
    most = spec.get("max_iter", max_epochs)
    least = spec.get("min_iter") or max(1, most // eta ** spec.get("s", 1))
    if most is not None and most < least:
        return optuna.pruners.NopPruner()
    return optuna.pruners.HyperbandPruner(least, most or "auto", eta)


def recover(study):
    """Gives trials whose process is gone another go, with what they had reached.

    Arguments
    ---------
    study : optuna.Study
    """
    for trial in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
        if not _is_dead(trial.user_attrs):
            continue
        logger.warning("trial %d was interrupted and goes on", trial.number)
        study._storage.set_trial_user_attr(trial._trial_id, "interrupted", True)
        study.tell(trial.number, state=TrialState.FAIL)
        attrs = {"folder": trial.user_attrs.get("folder")} if trial.params else {}
        if trial.params:
            study.enqueue_trial(trial.params, user_attrs=attrs)


def _is_dead(attrs):
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


def check_any_succeeded(study):
    """Refuses a study of which nothing can be reported.

    Arguments
    ---------
    study : optuna.Study

    Raises
    ------
    InputError
        If there are trials and all have failed; with what the last one said.
    """
    trials = study.get_trials(deepcopy=False)
    failures = [
        t.user_attrs.get("failure") for t in trials if t.state == TrialState.FAIL
    ]
    if failures and len(failures) == len(trials):
        raise InputError(f"all {len(trials)} trials failed; the last: {failures[-1]}")


class Search:
    """Runs trials of a sweep until there are enough.

    Arguments
    ---------
    sweep : custom_modules.tuning.sweep.Sweep
    study : optuna.Study
    folder : str or pathlib.Path
        Each trial has a folder in its ``trials/``.
    arguments : list of str
        Appended to the command of every trial.
    """

    def __init__(self, sweep, study, folder, arguments=()):
        self.sweep, self.study, self.folder = sweep, study, Path(folder)
        self.arguments = list(arguments)
        self.processes, self.stopping = set(), threading.Event()
        self._lock, self._errors = threading.Lock(), []

    def run(self, trials, workers=1, gpus=()):
        """Runs until so many trials are finished, also by others.

        Arguments
        ---------
        trials : int
        workers : int
            Trials at a time.
        gpus : list of str
            Given to the workers in turn, by ``CUDA_VISIBLE_DEVICES``.
        """
        recover(self.study)
        if self.sweep.method == "grid":
            trials = min(trials, self.sweep.combinations())
            self._enqueue_grid()
        threads = [
            threading.Thread(
                target=self._work,
                args=(
                    trials,
                    {"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]} if gpus else {},
                ),
            )
            for i in range(workers)
        ]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except BaseException:
            self.stop()
            raise
        if self._errors:
            raise self._errors[0]

    def stop(self):
        """Ends all trials; a rerun goes on with them."""
        self.stopping.set()
        for process in list(self.processes):
            process.stop()

    def _work(self, trials, environment):
        try:
            while not self.stopping.is_set() and (trial := self._next(trials)):
                self._try(trial, environment)
        except Exception as error:  # of the storage: a thread's would go unheard
            self._errors.append(error)
            self.stop()

    def _next(self, trials):
        """A new trial, or None if there are enough."""
        with self._lock:
            taken = [
                t
                for t in self.study.get_trials(deepcopy=False)
                if not t.user_attrs.get("interrupted") and t.state != TrialState.WAITING
            ]
            if len(taken) >= trials:
                return None
            searched = self.sweep.searched()
            trial = self.study.ask(
                {n: p.as_distribution() for n, p in searched.items()}
            )
            trial.set_user_attr("host", socket.gethostname())
            trial.set_user_attr("pid", os.getpid())
            trial.set_user_attr("alive", time.time())
            if not trial.user_attrs.get("folder"):
                folder = self.folder / "trials" / f"{trial.number:04d}"
                trial.set_user_attr("folder", str(folder))
            return trial

    def _try(self, trial, environment):
        """Runs a trial, prunes it where it lags behind, and keeps its best value."""
        folder = trial.user_attrs["folder"]
        more = [f"--output_folder={folder}", *self.arguments]
        logger.info("trial %d begins: %s", trial.number, self._settings(trial))
        values = self.sweep.constants() | self.sweep.decode(trial.params)
        process = TrialProcess(
            self.sweep.command_line(values, more),
            folder,
            self.sweep.metric,
            environment,
        )
        self.processes.add(process)
        try:
            if self.stopping.is_set():
                return  # stop() may have looked at the processes before
            best, pruned = self._watch(trial, process)
            if self.stopping.is_set():
                return  # it stays as it is, and a rerun goes on with it
            self._tell(trial, best, pruned, process)
        except UpdateFinishedTrialError:
            logger.warning(
                "trial %d was given up here: another tune.py has heard nothing of it "
                "for %d min and has taken it over",
                trial.number,
                SILENCE_SECONDS // 60,
            )
        finally:
            process.stop()
            self.processes.discard(process)

    def _watch(self, trial, process):
        """Reports epoch by epoch; returns the best value and whether to prune."""
        best = None
        for epoch, value in process.values(_heartbeat(trial)):
            trial.report(value, epoch)
            pick = max if self.sweep.maximize else min
            best = value if best is None else pick(best, value)
            if trial.should_prune():
                process.stop()
                return best, True
        return best, False

    def _tell(self, trial, best, pruned, process):
        failure = None if pruned else process.failure()
        state = TrialState.COMPLETE
        if pruned:
            state = TrialState.PRUNED
        elif failure:
            state = TrialState.FAIL
            trial.set_user_attr("failure", failure)
        value = best if state == TrialState.COMPLETE else None
        # If another has ended it, this says so; tell raises a plain ValueError.
        trial.set_user_attr("alive", time.time())
        self.study.tell(trial, value, state)
        result = f"{self.sweep.metric} {best:.4g}" if best is not None else "no value"
        logger.info(
            "trial %d %s: %s, %s%s",
            trial.number,
            state.name.lower(),
            result,
            self._settings(trial),
            f" ({failure})" if failure else "",
        )

    def _settings(self, trial):
        return ", ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in self.sweep.decode(trial.params).items()
        )

    def _enqueue_grid(self):
        searched = self.sweep.searched()
        choices = [p.as_distribution().choices for p in searched.values()]
        for combination in itertools.product(*choices):
            params = dict(zip(searched, combination, strict=True))
            self.study.enqueue_trial(params, skip_if_exists=True)


def _heartbeat(trial):
    """A function that tells the storage, now and then, that a trial is watched."""
    said = time.monotonic()

    def beat():
        nonlocal said
        if time.monotonic() - said > ALIVE_SECONDS:
            trial.set_user_attr("alive", time.time())
            said = time.monotonic()

    return beat
