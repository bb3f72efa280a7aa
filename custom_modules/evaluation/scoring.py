"""Scores of one mixture in all its variants: what a worker process computes.

Nothing here touches torch: workers are forked, and its threads do not survive
that.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from custom_modules.metrics import METRICS, SIGNALS, Metric, Uncomputable, fault
from custom_modules.processes import begin_worker, worker_pool

#: Of every score, so that a sum in another order shows nowhere.
DECIMALS = 4

_REMEDY = (
    "the same command goes on from here, with fewer --workers if it was that, or with "
    "--no_pesq if PESQ itself crashes"
)


class Failure(NamedTuple):
    """Why there is no score."""

    where: str  # "target", a name of SIGNALS, or a metric's column
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


#: Suffix of SIGNALS → of each source, the score of a metric or why there is none.
SignalScores = dict[str, list[float | Failure]]

#: Variant → metric → scores.
MixtureScores = dict[str, dict[str, SignalScores]]


class ScoringJob(NamedTuple):
    """A mixture, separated in some of its variants."""

    id: str
    sample_rate: int  # Hz
    metrics: list[str]
    existing: tuple[str, ...]  # the variants of its environment, scored or not
    targets: np.ndarray  # [time, sources]
    mixtures: dict[str, np.ndarray]  # variant → [time]
    #: Variant → ``[time, sources]``, in the order of the targets.
    estimates: dict[str, np.ndarray]
    #: Of the metrics that took a batch: metric → variant → suffix → of each source.
    on_device: dict[str, dict[str, dict[str, list[float]]]]


#: Which signal of a mixture: its suffix, variant, and the source of an estimate.
Place = tuple[str, str | None, int | None]
_ORACLE: Place = ("_oracle", None, None)  # the same in all variants


def score_mixture(job: ScoringJob) -> MixtureScores:
    """All scores of a mixture."""
    return _Scorer(job).scores()


class _Scorer:
    """Shares among the variants and metrics of a mixture what they have in common."""

    def __init__(self, job: ScoringJob) -> None:
        self.job, self.targets = job, job.targets.T
        self.target_faults = [fault(target) for target in self.targets]
        self.signals: dict[Place, np.ndarray] = {}
        for variant, mixture in job.mixtures.items():
            for source, estimate in enumerate(job.estimates[variant].T):
                self.signals["", variant, source] = estimate
            self.signals["_mixture", variant, None] = mixture
        if len(self.targets) > 1:
            self.signals[_ORACLE] = job.targets.sum(axis=1)
        self.faults = {place: fault(signal) for place, signal in self.signals.items()}
        self.results: dict[tuple, Any] = {}

    def scores(self) -> MixtureScores:
        sources = range(len(self.targets))
        suffixes = [s for s in SIGNALS if s != "_oracle" or _ORACLE in self.signals]
        return {
            variant: {
                name: {
                    suffix: [self._score(name, suffix, variant, x) for x in sources]
                    for suffix in suffixes
                }
                for name in self.job.metrics
            }
            for variant in self.job.mixtures
        }

    def _score(self, name: str, suffix: str, variant: str, source: int) -> float | Failure:
        place: Place = (suffix, variant, source if suffix == "" else None)
        place = _ORACLE if suffix == "_oracle" else place
        failure = self._failure(place, source)
        if failure:
            return failure
        metric = METRICS[name]
        try:
            if metric.takes == "batch":
                value = self.job.on_device[name][variant][suffix][source]
            else:
                value = self._compute(metric, place, source)
            if metric.across and any(self.target_faults):
                raise Uncomputable("other target silent")
            if np.isnan(value):
                raise Uncomputable(metric.undefined)
        except Uncomputable as reason:
            return Failure(f"{name}{suffix}", str(reason))
        return round(float(value), DECIMALS) + 0.0  # adding 0 spares a -0.0

    def _failure(self, place: Place, source: int) -> Failure | None:
        """Why no metric of a signal can be computed, or None."""
        reason = self.target_faults[source]
        if reason:
            return Failure("target", reason)
        reason = self.faults[place]
        if place == _ORACLE:
            # A speaker who is not there cannot interfere.
            reason = "other target silent" if any(self.target_faults) else None
        elif place[0] == "_mixture" and any(self.target_faults) and not reason:
            # Alone and clean there is nothing to improve: its score would be rounding's.
            rest = self.signals[place] - self.targets[source]
            reason = "is the target" if fault(rest) == "silent" else None
        return Failure(SIGNALS[place[0]], reason) if reason else None

    def _compute(self, metric: Metric, place: Place, source: int) -> float:
        function, rate = metric.function, self.job.sample_rate
        if metric.takes == "targets":
            result = self._once((function,), self._together, function)
            result = result if metric.part is None else result[metric.part]
            audible = sum(not reason for reason in self.target_faults[:source])
            return result[audible, self._all_places().index(place)]
        target, signal = self.targets[source], self.signals[place]
        key = (function, place, source)
        if metric.prepare is None:
            result = self._once(key, function, target, signal, rate)
        else:
            of_target = (metric.prepare, source)
            prepared = self._once(of_target, metric.prepare, target, rate)
            result = self._once(key, function, prepared, signal)
        return result if metric.part is None else result[metric.part]

    def _together(self, function: Callable) -> Any:
        """Scores of all signals at once, against the targets that are not silent.

        Every signal has its place, whether it is scored or not: so the scores of
        a variant do not depend, not by a bit, on what else is scored.
        """
        audible = [not reason for reason in self.target_faults]
        signals = np.zeros((len(self._all_places()), len(self.job.targets)))
        for row, place in zip(signals, self._all_places(), strict=True):
            if place in self.signals and not self.faults[place]:
                row[:] = self.signals[place]
        return function(self.targets[audible], signals)

    def _all_places(self) -> list[Place]:
        places: list[Place] = []
        for variant in self.job.existing:
            places += [("", variant, source) for source in range(len(self.targets))]
            places += [("_mixture", variant, None)]
        return places + [_ORACLE] * (_ORACLE in self.signals)

    def _once(self, key: tuple, function: Callable, *arguments: Any) -> Any:
        """What a function returns, or finds uncomputable, when first called so."""
        if key not in self.results:
            try:
                self.results[key] = function(*arguments)
            except Uncomputable as reason:
                self.results[key] = reason
        if isinstance(self.results[key], Uncomputable):
            raise self.results[key]
        return self.results[key]


@contextmanager
def scoring_processes(workers: int) -> Iterator[Callable[[ScoringJob], Future]]:
    """Yields what has a job scored: by so many processes, or by this one if 0.

    The processes are there as soon as the block begins. What they compute comes with
    the mixture's id. That one of them died is an InputError.
    """
    if workers == 0:
        with _one_thread():
            yield _score_here
        return
    with worker_pool(workers, _REMEDY, initializer=_begin_scoring) as pool:
        pool.submit(int).result()
        yield lambda job: pool.submit(_score, job)


def _begin_scoring() -> None:
    begin_worker()
    _one_thread()


def _one_thread() -> threadpool_limits:
    """Keeps NumPy's linear algebra, which BSS-eval needs, to one thread.

    There is a process for every core; threads of all would fight for the cores.
    """
    return threadpool_limits(limits=1, user_api="blas")


def _score_here(job: ScoringJob) -> Future:
    future: Future = Future()
    future.set_result(_score(job))
    return future


def _score(job: ScoringJob) -> tuple[str, MixtureScores]:
    return job.id, score_mixture(job)
