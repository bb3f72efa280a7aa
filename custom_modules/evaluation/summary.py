"""From rows of scores to statistics: per variant, environment, gender and SSR."""

import functools
import warnings
from collections.abc import Iterator

import numpy as np
import pandas as pd

from custom_modules.mmipc import CANCELLED_LAYERS, VARIANTS

#: Enough for the second digit of the bounds of a 95 % interval.
RESAMPLES = 2000

#: Always the same, so that the same scores give the same interval.
SEED = 42

ALL_VARIANTS = "all variants"
ALL_MIXTURES = "all mixtures"

#: The group that is not restricted.
EVERY = "all"

#: What a row says beside its scores.
ROW_KEYS = (
    *("id", "variant", "environment", "source"),
    *("genders", "ssr_db", "scene_class", "event_class"),
)

#: More levels than this are gathered into bins of :data:`SSR_BIN` dB.
MAX_SSR_LEVELS, SSR_BIN = 12, 5


def describe(entry: dict) -> dict[str, object]:
    """What a manifest entry knows of a mixture as far as results use it, or None.

    >>> entry = {"environment": "indoor", "ssr_db": -2}
    >>> entry |= {"gender1": "male", "gender2": "female"}
    >>> describe(entry)["genders"]
    'female-male'
    """
    genders = [entry[key] for key in ("gender1", "gender2") if entry.get(key)]
    return {
        "environment": entry["environment"],
        "genders": "-".join(sorted(genders)) if len(genders) == 2 else None,
        **{key: entry.get(key) for key in ("ssr_db", "scene_class", "event_class")},
    }


def over_sources(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per mixture and variant: the mean over the sources with a score.

    Beside each score ``failed:<score>``, the number of sources without one; and
    ``incomplete``, that of sources without some score.
    """
    scores = [name for name in rows if name not in (*ROW_KEYS, "failures")]
    missing = rows[scores].isna().add_prefix("failed:")
    missing["incomplete"] = missing.any(axis=1)
    groups = rows.join(missing).groupby(["id", "variant"], sort=False)
    known = [name for name in ROW_KEYS[2:] if name in rows and name != "source"]
    statistics = groups[known].first(), groups[scores].mean(), groups[[*missing]].sum()
    return pd.concat(statistics, axis=1).reset_index()


def summarise(rows: pd.DataFrame) -> pd.DataFrame:
    """Statistics over mixtures in long form, of rows as in ``test_results.csv``.

    ``variant``: in their order, C of both environments also apart, then the averages;
    ``group``: ``"all"``, or an environment, gender pairing or speech-to-speech ratio;
    ``metric``: a column of ``rows``; ``mean``, ``std``, ``ci_low``, ``ci_high``: 95 %
    bootstrap; ``n``: mixtures; ``failed``: sources without this score; ``incomplete``:
    sources without some score, the same for all metrics.
    """
    table = over_sources(rows)
    scores = [name for name in table if f"failed:{name}" in table]
    parts = [
        _statistics(variant, group, part, scores)
        for group, subset in ((EVERY, table), *groups_of(table))
        for variant, part in split_by_variant(subset, apart=group == EVERY)
    ]
    return pd.concat(parts, ignore_index=True)


def split_by_variant(table: pd.DataFrame, apart: bool = True) -> Iterator[tuple[str, pd.DataFrame]]:
    """Rows by variant, then all of them for each of the two averages.

    ``apart``: C of each environment alone, too, if there are both.
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


def groups_of(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The subsets of mixtures that the manifest knows of, with their names."""
    if table.environment.nunique() > 1:
        for environment in environments_of(table):
            yield environment, table[table.environment == environment]
    known = table[table.genders.notna()]
    if len(known):
        yield from known.groupby("genders")
        first, second = known.genders.str.split("-", n=1, expand=True).to_numpy().T
        pairs = ("same gender", first == second), ("cross gender", first != second)
        yield from ((name, known[mask]) for name, mask in pairs if mask.any())
    if table.ssr_db.notna().any():
        labels = ssr_labels(table.ssr_db)
        for label in dict.fromkeys(labels[table.ssr_db.sort_values().index].dropna()):
            yield label, table[labels == label]


def environments_of(table: pd.DataFrame) -> list[str]:
    """The environments of mixtures, in the order of tables."""
    present = set(table.environment)
    return [name for name in CANCELLED_LAYERS if name in present]


def ssr_labels(ratios: pd.Series) -> pd.Series:
    """Names of the levels of the speech-to-speech ratio, dB; bins, if there are many.

    >>> ssr_labels(pd.Series([-2, 3, None])).tolist()[:2]
    ['SSR -2 dB', 'SSR 3 dB']
    """
    ratios = pd.to_numeric(ratios)
    if ratios.nunique() <= MAX_SSR_LEVELS:
        return ratios.map(lambda db: f"SSR {db:g} dB", na_action="ignore")
    low = np.floor(ratios / SSR_BIN) * SSR_BIN
    return low.map(lambda db: f"SSR {db:g} to {db + SSR_BIN:g} dB", na_action="ignore")


def _statistics(variant: str, group: str, table: pd.DataFrame, scores: list[str]) -> pd.DataFrame:
    """A row per score of one group of mixtures."""
    values = table[scores].to_numpy(dtype=float)
    strata = table.variant.to_numpy() if variant == ALL_VARIANTS else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # nothing but failures
        if strata is None:
            means, stds = np.nanmean(values, axis=0), np.nanstd(values, axis=0, ddof=1)
        else:
            by_variant = [np.nanmean(values[strata == v], 0) for v in np.unique(strata)]
            means, stds = np.nanmean(by_variant, axis=0), np.nan
        low, high = interval_of_mean(values, table.id.to_numpy(), strata)
    parts = pd.DataFrame({"variant": variant, "group": group, "metric": scores})
    parts = parts.assign(mean=means, std=stds, ci_low=low, ci_high=high)
    parts["n"] = (~np.isnan(values)).sum(axis=0)
    parts["failed"] = table[[f"failed:{name}" for name in scores]].sum().to_numpy()
    return parts.assign(incomplete=table.incomplete.sum())


def interval_of_mean(
    values: np.ndarray, clusters: np.ndarray, strata: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """95 % percentile bootstrap interval of a mean, for many columns at once.

    ``[n, columns]``, NaN being missing → lower and upper bounds, ``[columns]``, NaN if
    fewer than two mixtures have a value. ``clusters``, ``[n]``, names the mixture, and
    whole mixtures are drawn with replacement: the variants of a mixture share its
    voices, and drawing them independently would give too narrow an interval. With
    ``strata``, ``[n]``, it is the mean of the means of the strata that have any value,
    which are here the variants.

    Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", ch. 13.

    >>> values = np.random.default_rng(1).standard_normal((400, 1))
    >>> low, high = interval_of_mean(values, np.arange(400))
    >>> bool(abs(high - low - 2 * 1.96 / 20) < 0.03)
    True
    """
    _, codes = np.unique(clusters, return_inverse=True)
    count = codes.max() + 1
    strata = np.zeros(len(values)) if strata is None else strata
    present = ~np.isnan(values)
    means = np.zeros((RESAMPLES, values.shape[1]))
    counted = np.zeros(values.shape[1])
    for stratum in np.unique(strata):
        inside = strata == stratum
        known = present[inside].any(axis=0)
        resampled = _resampled_means(values[inside], codes[inside], count)
        means = means + np.where(known, resampled, 0)
        counted += known
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # nothing but failures
        # Few values, and some resamples have none of them.
        low, high = np.nanpercentile(means / counted, [2.5, 97.5], axis=0)
    several = np.array([len(set(codes[column])) > 1 for column in present.T])
    return np.where(several, low, np.nan), np.where(several, high, np.nan)


def resampled_ratios(sums: np.ndarray, clusters: np.ndarray | None = None) -> np.ndarray:
    """Sum over sum, ``[n, columns, 2]``, of each bootstrap resample: ``[resamples, columns]``.

    ``clusters``, ``[n]``, are drawn whole. NaN, which is missing, where nothing is divided by,
    and of fewer than two clusters.
    """
    sums = np.asarray(sums, dtype=float)
    codes = (
        np.arange(len(sums)) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    )
    present = ~np.isnan(sums).any(axis=2, keepdims=True)
    by_cluster = np.zeros((codes.max(initial=0) + 1, *sums.shape[1:]))
    np.add.at(by_cluster, codes, np.where(present, sums, 0))
    if len(by_cluster) < 2:
        return np.full((RESAMPLES, sums.shape[1]), np.nan)
    totals = np.einsum("rn,nck->rck", _weights(len(by_cluster)), by_cluster)
    ratios = np.full(totals.shape[:2], np.nan)
    return np.divide(totals[..., 0], totals[..., 1], out=ratios, where=totals[..., 1] > 0)


def interval_of_draws(draws: np.ndarray) -> tuple[float, float]:
    """The 95 % percentile interval of resamples; NaN if they are."""
    known = draws[~np.isnan(draws)]
    if not len(known):
        return np.nan, np.nan
    low, high = np.percentile(known, [2.5, 97.5])
    return float(low), float(high)


def interval_of_ratio(
    sums: np.ndarray, less: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """95 % percentile bootstrap interval of sum over sum, for many columns at once.

    ``[n, columns, 2]``, what is divided and by what, NaN being missing → bounds,
    ``[columns]``, NaN if fewer than two have a value. As of errors and words: long
    recordings weigh more. With ``less``, of the difference from its ratio, the same
    recordings being drawn.

    >>> sums = np.stack([np.full((9, 1), 2.0), np.full((9, 1), 8.0)], axis=2)
    >>> interval_of_ratio(sums)
    (array([0.25]), array([0.25]))
    """
    ratios = resampled_ratios(sums)
    if less is not None:
        ratios = ratios - resampled_ratios(less)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # some resamples have none of few
        low, high = np.nanpercentile(ratios, [2.5, 97.5], axis=0)
    several = (~np.isnan(sums).any(axis=2)).sum(axis=0) > 1
    return np.where(several, low, np.nan), np.where(several, high, np.nan)


def _resampled_means(values: np.ndarray, codes: np.ndarray, count: int) -> np.ndarray:
    """Means of each resample, ``[resamples, columns]``."""
    present = ~np.isnan(values)
    sums, sizes = np.zeros((2, count, values.shape[1]))
    np.add.at(sums, codes, np.where(present, values, 0))
    np.add.at(sizes, codes, present)
    weights = _weights(count)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (weights @ sums) / (weights @ sizes)


@functools.lru_cache(maxsize=8)
def _weights(count: int) -> np.ndarray:
    """How often each of ``count`` mixtures is drawn, ``[resamples, count]``."""
    drawn = np.random.default_rng(SEED).integers(count, size=(RESAMPLES, count))
    drawn += count * np.arange(RESAMPLES)[:, None]
    times = np.bincount(drawn.ravel(), minlength=RESAMPLES * count)
    return times.reshape(RESAMPLES, count).astype(np.float32)
