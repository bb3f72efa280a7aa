"""SI-SDR and PIT against the formula, SpeechBrain and all permutations."""

from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from speechbrain.nnet.losses import get_si_snr_with_pitwrapper

from custom_modules.objectives import pairwise_si_sdr, pit_si_sdr_loss, reorder, si_sdr


def noisy_sources(seed, batch=3, time=800, sources=2, noise=0.3):
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randn(batch, time, sources, generator=generator)
    error = torch.randn(batch, time, sources, generator=generator)
    return targets + noise * error, targets


def formula(estimate, target):
    """Le Roux et al. 2019, eq. 5, on one pair of float64 signals."""
    estimate, target = estimate.double(), target.double()
    estimate, target = estimate - estimate.mean(), target - target.mean()
    projection = (estimate @ target) / (target @ target) * target
    residual = estimate - projection
    return 10 * torch.log10((projection @ projection) / (residual @ residual))


@given(st.integers(0, 2**31), st.floats(0.01, 3.0), st.floats(0.1, 100.0))
@settings(max_examples=30)
def test_si_sdr_is_the_formula_at_any_scale_and_offset(seed, noise, scale):
    estimates, targets = noisy_sources(seed, noise=noise)
    scores = si_sdr(scale * estimates + 0.5, targets - 0.2)
    expected = torch.tensor(
        [
            [formula(e, t) for e, t in zip(es.T, ts.T, strict=True)]
            for es, ts in zip(estimates, targets, strict=True)
        ]
    )
    torch.testing.assert_close(scores.double(), expected, atol=5e-3, rtol=1e-4)


@pytest.mark.parametrize("sources", [1, 2, 3])
@pytest.mark.parametrize("noise", [0.03, 1.0, 10.0])
def test_loss_agrees_with_speechbrains_pit_wrapper(sources, noise):
    estimates, targets = noisy_sources(7, 4, 4000, sources, noise)
    estimates = estimates.roll(1, dims=-1)
    loss, _ = pit_si_sdr_loss(estimates, targets)

    expected = get_si_snr_with_pitwrapper(targets, estimates)
    torch.testing.assert_close(loss, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("sources", [2, 3, 4, 7])
def test_best_permutation_of_all(sources):
    estimates, targets = noisy_sources(3, 4, 300, sources, noise=1.5)
    estimates = estimates[..., torch.randperm(sources)]
    loss, permutation = pit_si_sdr_loss(estimates, targets)
    scores = pairwise_si_sdr(estimates, targets)
    for item in range(len(loss)):
        best = max(
            sum(float(scores[item, t, e]) for t, e in enumerate(order))
            for order in permutations(range(sources))
        )
        assert float(-loss[item]) * sources == pytest.approx(best, abs=1e-3)
    aligned = si_sdr(reorder(estimates, permutation), targets).mean(dim=1)
    torch.testing.assert_close(aligned, -loss)


def test_gradient_is_the_derivative():
    estimates, targets = noisy_sources(11, 2, 20, 2)
    estimates = estimates.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: pit_si_sdr_loss(x, targets.double())[0], estimates)


@pytest.mark.parametrize("silent", ["target", "estimate", "both", "one of two"])
def test_silence_is_finite(silent):
    estimates, targets = noisy_sources(5)
    if silent in ("target", "both"):
        targets = torch.zeros_like(targets)
    if silent in ("estimate", "both"):
        estimates = torch.zeros_like(estimates)
    if silent == "one of two":
        targets[..., 1] = 0.25  # a constant is silent once its mean is gone
    estimates.requires_grad_()
    loss, _ = pit_si_sdr_loss(estimates, targets)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(estimates.grad).all()


def test_float32_outside_autocast_and_inputs_untouched():
    estimates, targets = noisy_sources(13)
    before = estimates.clone(), targets.clone()
    expected, _ = pit_si_sdr_loss(estimates, targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = pit_si_sdr_loss(estimates, targets)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=0, atol=0)
    assert torch.equal(estimates, before[0])
    assert torch.equal(targets, before[1])
    assert pit_si_sdr_loss(estimates.half(), targets.half())[0].dtype == torch.float32


def test_padding_takes_no_part():
    estimates, targets = noisy_sources(17, batch=2, time=500)
    lengths = torch.tensor([500, 321])
    estimates[1, 321:] = 9.0  # what a model says about padding
    targets[1, 321:] = 0.0
    padded, _ = pit_si_sdr_loss(estimates, targets, lengths)
    cut, _ = pit_si_sdr_loss(estimates[1:, :321], targets[1:, :321])
    torch.testing.assert_close(padded[1:], cut, atol=1e-4, rtol=0)


def test_nan_gives_nan_instead_of_an_exception():
    for sources in (2, 7):
        estimates, targets = noisy_sources(19, sources=sources)
        estimates[0, 0, 0] = float("nan")
        loss, _ = pit_si_sdr_loss(estimates, targets)
        assert torch.isnan(loss[0])
        assert torch.isfinite(loss[1:]).all()
