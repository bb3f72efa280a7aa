"""The summary against averages taken by hand."""

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
import torch

from custom_modules.results import render, summarise, write_example, write_results


def row(name, variant, environment, source, si_sdri, genders="same"):
    return {
        "id": name,
        "variant": variant,
        "environment": environment,
        "source": source,
        "genders": genders,
        "si_sdr": si_sdri - 1,
        "si_sdri": si_sdri,
    }


ROWS = [
    row("a", "SER", "indoor", 1, 2.0),
    row("a", "SER", "indoor", 2, 4.0),
    row("a", "C", "indoor", 1, 6.0),
    row("a", "C", "indoor", 2, float("nan")),  # a silent source
    row("b", "C", "outdoor", 1, 10.0, "cross"),
    row("b", "C", "outdoor", 2, 12.0, "cross"),
    row("b", "SE", "outdoor", 1, 1.0, "cross"),
    row("b", "SE", "outdoor", 2, 1.0, "cross"),
]


def test_sources_are_averaged_within_a_mixture_and_then_mixtures():
    table = summarise(pd.DataFrame(ROWS))
    names = ["SER", "C", "C indoor", "C outdoor", "SE", "all variants", "all mixtures"]
    assert list(table.index) == names
    gains = table.si_sdri
    assert gains["SER"] == 3
    assert gains["C"] == (6 + 11) / 2
    assert gains["C indoor"] == 6
    assert gains["C outdoor"] == 11
    assert gains["all variants"] == pytest.approx((3 + 8.5 + 1) / 3)
    assert gains["all mixtures"] == pytest.approx((3 + 6 + 11 + 1) / 4)
    assert table.n.tolist() == [1, 2, 1, 1, 1, 4, 4]
    assert table.failed.tolist() == [0, 1, 1, 0, 0, 1, 1]
    assert table.si_sdri_cross["C"] == 11
    assert table.si_sdri_same["C"] == 6
    assert np.isnan(table.si_sdri_same["SE"])


def test_the_files_hold_what_was_scored(tmp_path):
    table = write_results(ROWS, tmp_path)
    read = pd.read_csv(tmp_path / "test_results.csv")
    pd.testing.assert_frame_equal(read, pd.DataFrame(ROWS))
    summary = pd.read_csv(tmp_path / "test_summary.csv", index_col="variant")
    pd.testing.assert_frame_equal(summary, table, atol=1e-4, check_dtype=False)
    lines = (tmp_path / "test_summary.md").read_text().splitlines()
    assert lines == render(table).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert "8.50" in next(line for line in lines if line.startswith("| C  "))


def test_examples_have_the_level_of_their_targets(tmp_path):
    time = torch.arange(800) / 8000
    targets = torch.stack([torch.sin(440 * time), 0.1 * torch.cos(600 * time)], 1)
    write_example(tmp_path, "x", targets.sum(1), 1000 * targets, targets, 8000)
    for source in (1, 2):
        estimate, rate = sf.read(tmp_path / f"x_s{source}.wav")
        target, _ = sf.read(tmp_path / f"x_s{source}_target.wav")
        assert rate == 8000
        np.testing.assert_allclose(estimate, target, atol=2e-4)
