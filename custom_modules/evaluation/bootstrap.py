"""The bootstrap behind every interval: units are drawn, which are voices if they are known.

``units``, ``[n, 2]``, are the two voices of each row, twice the same if there is one, or
``[n]``: recordings, say. A row counts as often as its first unit is drawn times as often as its
second ("pigeonhole bootstrap", Owen 2007): mixtures of one voice are alike, and drawing mixtures
would take each for a new person. Where voices matter little it errs on the wide side.
The same units are always drawn alike, so draws of two models can be subtracted.
"""

import functools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from scipy.special import ndtr, stdtr, stdtrit

#: Enough for the second digit of the bounds of a 95 % interval.
RESAMPLES = 2000

#: Always the same, so that the same scores give the same interval.
SEED = 42

#: Fewer units say nothing of others.
FEWEST = 3

#: Of fewer units, percentiles of their resamples are much too narrow.
FEWEST_FOR_PERCENTILES = 8


def interval_of_mean(
    values: np.ndarray, units: np.ndarray, strata: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """95 % interval of a mean, for many columns at once.

    ``[n, columns]``, NaN being missing → lower and upper bounds, ``[columns]``, NaN if fewer
    than :data:`FEWEST` units have a value. With ``strata``, ``[n]``, it is the mean of the
    means of the strata that have any value, which are here the variants.

    >>> values = np.random.default_rng(1).standard_normal((400, 1))
    >>> low, high = interval_of_mean(values, np.arange(400))
    >>> bool(abs(high - low - 2 * 1.96 / 20) < 0.03)
    True
    """
    counts = count_units(units, ~np.isnan(values))
    return interval_of_draws(resampled_means(values, units, strata), counts)


def interval_of_ratio(
    sums: np.ndarray, units: np.ndarray, less: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """95 % interval of sum over sum, for many columns at once.

    ``[n, columns, 2]``, what is divided and by what, NaN being missing → bounds,
    ``[columns]``. As of errors and words: long recordings weigh more. With ``less``, of the
    difference from its ratio.

    >>> sums = np.stack([np.full((9, 1), 2.0), np.full((9, 1), 8.0)], axis=2)
    >>> interval_of_ratio(sums, np.arange(9))
    (array([0.25]), array([0.25]))
    """
    sums = np.asarray(sums, dtype=float)
    ratios = resampled_ratios(sums, units)
    if less is not None:
        ratios = ratios - resampled_ratios(less, units)
    return interval_of_draws(ratios, count_units(units, ~np.isnan(sums).any(axis=2)))


def resampled_means(
    values: np.ndarray, units: np.ndarray, strata: np.ndarray | None = None
) -> np.ndarray:
    """The mean of each resample, ``[resamples, columns]``; see :func:`interval_of_mean`."""
    weights, places = _weights_of(units)
    strata = np.zeros(len(values)) if strata is None else strata
    means, counted = np.zeros((RESAMPLES, values.shape[1])), np.zeros(values.shape[1])
    for stratum in np.unique(strata):
        inside = strata == stratum
        present = ~np.isnan(values[inside])
        sums, sizes = np.zeros((2, weights.shape[1], values.shape[1]))
        np.add.at(sums, places[inside], np.where(present, values[inside], 0))
        np.add.at(sizes, places[inside], present)
        with np.errstate(invalid="ignore", divide="ignore"):
            drawn = (weights @ sums) / (weights @ sizes)
        known = present.any(axis=0)
        means += np.where(known, drawn, 0)
        counted += known
    with np.errstate(invalid="ignore", divide="ignore"):
        return means / counted


def resampled_ratios(sums: np.ndarray, units: np.ndarray) -> np.ndarray:
    """Sum over sum of each resample, ``[resamples, columns]``; NaN where nothing divides."""
    sums = np.asarray(sums, dtype=float)
    weights, places = _weights_of(units)
    present = ~np.isnan(sums).any(axis=2, keepdims=True)
    by_pair = np.zeros((weights.shape[1], *sums.shape[1:]))
    np.add.at(by_pair, places, np.where(present, sums, 0))
    totals = np.einsum("rn,nck->rck", weights, by_pair)
    ratios = np.full(totals.shape[:2], np.nan)
    return np.divide(totals[..., 0], totals[..., 1], out=ratios, where=totals[..., 1] > 0)


def count_units(units: np.ndarray, present: np.ndarray) -> np.ndarray:
    """How many units have a value, ``[n, columns]`` of bool → ``[columns]``."""
    return np.array([len(np.unique(units[column])) for column in present.T])


def interval_of_draws(draws: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95 % intervals of resamples ``[resamples, columns]`` of so many units each.

    Percentiles, further out the fewer units there are, by Student's t and n / (n - 1): the
    plain ones of 16 voices cover 91 %. Source: Hesterberg 2015, "What teachers should know
    about the bootstrap", sec. 3.4.2 ("expanded percentile interval"). Of five voices these cover
    89 %, of three 50 %, so of fewer than :data:`FEWEST_FOR_PERCENTILES` it is mean and standard
    deviation of the resamples, by the same t.
    """
    low, high = np.full((2, draws.shape[1]), np.nan)
    for count in np.unique(counts[counts >= FEWEST]):
        chosen, t = counts == count, stdtrit(count - 1, 0.975)
        some = draws[:, chosen]
        with _some_resamples_empty():
            if count < FEWEST_FOR_PERCENTILES:
                bounds = np.nanmean(some, axis=0) + np.outer((-t, t), _errors(some, count))
            else:
                share = 100 * ndtr(-t * _correction(count))
                bounds = np.nanpercentile(some, [share, 100 - share], axis=0)
        low[chosen], high[chosen] = bounds
    return low, high


def p_values(differences: np.ndarray, draws: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Of differences from 0, ``[columns]``, two-sided; NaN of fewer than :data:`FEWEST` units.

    Of the difference over the resamples' standard deviation, by Student's t: counting
    resamples beyond 0 would tell none below .001, of which the 55 pairs of eleven models
    have need.
    """
    with np.errstate(invalid="ignore", divide="ignore"), _some_resamples_empty():
        statistics = np.abs(differences) / _errors(draws, counts)
    statistics = np.where(differences == 0, 0, statistics)
    return np.where(counts < FEWEST, np.nan, 2 * stdtr(np.maximum(counts - 1, 1), -statistics))


def _errors(draws: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Standard errors of what is resampled: those of resamples are too small for few units."""
    return np.nanstd(draws, axis=0) * _correction(counts)


def _correction(counts: np.ndarray) -> np.ndarray:
    return np.sqrt(counts / (counts - 1))


@contextmanager
def _some_resamples_empty() -> Iterator[None]:
    """In which resamples of few units that have no value, NaN, are no reason to warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        yield


def holm(values: np.ndarray) -> np.ndarray:
    """p values, corrected for their number (Holm 1979); NaN are none, and stay.

    >>> holm(np.array([0.01, 0.04, 0.03]))
    array([0.03, 0.06, 0.06])
    """
    corrected, known = np.full(len(values), np.nan), np.flatnonzero(~np.isnan(values))
    order = known[np.argsort(values[known], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(1, np.maximum.accumulate(values[order] * factors))
    return corrected


def _weights_of(units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How often each pair of units is drawn, ``[resamples, pairs]``, and each row's pair."""
    names, codes = np.unique(units, return_inverse=True)
    codes = np.broadcast_to(codes.reshape(len(units), -1), (len(units), 2))
    keys = codes.min(axis=1) * len(names) + codes.max(axis=1)
    pairs, places = np.unique(keys, return_inverse=True)
    return _pair_weights(pairs.astype(np.int64).tobytes(), len(names)), places


@functools.lru_cache(maxsize=4)
def _pair_weights(pairs: bytes, count: int) -> np.ndarray:
    first, second = np.divmod(np.frombuffer(pairs, np.int64), max(count, 1))
    drawn = _drawn(count)
    return np.where(first == second, drawn[:, first], drawn[:, first] * drawn[:, second])


@functools.lru_cache(maxsize=4)
def _drawn(count: int) -> np.ndarray:
    """How often each of ``count`` units is drawn, ``[resamples, count]``."""
    drawn = np.random.default_rng(SEED).integers(count, size=(RESAMPLES, count))
    drawn += count * np.arange(RESAMPLES)[:, None]
    times = np.bincount(drawn.ravel(), minlength=RESAMPLES * count)
    return times.reshape(RESAMPLES, count).astype(np.float32)
