"""Intervals over voices: what they cover when voices differ, and who talks."""

import itertools

import numpy as np
import pandas as pd
import pytest

from custom_modules.evaluation import bootstrap
from custom_modules.evaluation.bootstrap import (
    interval_of_mean,
    interval_of_ratio,
    resampled_ratios,
)
from custom_modules.evaluation.voices import (
    UNIT_KEYS,
    caption,
    count_voices,
    interval_over_voices,
    voices_of,
    with_units,
)


def talkers(rng, voices, mixtures):
    """Two different voices of each mixture, ``[mixtures, 2]``."""
    return np.array([rng.choice(voices, 2, replace=False) for _ in range(mixtures)])


@pytest.mark.parametrize(("voices", "mixtures"), [(16, 100), (40, 200)])
def test_they_cover_where_voices_differ_and_intervals_over_mixtures_do_not(voices, mixtures):
    """Each voice shifts its mixtures by some 2 dB; the mean over all voices is 0."""
    rng, covered = np.random.default_rng(3), np.zeros(2)
    for _ in range(500):
        pairs = talkers(rng, voices, mixtures)
        values = rng.normal(0, 2, voices)[pairs].sum(1) + rng.normal(0, 1, mixtures)
        low, high = interval_over_voices(values, pairs)
        covered[0] += low < 0 < high
        (low,), (high,) = interval_of_mean(values[:, None], np.arange(mixtures))
        covered[1] += low < 0 < high
    assert 0.93 <= covered[0] / 500 <= 0.97
    assert covered[1] / 500 < 0.7


@pytest.mark.parametrize("voices", [3, 4, 5, 7, 8])
def test_intervals_of_few_voices_are_wide_enough(voices):
    """Every two talk in some mixtures; drawing few, percentiles alone cover half of the time."""
    rng, covered = np.random.default_rng(5), 0
    pairs = np.repeat([*itertools.combinations(range(voices), 2)], 5, axis=0)
    for _ in range(300):
        values = rng.normal(0, 1, voices)[pairs].sum(1) + rng.normal(0, 1, len(pairs))
        low, high = interval_over_voices(values, pairs)
        covered += low < 0 < high
    assert 0.89 <= covered / 300 <= 0.99


def test_two_voices_say_nothing_of_others():
    assert np.isnan(interval_over_voices(np.arange(3.0), np.array([["a", "b"]] * 3))).all()


def test_a_constant_has_no_width():
    pairs = np.array([["a", "b"], ["b", "c"], ["a", "c"]])
    assert interval_over_voices(np.full(3, 2.5), pairs) == pytest.approx((2.5, 2.5))


@pytest.fixture
def many_resamples(monkeypatch):
    def forget():
        bootstrap._drawn.cache_clear()
        bootstrap._pair_weights.cache_clear()

    forget()
    monkeypatch.setattr(bootstrap, "RESAMPLES", 20_000)
    yield
    forget()


@pytest.mark.parametrize("in_a_mixture", [1, 2])
def test_draws_are_those_of_a_plain_loop(many_resamples, in_a_mixture):
    """Voices drawn with replacement; a mixture counts by the product of its voices' counts."""
    rng = np.random.default_rng(4)
    pairs, counts = talkers(rng, 9, 30)[:, :in_a_mixture], rng.integers(1, 20, (30, 2))
    ratios = []
    for _ in range(20_000):
        times = np.bincount(rng.integers(9, size=9), minlength=9)
        errors, words = (times[pairs].prod(1)[:, None] * counts).sum(0)
        ratios.append(errors / words if words else np.nan)
    units = pairs[:, 0] if in_a_mixture == 1 else pairs
    draws = resampled_ratios(counts[:, None], units)[:, 0]
    places = [0.05, 0.25, 0.5, 0.75, 0.95]
    expected = np.nanquantile(ratios, places)
    width = expected[-1] - expected[0]
    assert np.nanquantile(draws, places) == pytest.approx(expected, abs=0.02 * width)
    # As far out as Student's t of 8 degrees of freedom, 2.306, times (9 / 8) ** 0.5.
    (low,), (high,) = interval_of_ratio(counts[:, None], units)
    bounds = np.nanquantile(draws, [0.00723, 1 - 0.00723])
    assert (low, high) == pytest.approx(bounds, abs=0.01 * width)


def test_one_voice_of_a_mixture_is_drawn_once():
    """As in a task that keeps one talker: the same as whole voices drawn, one by one."""
    rng = np.random.default_rng(6)
    voices, values = rng.integers(12, size=50), rng.normal(size=(50, 1))
    once = interval_of_mean(values, voices)
    twice = interval_of_mean(values, np.stack([voices, voices], axis=1))
    assert once == twice


def test_nobody_knows_who_talks_in_some_mixtures():
    table = pd.DataFrame({"id": ["m", "n", "n", "o"], "voice1": ["a", None, None, None]})
    units = with_units(table.assign(voice2=["b", "", "", "b"]))[UNIT_KEYS].to_numpy()
    (a, b), mixture, same, alone = units.tolist()
    assert mixture == same and mixture[0] == mixture[1] < 0
    assert alone == [b, b] and a != b
    assert np.isnan(count_voices(units)) and count_voices(units[[0, 3]]) == 2
    assert "a mixture of which nobody knows" not in caption(table.iloc[:1])


def test_captions_say_what_is_drawn():
    names = [f"v{n}" for n in range(4)]
    table = pd.DataFrame({"id": names, "voice1": names, "voice2": names[::-1]})
    assert "over 4 voices" in caption(table)
    assert caption(table[:1]).startswith("There are no intervals: 2 of 3 voices")
    nobody = caption(table.assign(voice1=None, voice2=None))
    assert "over mixtures, as it is not known who talks" in nobody
    partly = caption(table.assign(voice1=[*names[:3], None], voice2=[*names[:3], None]))
    assert "over 3 voices" in partly and "a mixture of which nobody knows" in partly


@pytest.mark.parametrize(
    ("entry", "task", "heard"),
    [
        ({"speaker1": "a", "speaker2": "b", "source1": "x"}, "SB", ("a", "b")),
        ({"speaker1": "a", "speaker2": "b"}, "ES", ("a", None)),
        ({"source1": "a", "source2": "b"}, "EB", ("a", "b")),
        ({"speaker1": "a", "speaker2": None, "corpus": "X"}, "SB", ("X: a", None)),
        ({}, "SB", (None, None)),
    ],
)
def test_who_is_heard(entry, task, heard):
    assert tuple(voices_of(entry, task).values()) == heard
