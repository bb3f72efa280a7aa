"""From rows of scores to statistics: per variant, environment, gender and SSR."""

import warnings
from collections.abc import Iterator

import numpy as np
import pandas as pd

from custom_modules.evaluation.bootstrap import interval_of_mean
from custom_modules.evaluation.voices import (
    UNIT_KEYS,
    VOICE_KEYS,
    count_voices,
    voices_of,
    with_units,
)
from custom_modules.mmipc import CANCELLED_LAYERS, VARIANTS

ALL_VARIANTS = "all variants"
ALL_MIXTURES = "all mixtures"

#: The group that is not restricted.
EVERY = "all"

#: What a row says beside its scores.
ROW_KEYS = (
    *("id", "variant", "environment", "source"),
    *("genders", "ssr_db", "scene_class", "event_class", *VOICE_KEYS),
)

#: More levels than this are gathered into bins of :data:`SSR_BIN` dB.
MAX_SSR_LEVELS, SSR_BIN = 12, 5


def describe(entry: dict, task: str = "SB") -> dict[str, object]:
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
        **voices_of(entry, task),
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
    bootstrap over voices, ``voices`` of them, none where it is not known who talks and the
    interval is over mixtures; ``n``: mixtures in their variants; ``failed``: sources without
    this score; ``incomplete``: sources without some score, the same for all metrics.
    """
    table = with_units(over_sources(rows))
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
    values, units = table[scores].to_numpy(dtype=float), table[UNIT_KEYS].to_numpy()
    strata = table.variant.to_numpy() if variant == ALL_VARIANTS else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # nothing but failures
        if strata is None:
            means, stds = np.nanmean(values, axis=0), np.nanstd(values, axis=0, ddof=1)
        else:
            by_variant = [np.nanmean(values[strata == v], 0) for v in np.unique(strata)]
            means, stds = np.nanmean(by_variant, axis=0), np.nan
    low, high = interval_of_mean(values, units, strata)
    parts = pd.DataFrame({"variant": variant, "group": group, "metric": scores})
    parts = parts.assign(mean=means, std=stds, ci_low=low, ci_high=high)
    parts["n"] = (~np.isnan(values)).sum(axis=0)
    parts["voices"] = [count_voices(units[column]) for column in (~np.isnan(values)).T]
    parts["failed"] = table[[f"failed:{name}" for name in scores]].sum().to_numpy()
    return parts.assign(incomplete=table.incomplete.sum())
