"""Intervals against scipy's and against the theory."""

import numpy as np
import pytest
from scipy.stats import bootstrap

from custom_modules.evaluation.summary import interval_of_mean


def test_it_is_scipy_s_percentile_interval():
    random = np.random.default_rng(5)
    values = random.gamma(2, 2, (60, 2))
    low, high = interval_of_mean(values, np.arange(60))
    for column in range(2):
        expected = bootstrap(
            (values[:, column],),
            np.mean,
            method="percentile",
            n_resamples=20_000,
            rng=1,
        ).confidence_interval
        width = expected.high - expected.low
        assert low[column] == pytest.approx(expected.low, abs=0.05 * width)
        assert high[column] == pytest.approx(expected.high, abs=0.05 * width)


def test_variants_of_a_mixture_are_drawn_together():
    random = np.random.default_rng(6)
    of_mixture = random.standard_normal(200)
    values = np.repeat(of_mixture, 5)[:, None]  # five variants, all alike
    low, high = interval_of_mean(values, np.repeat(np.arange(200), 5))
    alone = interval_of_mean(of_mixture[:, None], np.arange(200))
    assert low == pytest.approx(alone[0])
    assert high == pytest.approx(alone[1])


def test_missing_values_are_left_out():
    random = np.random.default_rng(7)
    values = random.standard_normal((80, 2))
    values[40:, 1] = np.nan
    low, high = interval_of_mean(values, np.arange(80))
    width = high - low
    assert width[1] / width[0] == pytest.approx(2**0.5, rel=0.35)
    assert low[1] < values[:40, 1].mean() < high[1]


def test_the_mean_of_variants_weighs_each_alike():
    values = np.concatenate([np.zeros((90, 1)), np.ones((10, 1))])
    strata = np.repeat(["SER", "SE"], [90, 10])
    low, high = interval_of_mean(values, np.arange(100), strata)
    assert low == high == 0.5


def test_one_mixture_has_no_interval():
    low, high = interval_of_mean(np.ones((3, 1)), np.zeros(3))
    assert np.isnan(low).all()
    assert np.isnan(high).all()
