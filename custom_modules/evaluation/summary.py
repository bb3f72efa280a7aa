"""From rows of scores to statistics: per variant, environment, gender and SSR."""

import functools
import warnings

import numpy as np
import pandas as pd

from custom_modules.mmipc import CANCELLED_LAYERS, VARIANTS

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


ALL_VARIANTS = "all variants"
ALL_MIXTURES = "all mixtures"

#: The group that is not restricted.
EVERY = "all"

#: What a row says beside its scores.
ROW_KEYS = (
    "id",
    "variant",
    "environment",
    "source",
    "genders",
    "ssr_db",
    "scene_class",
    "event_class",
)

#: More levels than this are gathered into bins of :data:`SSR_BIN` dB.
MAX_SSR_LEVELS, SSR_BIN = 12, 5


def describe(entry):
    """What a manifest entry knows of a mixture, as far as results use it.

    Arguments
    ---------
    entry : dict

    Returns
    -------
    dict
        ``environment``, ``genders``, ``ssr_db`` (level of speaker 1 over
        speaker 2, dB), ``scene_class``, ``event_class``; None if unknown.

    Example
    -------
    >>> entry = {"environment": "indoor", "ssr_db": -2}
    >>> entry |= {"gender1": "male", "gender2": "female"}
    >>> describe(entry)["genders"]
    'female-male'
    """
    genders = [entry.get("gender1"), entry.get("gender2")]
    return {
        "environment": entry["environment"],
        "genders": "-".join(sorted(genders)) if all(genders) else None,
        **{key: entry.get(key) for key in ("ssr_db", "scene_class", "event_class")},
    }


def score_columns(rows):
    """The columns of a table of results that are scores.

    Arguments
    ---------
    rows : pandas.DataFrame

    Returns
    -------
    list of str
    """
    return [name for name in rows if name not in (*ROW_KEYS, "failures")]


def over_sources(rows):
    """One row per mixture and variant: the mean over the sources with a score.

    Arguments
    ---------
    rows : pandas.DataFrame
        As in ``test_results.csv``.

    Returns
    -------
    pandas.DataFrame
        The columns of ``rows``, but for ``source`` and ``failures``; beside each
        score ``failed:<score>``, the number of sources without one; and
        ``incomplete``, that of sources without some score.
    """
    scores = score_columns(rows)
    keys = rows[["id", "variant"]]
    groups = rows.groupby(["id", "variant"], sort=False)
    known = [name for name in ROW_KEYS[2:] if name in rows and name != "source"]
    missing = rows[scores].isna().add_prefix("failed:")
    missing["incomplete"] = missing.any(axis=1)
    counts = missing.groupby([keys.id, keys.variant], sort=False).sum()
    table = pd.concat([groups[known].first(), groups[scores].mean(), counts], axis=1)
    return table.reset_index()


def summarise(rows):
    """Statistics over mixtures, in long form.

    Arguments
    ---------
    rows : pandas.DataFrame
        As in ``test_results.csv``.

    Returns
    -------
    pandas.DataFrame
        Columns ``variant`` (the variants in their order, C of both environments
        also apart, then the averages), ``group`` (``"all"``, or an environment,
        gender pairing or speech-to-speech ratio), ``metric`` (a column of
        ``rows``), ``mean``, ``std``, ``ci_low``, ``ci_high`` (95 % bootstrap),
        ``n`` (mixtures), ``failed`` (sources without this score) and
        ``incomplete`` (sources without some score, the same for all metrics).
    """
    table = over_sources(rows)
    scores = score_columns(rows)
    parts = [
        _statistics(variant, EVERY, subset, scores)
        for variant, subset in split_by_variant(table)
    ]
    for group, subset in _groups(table):
        parts += [
            _statistics(variant, group, part, scores)
            for variant, part in split_by_variant(subset, apart=False)
        ]
    return pd.concat(parts, ignore_index=True)


def split_by_variant(table, apart=True):
    """Divides mixtures by variant, and adds the averages.

    Arguments
    ---------
    table : pandas.DataFrame
        A row per mixture and variant.
    apart : bool
        Whether C is also given for each environment alone, if there are both.

    Yields
    ------
    str
        A variant, ``"C indoor"``, ``"C outdoor"``, ``"all variants"`` or
        ``"all mixtures"``.
    pandas.DataFrame
        Its rows.
    """
    for variant in VARIANTS:
        subset = table[table.variant == variant]
        if len(subset):
            yield variant, subset
        if variant == "C" and apart and subset.environment.nunique() > 1:
            for environment in environments_of(subset):
                yield f"C {environment}", subset[subset.environment == environment]
    yield ALL_VARIANTS, table
    yield ALL_MIXTURES, table


def _groups(table):
    """(name, its rows) of each subset of mixtures that the manifest knows of."""
    if table.environment.nunique() > 1:
        for environment in environments_of(table):
            yield environment, table[table.environment == environment]
    if table.genders.notna().any():
        first, second = table.genders.str.split("-", n=1, expand=True).to_numpy().T
        pairs = [(name, table.genders == name) for name in _known(table.genders)]
        known = table.genders.notna()
        pairs += [("same gender", known & (first == second))]
        pairs += [("cross gender", known & (first != second))]
        yield from ((name, table[mask]) for name, mask in pairs if mask.any())
    if table.ssr_db.notna().any():
        labels = ssr_labels(table.ssr_db)
        for label in dict.fromkeys(labels[table.ssr_db.sort_values().index].dropna()):
            yield label, table[labels == label]


def environments_of(table):
    """The environments of mixtures, in the order of tables.

    Arguments
    ---------
    table : pandas.DataFrame

    Returns
    -------
    list of str
    """
    present = set(table.environment)
    return [name for name in CANCELLED_LAYERS if name in present]


def _known(values):
    return sorted(values.dropna().unique())


def ssr_labels(ratios):
    """Names of the levels of the speech-to-speech ratio; bins, if there are many.

    Arguments
    ---------
    ratios : pandas.Series
        dB.

    Returns
    -------
    pandas.Series of str

    Example
    -------
    >>> ssr_labels(pd.Series([-2, 3, None])).tolist()[:2]
    ['SSR -2 dB', 'SSR 3 dB']
    >>> ssr_labels(pd.Series([n / 10 for n in range(40)]))[[0, 39]].tolist()
    ['SSR 0 to 5 dB', 'SSR 0 to 5 dB']
    """
    ratios = pd.to_numeric(ratios)
    if ratios.nunique() <= MAX_SSR_LEVELS:
        return ratios.map(lambda db: f"SSR {db:g} dB", na_action="ignore")
    low = np.floor(ratios / SSR_BIN) * SSR_BIN
    return low.map(lambda db: f"SSR {db:g} to {db + SSR_BIN:g} dB", na_action="ignore")


def _statistics(variant, group, table, scores):
    """A row per score of one group of mixtures."""
    values = table[scores].to_numpy(dtype=float)
    strata = table.variant.to_numpy() if variant == ALL_VARIANTS else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # nothing but failures
        if strata is None:
            means = np.nanmean(values, axis=0)
            stds = np.nanstd(values, axis=0, ddof=1)
        else:
            by_variant = [np.nanmean(values[strata == v], 0) for v in np.unique(strata)]
            means = np.nanmean(by_variant, axis=0)
            stds = np.full(len(scores), np.nan)
        low, high = interval_of_mean(values, table.id.to_numpy(), strata)
    return pd.DataFrame(
        {
            "variant": variant,
            "group": group,
            "metric": scores,
            "mean": means,
            "std": stds,
            "ci_low": low,
            "ci_high": high,
            "n": (~np.isnan(values)).sum(axis=0),
            "failed": table[[f"failed:{name}" for name in scores]].sum().to_numpy(),
            "incomplete": table.incomplete.sum(),
        }
    )
