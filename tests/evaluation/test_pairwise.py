"""Every model against every other: p values, their correction, and what is said of them."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_rel
from statsmodels.stats.multitest import multipletests

from custom_modules.evaluation.bootstrap import holm, interval_of_draws, p_values, resampled_means
from custom_modules.evaluation.pairwise import compare_pairs, matrix, sections, sentences
from custom_modules.evaluation.voices import with_units


def test_the_correction_is_statsmodels_s():
    rng = np.random.default_rng(1)
    for count in (1, 2, 6, 55):
        values = rng.uniform(size=count) ** 4
        values[: count // 3] = values[0]  # ties
        expected = multipletests(values, method="holm")[1]
        np.testing.assert_allclose(holm(values), expected)
    assert np.isnan(holm(np.array([np.nan, 0.01]))[0])
    assert holm(np.array([0.02, np.nan, 0.03])).tolist()[::2] == pytest.approx([0.04, 0.04])


def scores(differences, voices):
    """Scores of models by their differences from nothing, ``{model: [mixtures]}``."""
    table = pd.DataFrame({"id": [f"m{n}" for n in range(len(voices))]})
    table = with_units(table.assign(voice1=voices[:, 0], voice2=voices[:, 1]))
    return {model: table.assign(si_sdri=values) for model, values in differences.items()}


def test_p_is_the_paired_t_test_s_where_each_mixture_has_a_voice_of_its_own():
    rng = np.random.default_rng(2)
    voices = np.repeat([f"v{n}" for n in range(150)], 2).reshape(-1, 2)
    first = rng.normal(size=150)
    second = first + rng.normal(0.15, 1, 150)
    table = compare_pairs(scores({"a": first, "b": second}, voices), ["si_sdri"])
    expected = ttest_rel(first, second)
    assert table.p.item() == pytest.approx(expected.pvalue, rel=0.15)
    assert table.difference.item() == pytest.approx((first - second).mean())


def test_models_that_are_alike_are_seldom_told_apart():
    """Voices of which each likes one model by some 1 dB; on all voices, none is better."""
    rng, wrong = np.random.default_rng(3), 0
    for _ in range(300):
        pairs = np.array([rng.choice(20, 2, replace=False) for _ in range(100)])
        values = rng.normal(0, 1, 20)[pairs].sum(1) + rng.normal(0, 0.5, 100)
        draws = resampled_means(values[:, None], pairs)
        p = p_values(values.mean(keepdims=True), draws, np.array([20]))
        low, high = interval_of_draws(draws, np.array([20]))
        wrong += p[0] < 0.05
        if p[0] < 0.03 or p[0] > 0.08:  # beside the border both say the same
            assert (p[0] < 0.05) == (not low[0] < 0 < high[0])
    assert 0.02 < wrong / 300 < 0.08


@pytest.fixture
def table():
    """a beats b and c by much; b and c are alike. In words, c makes fewer errors than a."""
    rng = np.random.default_rng(4)
    voices = np.array([rng.choice(list("abcdefghijkl"), 2, replace=False) for _ in range(80)])
    gains = rng.normal([[3], [0], [0]], 0.3, (3, 80))
    models = scores(dict(zip("abc", gains, strict=True)), voices)
    words = {
        model: rows.assign(errors=rng.integers(0, worst, 80), length=10)
        for (model, rows), worst in zip(models.items(), (6, 6, 2), strict=True)
    }
    return compare_pairs(models, ["si_sdri"], words)


def test_sentences_say_who_is_better(table):
    found = sentences(table[table.metric == "si_sdri"])
    assert found == [
        "a is better than b and c.",
        "b is worse than a; against c nothing can be said.",
        "c is worse than a; against b nothing can be said.",
    ]
    # Of errors, fewer are better.
    assert sentences(table[table.metric == "wer"])[2] == "c is better than a and b."
    nothing = table[:1].assign(p_holm=np.nan)
    assert sentences(nothing) == ["Of no model can be said that it is better than another one."]


def test_the_matrix_shows_each_pair_once(table):
    part = table[table.metric == "si_sdri"]
    heading, _, *lines = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in matrix(part).split("\n")
    )
    assert heading == ["row − column", "a", "b", "c"]
    cells = {(line[0], name): x for line in lines for name, x in zip("abc", line[1:], strict=True)}
    row = part[(part.model == "a") & (part.other == "c")].iloc[0]
    assert cells["a", "c"] == f"{row.difference:.2f} [{row.low:.2f} … {row.high:.2f}]"
    assert cells["c", "a"] == "p < 0.001"
    row = part[(part.model == "b") & (part.other == "c")].iloc[0]
    assert cells["c", "b"] == f"p {row.p_holm:.3f}"
    assert [cells[x, x] for x in "abc"] == [""] * 3
    page = "\n\n".join(sections(table))
    assert page.count("row − column") == 2 and "corrected for 3 comparisons" in page
