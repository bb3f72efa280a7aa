"""Scores against constructed signals whose answers are known."""

import math

import pytest
import torch

from custom_modules.metrics import is_silent, score, si_sir


def orthogonal(time=4000, count=5, seed=3):
    """Zero-mean signals of energy 1, each at right angles to the others."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(time, count, generator=generator, dtype=torch.float64)
    basis, _ = torch.linalg.qr(noise - noise.mean(0))
    return basis


def test_parts_of_an_estimate_are_told_apart():
    s1, s2, noise, *_ = orthogonal().T
    estimate = s1 + 0.1 * s2 + 0.2 * noise
    targets = torch.stack([s1, s2], 1)[None]
    estimates = torch.stack([estimate, s2], 1)[None]
    sir = si_sir(estimates, targets)
    assert float(sir[0, 0]) == pytest.approx(20)  # 0.1 of the amplitude; no noise
    scores, _ = score(estimates.float(), targets.float(), (s1 + s2)[None].float())
    expected = 10 * math.log10(1 / (0.1**2 + 0.2**2))
    assert float(scores["si_sdr"][0, 0]) == pytest.approx(expected, abs=0.01)
    assert float(scores["si_sdr_mixture"][0, 0]) == pytest.approx(0, abs=1e-3)
    assert float(scores["si_sdri"][0, 0]) == pytest.approx(expected, abs=0.01)


def test_correlated_targets_are_projected_on_together():
    a, b, *_ = orthogonal().T
    s1, s2 = a, 0.6 * a + 0.8 * b  # of energy 1, at an angle
    estimate = 2 * s1 + 0.3 * b
    # Its part along s1 is 2; what else lies in the plane of both is 0.3 b.
    sir = si_sir(torch.stack([estimate, s2], 1)[None], torch.stack([s1, s2], 1)[None])
    assert float(sir[0, 0]) == pytest.approx(20 * math.log10(2 / 0.3))


def test_the_oracle_removes_the_background_and_nothing_else():
    s1, s2, noise, *_ = orthogonal().T
    mixture = s1 + s2 + 2 * noise
    targets = torch.stack([s1, s2], 1)[None].float()
    scores, _ = score(targets, targets, mixture[None].float())
    # Against s1: s2 and four times the energy of noise before, s2 alone after.
    gain = 10 * math.log10(1 / 1) - 10 * math.log10(1 / (1 + 4))
    torch.testing.assert_close(
        scores["oracle_si_sdri"], torch.full((1, 2), gain), atol=1e-3, rtol=0
    )


def test_the_mixture_itself_improves_nothing():
    s1, s2, noise, *_ = orthogonal().T.float()
    mixture = (s1 + s2 + noise)[None]
    targets = torch.stack([s1, s2], 1)[None]
    scores, _ = score(mixture[..., None].expand(1, -1, 2), targets, mixture)
    for name in ("si_sdri", "si_siri"):
        assert torch.equal(scores[name], torch.zeros_like(scores[name])), name


@pytest.mark.parametrize("sources", [1, 2, 3])
def test_estimates_are_aligned_and_targets_score_high(sources):
    targets = orthogonal()[None, :, :sources].float()
    order = torch.randperm(sources, generator=torch.Generator().manual_seed(1))
    scores, aligned = score(targets[..., order], targets, targets.sum(2))
    assert torch.equal(aligned, targets)
    assert (scores["si_sdr"] > 60).all()
    assert ("oracle_si_sdri" in scores) == (sources > 1)


def test_silent_targets_have_no_score():
    s1, *_ = orthogonal().T.float()
    targets = torch.stack([s1, torch.full_like(s1, 0.5)], 1)[None]
    assert is_silent(targets).tolist() == [[False, True]]
    scores, _ = score(targets, targets, s1[None])
    for name, values in scores.items():
        assert torch.isnan(values[0, 1]), name
        of_one = name in ("si_sdr", "si_sdr_mixture", "si_sdri")
        assert torch.isnan(values[0, 0]) != of_one, name
