"""Intervals of means over mixtures, whose voices are a sample, too."""

import numpy as np

from custom_modules.evaluation.summary import RESAMPLES, SEED


def interval_over_voices(
    values: np.ndarray, voices: np.ndarray, lengths: np.ndarray | None = None
) -> tuple[float, float]:
    """95 % percentile bootstrap interval of a mean ``[mixtures]``, voices drawn with replacement.

    With ``lengths``, ``[mixtures]``, of the sum of values over that of lengths.

    ``voices``, ``[mixtures, 2]``, are who talks. A mixture counts as often as its first
    voice is drawn times as often as its second: mixtures of one voice are alike, and
    drawing mixtures would take each for a new person. NaN with fewer than three voices.

    Source: Owen 2007, "The pigeonhole bootstrap", here of both talkers from one set.

    >>> voices = np.array([["a", "b"], ["b", "c"], ["c", "a"]])
    >>> interval_over_voices(np.ones(3), voices)
    (1.0, 1.0)
    """
    names, codes = np.unique(voices, return_inverse=True)
    if len(names) < 3:
        return np.nan, np.nan
    codes, rng = codes.reshape(voices.shape), np.random.default_rng(SEED)
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=RESAMPLES)
    weights = drawn[:, codes].prod(axis=2)  # [resamples, mixtures]
    total = weights @ (np.ones(len(values)) if lengths is None else lengths)
    means = (weights @ values)[total > 0] / total[total > 0]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
