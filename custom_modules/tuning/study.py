"""A study: what is known of the trials of a sweep, which a kill does not lose."""

import os
import socket
import time
from pathlib import Path

import optuna
from optuna.trial import TrialState
from speechbrain.utils.logger import get_logger

from custom_modules.errors import InputError
from custom_modules.files import prepare_folder
from custom_modules.mmipc import draw_fraction

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
