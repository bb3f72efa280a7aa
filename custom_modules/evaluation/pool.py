"""Processes that compute metrics while the model goes on."""

from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from threadpoolctl import threadpool_limits

from custom_modules.errors import InputError
from custom_modules.evaluation.scoring import score_mixture
from custom_modules.manifest.pool import process_context
from custom_modules.workers import begin_worker


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
