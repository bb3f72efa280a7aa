"""Processes that score, and may die."""

import os

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from custom_modules.errors import InputError
from custom_modules.evaluation import scoring as pool
from custom_modules.evaluation.scoring import ScoringPool
from tests.evaluation.signals import job, noise

TARGETS = noise(2000, 2)
JOB = job(TARGETS, {"C": TARGETS.sum(1)}, {"C": TARGETS}, groups=())


def blas_threads():
    return {i["num_threads"] for i in threadpool_info() if i["user_api"] == "blas"}


@pytest.mark.parametrize("workers", [0, 1])
def test_metrics_take_one_thread_each(monkeypatch, workers):
    monkeypatch.setattr(pool, "score_mixture", lambda _: blas_threads())
    with threadpool_limits(2, "blas"):
        with ScoringPool(workers) as scoring:
            assert scoring.result(scoring.submit(JOB)) == ("x", (), {1})
        assert blas_threads() == {2}


def test_a_process_that_dies_at_its_start_is_told_in_one_line(monkeypatch):
    monkeypatch.setattr(pool, "begin_worker", lambda: os._exit(9))
    with pytest.raises(InputError, match="fewer --workers"):
        ScoringPool(1)


def test_a_process_that_dies_is_told_in_one_line(monkeypatch):
    monkeypatch.setattr(pool, "score_mixture", lambda _: os._exit(9))
    with ScoringPool(1) as scoring:
        future = scoring.submit(JOB)
        for attempt in (lambda: scoring.result(future), lambda: scoring.submit(JOB)):
            with pytest.raises(InputError, match="fewer --workers"):
                attempt()
