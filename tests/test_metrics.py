"""Metrics against independent libraries and constructed signals."""

import math
import warnings
from itertools import permutations
from pathlib import Path

import fast_bss_eval
import mir_eval
import numpy as np
import pytest
import soundfile as sf
import torch
from pesq import pesq
from pystoi import stoi as pystoi

from custom_modules.metrics import (
    StoiReference,
    Uncomputable,
    align,
    bss_eval,
    fault,
    pesq_score,
    scores_on_device,
)
from custom_modules.objectives import is_silent

PAIR = Path(__file__).parent / "data" / "pesq_pair"


def orthogonal(time=4000, count=5, seed=3):
    """Zero-mean signals of energy 1, each at right angles to the others."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(time, count, generator=generator, dtype=torch.float64)
    basis, _ = torch.linalg.qr(noise - noise.mean(0))
    return basis


def coloured(sources, time=6000, seed=0):
    """Targets and noisy, leaking estimates of them, ``[sources, time]``."""
    random = np.random.default_rng(seed)
    noise = random.standard_normal((sources + 1, time))
    targets = np.stack([np.convolve(x, [1, 0.9, 0.5], "same") for x in noise[:-1]])
    targets *= 0.1
    leak = 0.3 * np.roll(targets, 1, axis=0) if sources > 1 else 0
    return targets, 0.7 * np.roll(targets, 2, axis=1) + leak + 0.02 * noise[-1]


def pair():
    """A reference and a degraded signal whose scores are known, 16 kHz."""
    return (sf.read(PAIR / f"{n}.wav")[0] for n in ("speech", "speech_bab_0dB"))


def si_sdr_of_signals(aligned, targets, mixture):
    return scores_on_device(["si_sdr"], aligned, targets, mixture)["si_sdr"]


def mir_eval_of(targets, estimates):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated there; nothing replaces it
        return mir_eval.separation.bss_eval_sources(targets, estimates, False)[:2]


@pytest.mark.parametrize("sources", [1, 2, 3])
def test_sdr_and_sir_agree_with_mir_eval(sources):
    targets, estimates = coloured(sources, seed=sources)
    expected_sdr, expected_sir = mir_eval_of(targets, estimates)
    sdr, sir = bss_eval(targets, estimates)
    np.testing.assert_allclose(sdr.diagonal(), expected_sdr, atol=1e-3)
    if sources > 1:
        np.testing.assert_allclose(sir.diagonal(), expected_sir, atol=1e-3)


@pytest.mark.parametrize("sources", [2, 3])
def test_si_sdr_agrees_with_fast_bss_eval(sources):
    targets, estimates = coloured(sources, seed=10 + sources)
    expected = -fast_bss_eval.numpy.pairwise_si_sdr_loss(
        estimates + 0.05, targets, zero_mean=True
    ).diagonal()
    scores = si_sdr_of_signals(
        torch.tensor(estimates + 0.05).T[None],
        torch.tensor(targets).T[None],
        torch.tensor(targets.sum(0))[None],
    )
    np.testing.assert_allclose(scores[""][0].numpy(), expected, atol=1e-3)


def test_bss_eval_forgives_a_filter_and_scores_a_copy_high():
    targets, _ = coloured(2)
    filtered = np.stack([np.convolve(x, [0.2, 1, -0.4])[:6000] for x in targets])
    assert (bss_eval(targets, filtered)[0].diagonal() > 30).all()
    sdr, sir = bss_eval(targets, targets)
    assert sdr.diagonal() == pytest.approx(100, abs=1e-3)
    assert sir.diagonal() == pytest.approx(100, abs=1e-3)


def test_bss_eval_depends_on_nothing_but_the_signal_and_the_number_of_signals():
    targets, estimates = coloured(2)
    full = np.concatenate([estimates, targets.sum(0, keepdims=True)])
    gaps = full * np.array([[1], [0], [1]])
    for whole, part in zip(bss_eval(targets, full), bss_eval(targets, gaps), strict=True):
        assert np.array_equal(whole[:, [0, 2]], part[:, [0, 2]])


def test_what_bss_eval_cannot_know_is_not_made_up():
    targets, estimates = coloured(2)
    with pytest.raises(Uncomputable, match="512"):
        bss_eval(targets[:, :512], estimates[:, :512])
    tone = np.sin(np.arange(6000) * 2 * np.pi / 8)[None]
    for signals in (tone, tone + 1e-3 * targets[:1]):
        try:
            sdr, _ = bss_eval(tone, signals)
        except Uncomputable as reason:
            assert "undetermined" in str(reason)
        else:
            assert np.isnan(sdr).all() or (sdr > 40).all()


@pytest.mark.parametrize(
    ("rate", "mode", "known"), [(16000, "wb", 1.0832337), (16000, "nb", 1.6072081)]
)
def test_the_package_pesq_is_what_it_was(rate, mode, known):
    target, signal = pair()
    assert pesq(rate, target, signal, mode) == pytest.approx(known, abs=1e-6)


def test_pesq_is_the_package_s_in_the_mode_of_the_rate():
    target, signal = pair()
    assert pesq_score(target, signal, 16000) == pytest.approx(1.0832337, abs=1e-6)
    narrow = pesq(8000, target, signal, "nb")  # as if recorded at half the rate
    assert pesq_score(target, signal, 8000) == narrow


@pytest.mark.parametrize(
    ("target", "rate", "reason"),
    [
        (np.zeros(8000), 8000, "no utterance"),
        (np.ones(100), 8000, "0.25 s"),
        (np.ones(1), 8000, "0.25 s"),
        (np.ones(44100), 44100, "44100 Hz"),
    ],
)
def test_what_pesq_refuses_has_a_name(target, rate, reason):
    with pytest.raises(Uncomputable, match=reason):
        pesq_score(target, target + 0.1, rate)


@pytest.mark.parametrize("sources", [1, 2, 3])
def test_estimates_are_aligned_whatever_their_order(sources):
    targets = orthogonal()[None, :, :sources].float()
    for order in permutations(range(sources)):
        noisy = targets[..., list(order)] + 0.01 * orthogonal(seed=9)[None, :, :1]
        aligned = align(noisy.float(), targets)
        assert (si_sdr_of_signals(aligned, targets, targets.sum(2))[""] > 30).all()


def test_an_estimate_that_is_not_finite_takes_what_the_others_leave():
    targets = orthogonal()[None, :, :3].float()
    estimates = targets[..., [2, 0, 1]].clone()
    estimates[0, 5, 1] = float("nan")  # of target 0
    aligned = align(estimates, targets)
    assert torch.isnan(aligned[0, :, 0]).any()
    assert torch.equal(aligned[..., 1:], targets[..., 1:])


def test_the_oracle_removes_the_background_and_nothing_else():
    s1, s2, noise, *_ = orthogonal().T
    targets = torch.stack([s1, s2], 1)[None].float()
    scores = si_sdr_of_signals(targets, targets, (s1 + s2 + 2 * noise)[None].float())
    # Against s1: s2 and four times the energy of noise before, s2 alone after.
    gain = 10 * math.log10(1 / 1) - 10 * math.log10(1 / (1 + 4))
    torch.testing.assert_close(
        scores["_oracle"] - scores["_mixture"], torch.full((1, 2), gain), atol=1e-3, rtol=0
    )


def test_there_is_no_oracle_for_one_source():
    targets = orthogonal()[None, :, :1].float()
    assert set(si_sdr_of_signals(targets, targets, targets[..., 0])) == {"", "_mixture"}


def test_silence_and_faults_have_names():
    s1, *_ = orthogonal().T.float()
    targets = torch.stack([s1, torch.full_like(s1, 0.5)], 1)[None]
    assert is_silent(targets).tolist() == [[False, True]]
    assert fault(s1.numpy()) is None
    assert fault(np.zeros(1)) == "silent"
    assert fault(np.array([1.0, np.inf])) == "not finite"


def speech_like(time, seed):
    """Noise that comes and goes, with silence in it."""
    random = np.random.default_rng(seed)
    envelope = np.clip(np.sin(np.arange(time) / 700 + seed), 0, None)
    return random.standard_normal((2, time)) * [envelope, np.full(time, 0.3)]


@pytest.mark.parametrize("rate", [8000, 10000, 16000])
@pytest.mark.parametrize("time", [15000, 32000, 32123])
def test_stoi_and_estoi_agree_with_pystoi(rate, time):
    target, noise = speech_like(time, seed=time + rate)
    reference = StoiReference(target, rate)
    for signal in (target + noise, target, 100 * noise, 0.5 * target + noise):
        stoi, estoi = reference.score(signal)
        assert stoi == pytest.approx(pystoi(target, signal, rate), abs=1e-9)
        expected = pystoi(target, signal, rate, extended=True)
        assert estoi == pytest.approx(expected, abs=1e-9)


def test_stoi_of_the_known_pair():
    target, signal = pair()
    stoi, estoi = StoiReference(target, 16000).score(signal)
    assert stoi == pytest.approx(0.6739177895331301, abs=1e-6)
    assert estoi == pytest.approx(0.39044999, abs=1e-6)


@pytest.mark.parametrize("time", [1, 200, 250, 1000, 3000])
@pytest.mark.filterwarnings("ignore:Not enough STFT frames")
def test_stoi_refuses_too_little_speech_where_pystoi_only_warns(time):
    target, noise = speech_like(time, seed=1)
    if time > 250:
        assert pystoi(target, target + noise, 8000) == 1e-5
    with pytest.raises(Uncomputable, match="30 frames"):
        StoiReference(target, 8000).score(target + noise)


@pytest.mark.filterwarnings("ignore:Not enough STFT frames")
def test_the_limit_of_stoi_is_pystoi_s():
    decisions = set()
    for time in range(3200, 3500, 20):
        target, signal = np.random.default_rng(time).standard_normal((2, time))
        refused_by_pystoi = pystoi(target, signal, 8000) == 1e-5
        try:
            StoiReference(target, 8000)
            decisions.add((refused_by_pystoi, False))
        except Uncomputable:
            decisions.add((refused_by_pystoi, True))
    assert decisions == {(True, True), (False, False)}
