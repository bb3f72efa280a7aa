"""Statistics against averages by hand, intervals against scipy's and the theory."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import bootstrap, norm, t

from custom_modules.evaluation.bootstrap import interval_of_mean
from custom_modules.evaluation.summary import over_sources, ssr_labels, summarise
from custom_modules.evaluation.voices import interval_over_voices

NAN = float("nan")


def row(name, variant, environment, source, si_sdri, genders="male-male", ssr=0):
    return {
        "id": name,
        "variant": variant,
        "environment": environment,
        "source": source,
        "genders": genders,
        "ssr_db": ssr,
        "scene_class": "bus",
        "event_class": None,
        "si_sdr": si_sdri - 1,
        "si_sdri": si_sdri,
        "failures": "" if si_sdri == si_sdri else "target: silent",
    }


CROSS = ("female-male", 3)
ROWS = pd.DataFrame(
    [
        row("a", "SER", "indoor", 1, 2.0),
        row("a", "SER", "indoor", 2, 4.0),
        row("a", "C", "indoor", 1, 6.0),
        row("a", "C", "indoor", 2, NAN),  # a silent source
        row("b", "C", "outdoor", 1, 10.0, *CROSS),
        row("b", "C", "outdoor", 2, 12.0, *CROSS),
        row("b", "SE", "outdoor", 1, 1.0, *CROSS),
        row("b", "SE", "outdoor", 2, 1.0, *CROSS),
    ]
)


SUMMARY = summarise(ROWS)


def gains(group="all"):
    table = SUMMARY[(SUMMARY.metric == "si_sdri") & (SUMMARY.group == group)]
    return table.set_index("variant")


def test_sources_are_averaged_within_a_mixture_and_then_mixtures():
    table = gains()
    names = ["SER", "C", "C indoor", "C outdoor", "SE", "all variants", "all mixtures"]
    assert list(table.index) == names
    expected = [3, (6 + 11) / 2, 6, 11, 1, (3 + 8.5 + 1) / 3, (3 + 6 + 11 + 1) / 4]
    assert table["mean"].tolist() == pytest.approx(expected)
    assert table.n.tolist() == [1, 2, 1, 1, 1, 4, 4]
    assert table.failed.tolist() == [0, 1, 1, 0, 0, 1, 1]
    assert table.incomplete.tolist() == table.failed.tolist()
    assert table["std"]["C"] == pytest.approx(np.std([6, 11], ddof=1))
    assert table["std"]["all mixtures"] == pytest.approx(np.std([3, 6, 11, 1], ddof=1))
    assert np.isnan(table["std"]["all variants"])
    assert table[["ci_low", "ci_high"]].isna().all(axis=None)  # two say nothing of others


def test_groups_are_what_the_manifest_knows():
    assert gains("indoor")["mean"]["all mixtures"] == (3 + 6) / 2
    assert gains("outdoor")["mean"]["C"] == 11
    assert gains("same gender")["mean"].to_dict() == gains("male-male")["mean"].to_dict()
    assert gains("cross gender")["mean"]["all variants"] == (11 + 1) / 2
    assert gains("SSR 3 dB").n["all mixtures"] == 2
    groups = list(dict.fromkeys(SUMMARY.group))
    assert groups == [
        *("all", "indoor", "outdoor", "female-male", "male-male"),
        *("same gender", "cross gender", "SSR 0 dB", "SSR 3 dB"),
    ]


def test_unknown_is_no_group():
    unknown = ROWS.assign(genders=None, ssr_db=None, environment="outdoor")
    assert set(summarise(unknown).group) == {"all"}


def test_a_metric_that_failed_everywhere_has_no_mean():
    table = summarise(ROWS.assign(pesqi=NAN))
    table = table[(table.metric == "pesqi") & (table.group == "all")]
    assert table["mean"].isna().all()
    assert table.n.sum() == 0
    assert table.failed.tolist()[-1] == len(ROWS)


def test_a_variant_without_scores_is_left_out_of_the_mean_over_variants():
    rows = ROWS.assign(si_sdri=ROWS.si_sdri.where(ROWS.variant != "C"))
    table = summarise(rows)
    table = table[(table.metric == "si_sdri") & (table.group == "all")]
    table = table.set_index("variant")
    assert np.isnan(table["mean"]["C"])
    assert table["mean"]["all variants"] == table["mean"]["all mixtures"] == 2


def test_the_number_of_sources_without_a_score_is_kept():
    table = over_sources(ROWS).set_index(["id", "variant"])
    assert table["failed:si_sdri"].tolist() == [0, 1, 0, 0]
    assert table.si_sdri["a", "C"] == 6


def test_many_ratios_are_gathered():
    ratios = pd.Series([n / 7 - 3 for n in range(40)] + [NAN])
    labels = ssr_labels(ratios)
    assert labels[0] == "SSR -5 to 0 dB"
    assert labels[39] == "SSR 0 to 5 dB"
    assert pd.isna(labels[40])


def test_intervals_are_over_the_voices_of_the_rows():
    random = np.random.default_rng(8)
    pairs = np.array([random.choice(list("abcdefgh"), 2, replace=False) for _ in range(40)])
    rows = [row(f"m{n}", "C", "indoor", source, 0.0) for n in range(40) for source in (1, 2)]
    rows = pd.DataFrame(rows).assign(voice1=np.repeat(pairs[:, 0], 2))
    rows = rows.assign(voice2=np.repeat(pairs[:, 1], 2), si_sdri=random.normal(size=80))
    table = summarise(rows)
    cell = table[(table.metric == "si_sdri") & (table.variant == "C")].iloc[0]
    expected = interval_over_voices(rows.si_sdri.to_numpy().reshape(40, 2).mean(1), pairs)
    assert (cell.ci_low, cell.ci_high) == pytest.approx(expected)
    assert (cell.n, cell.voices) == (40, 8)
    assert summarise(rows.assign(voice1=None, voice2=None)).voices.isna().all()


def test_the_interval_is_scipy_s_percentile_interval():
    random = np.random.default_rng(5)
    values = random.gamma(2, 2, (60, 2))
    low, high = interval_of_mean(values, np.arange(60))
    level = 1 - 2 * norm.sf(t.ppf(0.975, 59) * (60 / 59) ** 0.5)
    options = {"method": "percentile", "n_resamples": 20_000, "rng": 1}
    for column in range(2):
        sample = (values[:, column],)
        expected = bootstrap(sample, np.mean, confidence_level=level, **options)
        expected = expected.confidence_interval
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


def test_missing_values_are_left_out_of_an_interval():
    random = np.random.default_rng(7)
    values = random.standard_normal((80, 2))
    values[40:, 1] = np.nan
    low, high = interval_of_mean(values, np.arange(80))
    width = high - low
    assert width[1] / width[0] == pytest.approx(2**0.5, rel=0.35)
    assert low[1] < values[:40, 1].mean() < high[1]


def test_the_interval_of_the_mean_of_variants_weighs_each_alike():
    values = np.concatenate([np.zeros((90, 1)), np.ones((10, 1))])
    strata = np.repeat(["SER", "SE"], [90, 10])
    low, high = interval_of_mean(values, np.arange(100), strata)
    assert low == high == 0.5


def test_one_mixture_has_no_interval():
    low, high = interval_of_mean(np.ones((3, 1)), np.zeros(3))
    assert np.isnan(low).all()
    assert np.isnan(high).all()
