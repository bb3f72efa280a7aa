"""Bootstrap intervals of means over mixtures."""

import functools

import numpy as np

#: Enough for the second digit of the bounds of a 95 % interval.
RESAMPLES = 2000

#: Always the same, so that the same scores give the same interval.
SEED = 42


def interval_of_mean(values, clusters, strata=None):
    """95 % percentile bootstrap interval of a mean, for many columns at once.

    Whole mixtures are drawn with replacement: the variants of a mixture share
    its voices, and drawing them independently would give too narrow an interval.

    Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", ch. 13.

    Arguments
    ---------
    values : numpy.ndarray
        ``[n, columns]``; NaN is a missing value.
    clusters : numpy.ndarray
        ``[n]``, what is drawn together: a number or name of the mixture.
    strata : numpy.ndarray, optional
        ``[n]``. With them, the mean of the means of the strata, which are here
        the variants; of those that have any value.

    Returns
    -------
    low, high : numpy.ndarray
        ``[columns]``; NaN if fewer than two mixtures have a value.

    Example
    -------
    >>> values = np.random.default_rng(1).standard_normal((400, 1))
    >>> low, high = interval_of_mean(values, np.arange(400))
    >>> bool(abs(high - low - 2 * 1.96 / 20) < 0.03)
    True
    """
    _, codes = np.unique(clusters, return_inverse=True)
    count = codes.max() + 1
    strata = np.zeros(len(values)) if strata is None else strata
    present = ~np.isnan(values)
    means, counted = 0, np.zeros(values.shape[1])
    for stratum in np.unique(strata):
        inside = strata == stratum
        known = present[inside].any(axis=0)
        found = _resampled_means(values[inside], codes[inside], count)
        means = means + np.where(known, found, 0)
        counted += known
    with np.errstate(invalid="ignore"):
        low, high = _percentiles(means / counted)
    known = np.array([len(set(codes[column])) for column in present.T])
    return np.where(known > 1, low, np.nan), np.where(known > 1, high, np.nan)


def _resampled_means(values, codes, count):
    """Means of each resample, ``[resamples, columns]``."""
    present = ~np.isnan(values)
    sums, sizes = np.zeros((2, count, values.shape[1]))
    np.add.at(sums, codes, np.where(present, values, 0))
    np.add.at(sizes, codes, present)
    weights = _weights(count)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (weights @ sums) / (weights @ sizes)


def _percentiles(means):
    bounds = np.percentile(means, [2.5, 97.5], axis=0)
    # Few values, and some resamples have none of them.
    holes = np.isnan(bounds[0]) & ~np.isnan(means).all(axis=0)
    if holes.any():
        bounds[:, holes] = np.nanpercentile(means[:, holes], [2.5, 97.5], axis=0)
    return bounds


@functools.lru_cache(maxsize=8)
def _weights(count):
    """How often each of ``count`` mixtures is drawn, ``[resamples, count]``."""
    drawn = np.random.default_rng(SEED).integers(count, size=(RESAMPLES, count))
    drawn += count * np.arange(RESAMPLES)[:, None]
    times = np.bincount(drawn.ravel(), minlength=RESAMPLES * count)
    return times.reshape(RESAMPLES, count).astype(np.float32)
