"""Scores of one mixture in all its variants: what a worker process computes.

Nothing here touches torch: workers are forked, and its threads do not survive
that.
"""

from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from custom_modules.errors import InputError
from custom_modules.metrics import (
    METRICS,
    SIGNALS,
    StoiReference,
    Uncomputable,
    bss_eval,
    columns_of,
    fault,
    metrics_of,
    pesq_score,
)
from custom_modules.mmipc import is_target
from custom_modules.processes import begin_worker, process_context

#: Of every score, so that a sum in another order shows nowhere.
DECIMALS = 4


class ScoringJob(NamedTuple):
    """A mixture, separated in some of its variants.

    Arguments
    ---------
    id : str
    sample_rate : int
        Hz.
    groups : tuple of str
        Some of :data:`custom_modules.metrics.GROUPS`.
    existing : tuple of str
        All variants of its environment, whether they are scored or not.
    targets : numpy.ndarray
        ``[time, sources]``.
    mixtures : dict of str to numpy.ndarray
        Variant → ``[time]``.
    estimates : dict of str to numpy.ndarray
        Variant → ``[time, sources]``, in the order of the targets.
    si_sdr : dict of str to dict
        Variant → suffix of a signal → dB, a list over sources.
    """

    id: str
    sample_rate: int
    groups: tuple
    existing: tuple
    targets: np.ndarray
    mixtures: dict
    estimates: dict
    si_sdr: dict


def score_mixture(job):
    """All scores of a mixture.

    Arguments
    ---------
    job : ScoringJob

    Returns
    -------
    dict of str to list of dict
        Variant → a row per source: the columns of
        :func:`~custom_modules.metrics.columns_of`, None where there is no score,
        and ``failures``, which says why.
    """
    return _Scorer(job).rows()


def merge_rows(earlier, later):
    """Puts together the scores of one mixture in one variant by several metrics.

    Arguments
    ---------
    earlier, later : list of dict
        A row per source, from :func:`score_mixture`. What both have is the
        earlier one's.

    Returns
    -------
    list of dict
        As if all had been scored at once.

    Example
    -------
    >>> earlier = [{"si_sdr": 1.0, "stoi": None, "failures": "stoi: too short"}]
    >>> later = [{"si_sdr": 1.0, "sdr": None, "failures": "sdr: too short"}]
    >>> (row,) = merge_rows(earlier, later)
    >>> row["failures"], row["stoi"], row["sdr"]
    ('sdr: too short; stoi: too short', None, None)
    """
    return [
        new | old | {"failures": _merge_failures(old["failures"], new["failures"])}
        for old, new in zip(earlier, later, strict=True)
    ]


def _merge_failures(*texts):
    """All failures once, in the order in which one run finds them."""
    failures = {part for text in texts for part in text.split("; ") if part}
    return "; ".join(sorted(failures, key=_place_of_failure))


def _place_of_failure(failure):
    """Signal by signal; of a signal first what concerns it whole, then metrics."""
    subject = failure.split(":")[0]
    if subject == "target":
        return 0, 0
    for place, (suffix, signal) in reversed(list(enumerate(SIGNALS.items()))):
        if subject == signal:
            return place, 0
        if subject.endswith(suffix):
            return place, 1 + list(METRICS).index(subject.removesuffix(suffix))
    raise ValueError(f"{failure}: of no signal")


class _Scorer:
    """Shares among the variants of a mixture what they have in common."""

    def __init__(self, job):
        self.job = job
        self.sources = job.targets.shape[1]
        self.target_faults = [fault(target) for target in job.targets.T]
        self.oracle = job.targets.sum(axis=1) if self.sources > 1 else None
        self.signals = {"": "estimates", "_mixture": "mixtures"}
        self.bss = self._bss_eval() if "sdr" in job.groups else {}
        self.stoi = {}
        self.of_oracle = {}

    def rows(self):
        return {
            variant: [self._row(variant, source) for source in range(self.sources)]
            for variant in self.job.mixtures
        }

    def _row(self, variant, source):
        row, failures = {}, []
        improvable = not is_target(variant, self.sources)
        faulty = self.target_faults[source]
        suffixes = [s for s in SIGNALS if s != "_oracle" or self.oracle is not None]
        for suffix in suffixes:
            scores, faults = self._scores(variant, source, suffix)
            row |= scores
            if suffix == "_mixture" and not improvable and not faulty:
                failures.append("mixture: the target itself, nothing to improve")
            failures += faults
        for name in metrics_of(self.job.groups, self.sources):
            for suffix in suffixes[:1] + suffixes[2:]:
                row[f"{name}i{suffix}"] = (
                    _difference(row[f"{name}{suffix}"], row[f"{name}_mixture"])
                    if improvable
                    else None
                )
        row = {name: row[name] for name in columns_of(self.job.groups, self.sources)}
        return row | {"failures": "; ".join(dict.fromkeys(failures))}

    def _scores(self, variant, source, suffix):
        """The scores of one signal against one target, and what failed."""
        if suffix == "_oracle":
            # No variant changes it but its SI-SDR, which came with the variant.
            if source not in self.of_oracle:
                self.of_oracle[source] = self._compute(variant, source, suffix)
            return self.of_oracle[source]
        return self._compute(variant, source, suffix)

    def _compute(self, variant, source, suffix):
        names = metrics_of(self.job.groups, self.sources)
        reason = self._reason(variant, source, suffix)
        if reason:
            return {f"{name}{suffix}": None for name in names}, [reason]
        scores, failures = {}, []
        for name in names:
            try:
                value = self._metric(name, variant, source, suffix)
            except Uncomputable as error:
                value = None
                failures.append(f"{name}{suffix}: {error}")
            scores[f"{name}{suffix}"] = None if value is None else _round(value)
        return scores, failures

    def _reason(self, variant, source, suffix):
        """Why no metric of a signal can be computed, or None."""
        if self.target_faults[source]:
            return f"target: {self.target_faults[source]}"
        if suffix == "_oracle":
            # A speaker who is not there cannot interfere.
            return "oracle: other target silent" if any(self.target_faults) else None
        reason = fault(self._signal(variant, source, suffix))
        return f"{SIGNALS[suffix]}: {reason}" if reason else None

    def _signal(self, variant, source, suffix):
        if suffix == "_oracle":
            return self.oracle
        if suffix == "_mixture":
            return self.job.mixtures[variant]
        return self.job.estimates[variant][:, source]

    def _metric(self, name, variant, source, suffix):
        if name == "si_sdr":
            return self.job.si_sdr[variant][suffix][source]
        if METRICS[name].group == "sdr":
            return self._bss_score(name, variant, source, suffix)
        target = self.job.targets[:, source]
        signal = self._signal(variant, source, suffix)
        if name == "pesq":
            return pesq_score(target, signal, self.job.sample_rate)
        return self._stoi_score(name, variant, source, suffix)

    def _stoi_score(self, name, variant, source, suffix):
        key = (variant, source, suffix)
        if source not in self.stoi:
            target = self.job.targets[:, source]
            try:
                self.stoi[source] = StoiReference(target, self.job.sample_rate)
            except Uncomputable as error:
                self.stoi[source] = error
        if isinstance(self.stoi[source], Uncomputable):
            raise self.stoi[source]
        if key not in self.stoi:
            self.stoi[key] = self.stoi[source].score(self._signal(*key))
        return self.stoi[key][("stoi", "estoi").index(name)]

    def _bss_score(self, name, variant, source, suffix):
        if isinstance(self.bss, Uncomputable):
            raise self.bss
        if name == "sir" and any(self.target_faults):
            raise Uncomputable("other target silent")
        place = source if suffix == "" else suffix
        scores = self.bss[("sdr", "sir").index(name)]
        reference = sum(not f for f in self.target_faults[:source])
        column = self.bss_places[variant if suffix != "_oracle" else None, place]
        if np.isnan(scores[reference, column]):
            raise Uncomputable("target leaves the filter undetermined")
        return scores[reference, column]

    def _bss_eval(self):
        """BSS-eval of all signals at once; or why it cannot be computed.

        Every signal has its place, whether it is scored or not: so the scores of
        a variant do not depend, not by a bit, on what else is scored.
        """
        time = len(self.job.targets)
        self.bss_places = {}
        columns = []
        for variant in self.job.existing:
            for place in (*range(self.sources), "_mixture"):
                self.bss_places[variant, place] = len(columns)
                columns.append(self._column(variant, place, time))
        if self.oracle is not None:
            self.bss_places[None, "_oracle"] = len(columns)
            columns.append(self.oracle)
        audible = [not reason for reason in self.target_faults]
        if not any(audible):
            return Uncomputable("target silent")
        try:
            return bss_eval(self.job.targets.T[audible], np.stack(columns))
        except Uncomputable as error:
            return error

    def _column(self, variant, place, time):
        if variant not in self.job.mixtures:
            return np.zeros(time)
        suffix, source = ("_mixture", 0) if place == "_mixture" else ("", place)
        signal = self._signal(variant, source, suffix)
        return np.zeros(time) if fault(signal) else signal


def _round(value):
    # Adding 0 spares the reader a -0.0.
    return round(float(value), DECIMALS) + 0.0


def _difference(score, baseline):
    if score is None or baseline is None:
        return None
    return _round(score - baseline)


class ScoringPool:
    """Processes that score mixtures; or this one.

    A context manager; the processes are there as soon as it is made.

    Arguments
    ---------
    workers : int
        How many processes; with 0, this one scores.

    Raises
    ------
    InputError
        If a process dies at once.
    """

    def __init__(self, workers):
        self.executor = self.limits = None
        if workers > 0:
            self.executor = ProcessPoolExecutor(
                workers, process_context(), initializer=_begin_scoring
            )
            with _explained_death():
                self.executor.submit(int).result()

    def __enter__(self):
        if self.executor is None:
            self.limits = _one_thread()
        return self

    def __exit__(self, *exception):
        if self.executor is None:
            self.limits.restore_original_limits()
        else:
            # Also when interrupted: do not finish what nobody waits for.
            self.executor.shutdown(cancel_futures=True)

    def submit(self, job):
        """Has a mixture scored.

        Arguments
        ---------
        job : custom_modules.evaluation.scoring.ScoringJob

        Returns
        -------
        concurrent.futures.Future
            For :meth:`result`.

        Raises
        ------
        InputError
            If a process died.
        """
        if self.executor is not None:
            with _explained_death():
                return self.executor.submit(_score, job)
        future = Future()
        future.set_result(_score(job))
        return future

    @staticmethod
    def result(future):
        """What was scored; waits for it.

        Arguments
        ---------
        future : concurrent.futures.Future
            From :meth:`submit`.

        Returns
        -------
        mixture_id : str
        groups : tuple of str
            The metrics.
        scores : dict of str to list of dict
            From :func:`~custom_modules.evaluation.scoring.score_mixture`.

        Raises
        ------
        InputError
            If a process died.
        """
        with _explained_death():
            return future.result()


@contextmanager
def _explained_death():
    try:
        yield
    except BrokenProcessPool as error:
        raise InputError(
            "a process that computes metrics died, perhaps for want of memory; the "
            "same command goes on from here, with fewer --workers if it was that, or "
            "with --no_pesq if PESQ itself crashes"
        ) from error


def _begin_scoring():
    begin_worker()
    _one_thread()


def _one_thread():
    """Keeps NumPy's linear algebra, which BSS-eval needs, to one thread.

    There is a process for every core; threads of all would fight for the cores.
    """
    return threadpool_limits(limits=1, user_api="blas")


def _score(job):
    return job.id, job.groups, score_mixture(job)
