"""Summaries, pages and comparisons of scores of conversations."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from custom_modules.conversation import reporting
from custom_modules.conversation.arms import ARMS, rows_of
from custom_modules.conversation.reporting import (
    compare,
    summarise,
    write_comparison,
    write_results,
)
from custom_modules.errors import InputError
from custom_modules.evaluation.bootstrap import interval_of_ratio
from custom_modules.tabular import write_record


def scores(seed=1, sessions=8, better=0.0):
    rng = np.random.default_rng(seed)
    result = {}
    said = np.random.default_rng(0).integers(50, 400, sessions)  # whatever was heard
    for number, words in enumerate(said.tolist()):
        for place, arm in enumerate(ARMS):
            errors = rng.binomial(words, 0.2 + 0.1 * place - better)
            leak = {} if arm == "true_tracks" else {"leakage": (-20.0 - place, 2.0)}
            result[f"talk{number}", arm] = {"cpwer": (float(errors), float(words)), **leak}
    return result


def test_sums_are_divided_and_not_rates_averaged():
    table = {("a", "all"): {"cpwer": (1.0, 2.0)}, ("b", "all"): {"cpwer": (10.0, 100.0)}}
    (row,) = summarise(rows_of(table)).to_dict("records")
    assert row["value"] == pytest.approx(100 * 11 / 102)
    assert (row["arm"], row["metric"], row["n"]) == ("all", "cpwer", 2)
    assert np.isnan(row["low"]) and np.isnan(row["high"])  # two say nothing of others


def test_the_interval_is_that_of_a_plain_bootstrap():
    rng = np.random.default_rng(3)
    sums = np.stack([rng.integers(1, 50, 9), rng.integers(50, 200, 9)], axis=1).astype(float)
    drawn = rng.integers(9, size=(4000, 9))
    ratios = sums[drawn, 0].sum(1) / sums[drawn, 1].sum(1)
    low, high = interval_of_ratio(sums[:, None], np.arange(9))
    further_out = stats.norm.sf(stats.t.ppf(0.975, 8) * (9 / 8) ** 0.5)
    expected = np.quantile(ratios, [further_out, 1 - further_out])
    np.testing.assert_allclose([low[0], high[0]], expected, atol=0.03)


def test_one_conversation_has_no_interval():
    summary = summarise(rows_of(scores(sessions=1)))
    assert summary.low.isna().all() and summary.value.notna().all()
    assert "[" not in reporting.main_table(summary)


def test_files_say_the_same(tmp_path):
    rows = rows_of(scores())
    summary = write_results(rows, tmp_path, {"model": "x", "recogniser": "none"})
    written = pd.read_csv(tmp_path / "conversation_summary.csv")
    assert list(written) == ["arm", "metric", "value", "low", "high", "n"]
    pd.testing.assert_frame_equal(written, summary, rtol=1e-5)
    page = (tmp_path / "conversation_summary.md").read_text()
    cell = summary[(summary.arm == "all") & (summary.metric == "cpwer")].iloc[0]
    assert f"{cell.value:.1f} [{cell.low:.1f} … {cell.high:.1f}]" in page
    assert all(f"- `{arm}`: " in page for arm in ARMS)
    assert (tmp_path / "conversation_summary.png").stat().st_size > 10_000


@pytest.fixture
def results(tmp_path):
    folders = []
    for name, better in (("first", 0.0), ("second", 0.1)):
        folder = tmp_path / name
        write_record({"model": "same"}, folder / reporting.RECORD)
        write_results(rows_of(scores(better=better)), folder, {"model": "same"})
        folders.append(folder)
    return folders


def test_comparison_is_of_the_same_conversations(results, tmp_path):
    extra = rows_of(scores(sessions=9, better=0.1))
    write_results(extra, results[1], {"model": "same"})
    table = compare(results)
    assert set(table.n) == {8}
    assert set(table.model) == set(map(str, results))  # of one name: by folder
    first = table[table.model == str(results[0])]
    assert (first.difference == 0).all()
    cell = table[(table.model == str(results[1])) & (table.metric == "cpwer")]
    assert (cell.difference < 0).all() and (cell.difference_high < 0).all()
    text = write_comparison(table, tmp_path)
    assert text.count("## ") == len(ARMS) and (tmp_path / f"{reporting.TEXT}.csv").is_file()


def test_other_conversations_of_the_same_names_are_refused(results):
    rows = rows_of(scores(better=0.1))
    rows.loc[rows.metric == "cpwer", "base"] *= 2  # other words are said
    write_results(rows, results[1], {"model": "same"})
    with pytest.raises(InputError, match="other conversations under the same names"):
        compare(results)


@pytest.mark.parametrize(
    ("text", "words"),
    [("session,arm\n", "is empty"), ("session,arm,metric,total,base\na,b,cpwer,1,2\n", "row 2")],
)
def test_damaged_results_are_named(results, text, words):
    (results[1] / reporting.SCORES).write_text(text)
    with pytest.raises(InputError, match=words):
        compare(results)
    with pytest.raises(InputError, match="two folders"):
        compare(results[:1])
