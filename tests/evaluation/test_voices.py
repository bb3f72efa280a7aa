"""Intervals over voices: what they cover when voices differ."""

import numpy as np
import pytest

from custom_modules.evaluation.summary import interval_of_mean
from custom_modules.evaluation.voices import interval_over_voices


def test_they_cover_where_voices_differ_and_intervals_over_mixtures_do_not():
    """Each voice shifts its mixtures by some 2 dB; the mean over all voices is 0."""
    rng, covered = np.random.default_rng(5), np.zeros(2)
    for _ in range(200):
        effects = rng.normal(0, 2, 24)
        pairs = np.array([rng.choice(24, 2, replace=False) for _ in range(200)])
        values = effects[pairs].sum(1) + rng.normal(0, 1, 200)
        low, high = interval_over_voices(values, pairs)
        covered[0] += low < 0 < high
        (low,), (high,) = interval_of_mean(values[:, None], np.arange(200))
        covered[1] += low < 0 < high
    assert covered[0] / 200 > 0.9
    assert covered[1] / 200 < 0.6


def test_two_voices_say_nothing_of_others():
    assert np.isnan(interval_over_voices(np.arange(3.0), np.array([["a", "b"]] * 3))).all()


def test_a_constant_has_no_width():
    pairs = np.array([["a", "b"], ["b", "c"], ["a", "c"]])
    assert interval_over_voices(np.full(3, 2.5), pairs) == pytest.approx((2.5, 2.5))


def test_lengths_make_it_a_ratio_of_sums():
    """Errors that are a share of each length are that share, however long the mixtures are."""
    rng = np.random.default_rng(3)
    pairs = np.array([rng.choice(8, 2, replace=False) for _ in range(30)])
    lengths = rng.integers(1, 30, 30).astype(float)
    assert interval_over_voices(0.3 * lengths, pairs, lengths) == pytest.approx((0.3, 0.3))
    errors = rng.integers(0, 9, 30).astype(float)
    low, high = interval_over_voices(errors, pairs, lengths)
    assert low < errors.sum() / lengths.sum() < high
    alike = interval_over_voices(errors, pairs, np.full(30, 5.0))
    assert alike == pytest.approx([x / 5 for x in interval_over_voices(errors, pairs)])
