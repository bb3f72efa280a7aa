"""Words of several results: pooled over seeds, paired by mixture, or left out and said."""

import json

import numpy as np
import pandas as pd
import pytest

from custom_modules.errors import InputError
from custom_modules.evaluation.comparison import compare_results, read_results
from custom_modules.evaluation.summary import describe
from custom_modules.evaluation.word_comparison import count_words
from custom_modules.tabular import write_record, write_table

WORDS = {"recogniser": "mini:x", "version": "1", "options": {}, "text_rules": "1"}
WORDS["pseudo_references"] = False


def results(folder, model, seed, errors, words=WORDS, length=5):
    """A results folder of mixtures a, b, c …, of which the model makes so many errors."""
    ids = "abcdefgh"[: len(errors)]
    record = {"model_name": model, "seed": seed, "task": "SB", "sample_rate": 8000}
    record |= {"split": "test"} | ({"words": words} if words else {})
    folder.mkdir()
    write_record(record, folder / "test_run.json")
    known = describe({"environment": "outdoor"})
    rows = [
        {
            "id": x,
            "variant": "C",
            **known,
            "source": source,
            "si_sdr": 1.0,
            "si_sdr_mixture": 0.0,
            "si_sdri": 1.0,
        }
        for x in ids
        for source in (1, 2)
    ]
    write_table(pd.DataFrame(rows), folder / "test_results.csv")
    counts = [
        {"id": x, "variant": "C", "arm": arm, "errors": n, "length": length, "insertions": 0}
        | {"deletions": n, "substitutions": 0}
        for arm in ("mixture", "model")
        for x, n in zip(ids, errors if arm == "model" else [4] * len(ids), strict=True)
    ]
    write_table(pd.DataFrame(counts), folder / "words" / "counts.csv")
    return folder


def test_rates_are_sums_and_differences_are_paired(tmp_path):
    first = [1, 2, 3, 0, 4, 2]
    second = [[0, 1, 3, 0, 2, 1], [1, 1, 1, 0, 2, 3]]
    folders = [results(tmp_path / "a1", "a", 1, first)]
    folders += [results(tmp_path / f"b{n}", "b", n, x) for n, x in enumerate(second)]
    compare_results(folders, tmp_path / "out")
    table = pd.read_csv(tmp_path / "out" / "comparison_words.csv")
    row = table[(table.model == "b") & (table.variant == "C") & (table.arm == "model")].iloc[0]
    assert row.wer == pytest.approx(100 * np.sum(second) / 60, rel=1e-5)
    assert row.difference == pytest.approx(100 * (np.sum(second) / 60 - sum(first) / 30), rel=1e-5)
    assert (row.seeds, row.n) == (2, 6)
    random = np.random.default_rng(3)
    pairs = np.stack([np.sum(second, axis=0) / 2, first], axis=1)
    drawn = pairs[random.integers(6, size=(20_000, 6))].sum(1) / 30 * 100
    differences = drawn[:, 0] - drawn[:, 1]
    spread = 2.571 * (6 / 5) ** 0.5 * differences.std()  # Student's t of 5 degrees of freedom
    low, high = differences.mean() - spread, differences.mean() + spread
    assert (row.difference_low, row.difference_high) == pytest.approx((low, high), abs=2.5)
    page = (tmp_path / "out" / "comparison.md").read_text()
    assert "## Words (word error rate, %)" in page
    assert f"{row.difference:.1f}" in page and " 80.0 " in page


@pytest.mark.parametrize(
    ("words", "length", "said"),
    [
        (None, 5, "words, which not all results have"),
        (WORDS | {"recogniser": "whisper:base"}, 5, "words, which are of different recognisers"),
        (WORDS | {"text_rules": "2"}, 5, "words, which are of different text rules"),
        (WORDS | {"pseudo_references": True}, 5, "words, which are of different references"),
        (WORDS, 6, "words, whose references are of different texts"),
    ],
)
def test_what_cannot_be_compared_is_said(tmp_path, words, length, said):
    folders = [results(tmp_path / "a", "a", 1, [1, 2])]
    folders.append(results(tmp_path / "b", "b", 1, [1, 2], words, length))
    assert count_words(read_results(folders)) == (None, said)


def test_results_without_words_say_nothing_of_them(tmp_path):
    folders = [results(tmp_path / name, name, 1, [1, 2], words=None) for name in "ab"]
    assert count_words(read_results(folders)) == (None, "")


def test_a_damaged_table_is_one_line(tmp_path):
    folders = [results(tmp_path / name, name, 1, [1, 2]) for name in "ab"]
    (folders[1] / "words" / "counts.csv").write_text("id,variant\n")
    with pytest.raises(
        InputError, match=r"counts\.csv: .* run evaluate.py with --recogniser again"
    ):
        count_words(read_results(folders))
    assert json.loads((folders[0] / "test_run.json").read_text())["words"] == WORDS
