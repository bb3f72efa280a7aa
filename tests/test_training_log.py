"""Means over mixtures, told apart by variant."""

import math

import pandas as pd
import pytest
import torch
from speechbrain.utils.train_logger import FileTrainLogger

from custom_modules.errors import InputError
from custom_modules.objectives import si_sdr
from custom_modules.training_log import Averages, EpochCost, TrainingLog, read_history


def a_batch(seed, size=6):
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randn(size, 400, 2, generator=generator)
    return torch.randn(size, generator=generator), targets.sum(2), targets


def test_means_by_variant_are_means_over_its_mixtures():
    averages, rows = Averages(), []
    for seed in range(3):
        scores, mixture, targets = a_batch(seed)
        variants = ["C", "SER", "C", "R", "SER", "SER"]
        averages.add(scores, mixture, targets, variants)
        gains = scores - si_sdr(mixture[..., None], targets).mean(1)
        rows += zip(variants, scores.tolist(), gains.tolist(), strict=True)
    assert set(averages.means_by_variant()) == {"C", "SER", "R"}
    for variant, means in averages.means_by_variant().items():
        own = [(score, gain) for name, score, gain in rows if name == variant]
        expected = [sum(column) / len(own) for column in zip(*own, strict=True)]
        assert [means["si_sdr"], means["si_sdri"]] == pytest.approx(expected, abs=1e-5)
    everything = sum(score for _, score, _ in rows) / len(rows)
    assert averages.means()["si_sdr"] == pytest.approx(everything, abs=1e-5)


def test_a_mixture_that_is_the_target_has_no_improvement():
    """One source is wanted, and the clean mixture is it."""
    scores, mixture, targets = a_batch(1)
    single = targets.sum(2, keepdim=True)
    noisy = mixture + 0.1 * targets[..., 0]
    averages = Averages()
    averages.add(scores[:3], mixture[:3], single[:3], ["C"] * 3)
    assert math.isnan(averages.means()["si_sdri"])
    assert averages.means()["si_sdr"] == pytest.approx(scores[:3].mean().item())
    averages.add(scores[3:], noisy[3:], single[3:], ["S", "C", "S"])
    gains = scores[3:] - si_sdr(noisy[3:, :, None], single[3:]).mean(1)
    expected = pytest.approx(gains[::2].mean().item(), abs=1e-5)
    assert averages.means()["si_sdri"] == expected
    assert averages.means_over_variants()["si_sdri"] == expected
    assert averages.means()["si_sdr"] == pytest.approx(scores.mean().item())
    again = Averages.restore(averages.state())
    assert again.means() == averages.means()


def test_silent_targets_do_not_count_and_failures_are_never_the_best():
    scores, mixture, targets = a_batch(1)
    targets[0, :, 1] = 0
    scores[0] = float("nan")
    averages = Averages()
    averages.add(scores, mixture, targets, ["C"] * 6)
    assert (averages.mixtures, averages.failed, averages.silent) == (5, 0, 1)
    assert averages.means()["si_sdr"] == pytest.approx(scores[1:].mean().item())
    scores[1] = float("nan")
    averages.add(scores, mixture, targets, ["R"] * 6)
    assert (averages.mixtures, averages.failed) == (9, 1)
    assert averages.means()["si_sdr"] == averages.means("R")["si_sdr"] == -float("inf")
    assert averages.means("C")["si_sdr"] > -10
    assert averages.silent == 2
    nobody = Averages()
    nobody.add(scores, mixture, torch.zeros_like(targets), ["S"] * 6)
    assert (nobody.silent, nobody.means_by_variant()) == (6, {})


def test_averages_that_an_earlier_version_saved_are_gone_on_with():
    averages = Averages()
    averages.add(*a_batch(3), ["C", "SER", "E", "R", "S", "SE"])
    state = averages.state()
    state["scores"] = [row[:4] for row in state["scores"]]  # it did not count silence
    assert torch.equal(Averages.restore(state).scores, averages.scores)


def test_mixtures_with_a_silent_target_are_counted_where_there_are_any(tmp_path):
    scores, mixture, targets = a_batch(1)
    log = TrainingLog(FileTrainLogger(tmp_path / "train_log.txt"), tmp_path)
    for epoch in (1, 2):
        train = Averages()
        train.add(scores, mixture, targets, ["C"] * 6)
        log.add(epoch, 1e-3, train, train.means(), {}, EpochCost("cpu"), silent=epoch - 1)
        targets[:2, :, 0] = 0
    first, second = (tmp_path / "train_log.txt").read_text().splitlines()
    assert "silent" not in first
    assert "train_silent: 2, valid_silent: 1" in second
    history = pd.DataFrame(log.rows())
    assert history.train_silent.fillna(0).tolist() == [0, 2]
    assert history.valid_silent.fillna(0).tolist() == [0, 1]


def test_what_is_saved_is_restored_exactly():
    averages = Averages()
    averages.add(*a_batch(3), ["C", "SER", "E", "R", "S", "SE"])
    averages.counts |= {"steps": 3, "grad_norm": 0.1 + 0.2, "skipped": 1}
    again = Averages.restore(averages.state())
    assert torch.equal(again.scores, averages.scores)
    assert again.counts == averages.counts
    assert again.grad_norm == pytest.approx(0.1)


def test_the_cost_of_an_epoch_counts_what_it_took_before():
    cost = EpochCost("cpu", spent=10.0)
    assert cost.seconds() >= 10
    assert cost.peak_memory_gb() > 0


@pytest.mark.parametrize(
    "content",
    [b"", b"epoch\n", b"epoch,valid_si_sdr\n1,2\n2", b"epoch,valid_si_sdr\n1,x\n", b"\xff"],
)
def test_a_damaged_history_says_what_to_do(tmp_path, content):
    path = tmp_path / "history.csv"
    assert read_history(path) == []
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"{path}: cannot be read .*; restore or remove it"):
        read_history(path)
    path.write_bytes(b"\xef\xbb\xbfepoch,valid_si_sdr\r\n1,-inf\r\n2,3.5\r\n\r\n")  # an editor's
    assert [row["epoch"] for row in read_history(path)] == [1, 2]
