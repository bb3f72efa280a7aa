"""Losses that bear silence: against loops over permutations, torchmetrics, differences."""

import math
from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.audio import (
    signal_noise_ratio,
    source_aggregated_signal_distortion_ratio,
)

from custom_modules.errors import InputError
from custom_modules.hparams import load_hparams
from custom_modules.losses import (
    LOSSES,
    MultiLoss,
    SaSdr,
    SiSdr,
    ThresholdedSnr,
    check_loss,
    find_loss,
    loss_of,
)
from custom_modules.objectives import MultiStageLoss, pit_si_sdr_loss, reorder, si_sdr
from tests.test_objectives import noisy_sources

KINDS = {
    "sa_sdr": SaSdr,
    "thresholded_snr": ThresholdedSnr,
    "si_sdr": SiSdr,
    "multi": lambda **options: MultiLoss([SaSdr(**options), SiSdr(**options)], [0.3, 2.0]),
}
SILENT = ["target", "estimate", "both", "one-target", "one-target-and-its-estimate"]
every_kind = pytest.mark.parametrize("kind", KINDS)


def silenced(silent, estimates, targets):
    """Signals of which some are silent."""
    estimates, targets = estimates.clone(), targets.clone()
    if silent in ("target", "both"):
        targets.zero_()
    if silent in ("estimate", "both"):
        estimates.zero_()
    if silent.startswith("one-target"):
        targets[..., 1] = 0
    if silent.endswith("its-estimate"):
        estimates[..., 1] = 0
    return estimates, targets


def decibels(ratio):
    return 10 * math.log10(ratio)


def plain_score(kind, estimates, targets, mixture, clamp, silent_limit):
    """Of one example, estimates in a given order, by the formulas of the papers."""
    estimates, targets, mixture = (x.double() for x in (estimates, targets, mixture))
    signals = [float(t @ t) for t in targets.T]
    pairs = list(zip(estimates.T, targets.T, strict=True))
    errors = [float((e - t) @ (e - t)) for e, t in pairs]
    room, silent = float(mixture @ mixture), [s == 0 for s in signals]
    tau = 10 ** (-silent_limit / 10) if any(silent) else 0
    if kind == "thresholded_snr":
        tau = max(tau, 1e-3)
        signals = [room if gone else s for s, gone in zip(signals, silent, strict=True)]
        scores = [-decibels((e + tau * s) / s) for e, s in zip(errors, signals, strict=True)]
        return sum(min(x, clamp) for x in scores) / len(scores)
    if kind == "sa_sdr":
        signal = room if all(silent) else sum(signals)
        return min(-decibels((sum(errors) + tau * signal) / signal), clamp)
    scores = [float(si_sdr(e[None, :, None], t[None, :, None])) for e, t in pairs]
    scores = [-decibels(10 ** (-x / 10) + tau) for x in scores]
    heard = [min(x, clamp) for x, gone in zip(scores, silent, strict=True) if not gone]
    return sum(heard) / max(len(heard), 1)


@pytest.mark.parametrize("kind", ["sa_sdr", "thresholded_snr", "si_sdr"])
@given(
    seed=st.integers(0, 2**31),
    sources=st.integers(1, 3),
    noise=st.sampled_from([0.003, 0.1, 1.0, 5.0]),
    clamp=st.sampled_from([None, 3.0, 30.0]),
    silent=st.sampled_from(["", "target", "one-target"]),
)
@settings(max_examples=25)
def test_losses_are_the_formulas_under_the_best_of_all_permutations(
    kind, seed, sources, noise, clamp, silent
):
    estimates, targets = noisy_sources(seed, 2, 200, sources, noise)
    if silent and sources > 1:
        estimates, targets = silenced(silent, estimates, targets)
    mixture = targets.sum(2) + 0.1 * estimates.roll(7, 1)[..., 0]
    loss, permutation = KINDS[kind](clamp=clamp, silent_limit=12)(
        estimates.roll(1, 2), targets, mixture=mixture
    )
    for item in range(2):
        best = max(
            plain_score(
                *(kind, estimates[item][:, list(order)], targets[item], mixture[item]),
                *(clamp or math.inf, 12),
            )
            for order in permutations(range(sources))
        )
        assert float(loss[item]) == pytest.approx(-best, abs=2e-4)
    again, same = KINDS[kind](clamp=clamp, silent_limit=12)(
        reorder(estimates.roll(1, 2), permutation), targets, mixture=mixture
    )
    torch.testing.assert_close(again, loss)
    if clamp is None and not silent:
        assert same.tolist() == [list(range(sources))] * 2


@pytest.mark.parametrize("noise", [0.05, 0.7, 3.0])
@pytest.mark.parametrize("sources", [1, 2, 4])
def test_published_implementations_agree(noise, sources):
    estimates, targets = noisy_sources(3, 4, 4000, sources, noise)
    expected = source_aggregated_signal_distortion_ratio(
        estimates.mT, targets.mT, scale_invariant=False
    )
    loss, _ = SaSdr()(estimates.roll(1, 2), targets)
    torch.testing.assert_close(-loss, expected, atol=1e-4, rtol=0)

    snr = signal_noise_ratio(estimates.mT.double(), targets.mT.double())
    thresholded = -10 * torch.log10(10 ** (-snr / 10) + 1e-3)
    loss, _ = ThresholdedSnr()(estimates.roll(1, 2), targets)
    torch.testing.assert_close(-loss.double(), thresholded.mean(1), atol=1e-4, rtol=0)

    loss, permutation = SiSdr()(estimates.roll(1, 2), targets)
    expected, same = pit_si_sdr_loss(estimates.roll(1, 2), targets)
    torch.testing.assert_close(loss, expected)
    assert torch.equal(permutation, same)


@every_kind
@pytest.mark.parametrize("silent", ["", *SILENT])
def test_gradients_are_the_derivatives(kind, silent):
    estimates, targets = silenced(silent, *noisy_sources(11, 2, 15, 2))
    loss = KINDS[kind]()
    if silent in ("estimate", "both"):  # at zero SI-SDR has a corner
        estimates = estimates + 0.1 * noisy_sources(12, 2, 15, 2)[0]
    estimates = estimates.double().requires_grad_()
    room = torch.linspace(-1, 1, 15).double().expand(2, 15)
    assert torch.autograd.gradcheck(lambda x: loss(x, targets.double(), None, room)[0], estimates)


@every_kind
@pytest.mark.parametrize("silent", SILENT)
@pytest.mark.parametrize("room", [0.0, 0.5])
def test_silence_is_finite_and_nothing_earns_more_than_the_limit(kind, silent, room):
    estimates, targets = silenced(silent, *noisy_sources(5))
    mixture = targets.sum(2) + room * noisy_sources(6)[0][..., 0]
    estimates.requires_grad_()
    loss, _ = KINDS[kind]()(estimates, targets, mixture=mixture)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(estimates.grad).all()
    if silent != "estimate":
        perfect, _ = KINDS[kind](silent_limit=8)(targets, targets, mixture=mixture)
        assert (perfect >= -8 * 2.3 - 1e-4 if kind == "multi" else perfect >= -8.0001).all()


def test_passing_a_lone_talker_through_pays_no_more_than_the_limit():
    """Without one it pays 30 dB, which taught models to leave an output silent."""
    _, targets = silenced("one-target", *noisy_sources(2))
    unlimited, _ = ThresholdedSnr(silent_limit=None)(targets, targets)
    torch.testing.assert_close(unlimited, torch.full((3,), -30.0), atol=1e-3, rtol=0)
    for loss in (ThresholdedSnr(), SaSdr(), SiSdr()):
        torch.testing.assert_close(loss(targets, targets)[0], torch.full((3,), -5.0))
    # What a silent target's output leaves is its loss, relative to the mixture.
    tenth = targets.roll(1, 2) * 0.1**0.5 + targets
    expected = torch.full((3,), -(10 + 10 - 10 * math.log10(2)) / 2)
    torch.testing.assert_close(ThresholdedSnr(silent_limit=10)(tenth, targets)[0], expected)


class TinySeparator(torch.nn.Module):
    """Masks what a short encoder makes of the mixture."""

    def __init__(self, channels=24, kernel=32):
        super().__init__()
        self.encoder = torch.nn.Conv1d(1, channels, kernel, kernel // 2, bias=False)
        self.masks = torch.nn.Sequential(
            torch.nn.Conv1d(channels, 32, 3, padding=1),
            torch.nn.PReLU(),
            torch.nn.Conv1d(32, 2 * channels, 3, padding=1),
            torch.nn.ReLU(),
        )
        self.decoder = torch.nn.ConvTranspose1d(channels, 1, kernel, kernel // 2, bias=False)

    def forward(self, mixture):
        features = self.encoder(mixture[:, None])
        masked = features[:, None] * self.masks(features).unflatten(1, (2, -1))
        return self.decoder(masked.flatten(0, 1)).view(len(mixture), 2, -1).mT


def two_voices(generator, batch):
    """A low and a high one, ``[batch, 1024, 2]``: noise whose level changes."""
    noise = torch.randn(batch, 2, 1024, generator=generator)
    places = torch.arange(513)
    bands = torch.stack([(places >= 4) & (places < 128), (places >= 128) & (places < 256)])
    levels = torch.rand(batch, 2, 8, generator=generator).repeat_interleave(128, 2)
    return 0.1 * (torch.fft.irfft(torch.fft.rfft(noise) * bands, 1024) * levels).mT


def trained_with_silence(loss, share=0.5, steps=100):
    """SI-SDR of two talkers, and how far one's other output lies below him, dB."""
    torch.manual_seed(0)
    generator, model = torch.Generator().manual_seed(0), TinySeparator()
    optimizer = torch.optim.Adam(model.parameters(), 4e-3)
    for _ in range(steps):
        targets = two_voices(generator, 8)
        for item in range(int(8 * share)):
            targets[item, :, item % 2] = 0
        optimizer.zero_grad()
        loss(model(targets.sum(2)), targets)[0].mean().backward()
        optimizer.step()
    targets = two_voices(torch.Generator().manual_seed(99), 32)
    with torch.no_grad():
        both = -pit_si_sdr_loss(model(targets.sum(2)), targets)[0].mean()
        levels = model(targets[..., 0]).square().sum(1).clamp_min(1e-12).log10() * 10
    return float(both), float((levels.max(1)[0] - levels.min(1)[0]).mean())


@pytest.mark.parametrize("loss", [ThresholdedSnr(), SaSdr()], ids=lambda x: type(x).__name__)
def test_a_training_with_silent_talkers_from_the_first_step_on_does_not_collapse(loss):
    both, below = trained_with_silence(loss)
    assert both > 10
    assert below > 10


def test_without_the_limit_it_does():
    both, _ = trained_with_silence(ThresholdedSnr(silent_limit=None))
    assert both < 0


@every_kind
def test_beyond_the_clamp_there_is_no_gradient(kind):
    _, targets = noisy_sources(9, batch=2)
    noise = noisy_sources(10, batch=2)[1]
    estimates = targets + torch.tensor([1e-3, 0.3])[:, None, None] * noise
    estimates.requires_grad_()
    loss, _ = KINDS[kind](clamp=30)(estimates, targets)
    loss.sum().backward()
    best, usual = loss.tolist()
    weight = 2.3 if kind == "multi" else 1.0
    assert best == pytest.approx(-30 * weight, abs=0.1 if "snr" in kind else 1e-4)
    assert usual > -15 * weight
    if kind != "thresholded_snr":  # its threshold is there before
        assert (estimates.grad[0] == 0).all()
    assert (estimates.grad[1] != 0).any()


@every_kind
def test_what_lies_behind_the_sources_and_in_padding_takes_no_part(kind):
    estimates, targets = noisy_sources(17, batch=2, time=500)
    lengths = torch.tensor([500, 321])
    loss = KINDS[kind]()
    cut, _ = loss(estimates[1:, :321], targets[1:, :321])
    estimates[1, 321:], targets[1, 321:] = float("nan"), 0
    stages = torch.cat([estimates, 5 * targets, targets], 2)
    padded, permutation = loss(stages, targets, lengths)
    torch.testing.assert_close(padded[1:], cut)
    assert permutation.max() < 2
    torch.testing.assert_close(padded[:1], loss(estimates[:1], targets[:1])[0])
    plain, _ = pit_si_sdr_loss(stages, targets, lengths)
    torch.testing.assert_close(plain, pit_si_sdr_loss(estimates, targets, lengths)[0])


@every_kind
def test_float32_outside_autocast_and_inputs_untouched(kind):
    estimates, targets = noisy_sources(13)
    before, loss = (estimates.clone(), targets.clone()), KINDS[kind]()
    expected, _ = loss(estimates, targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, _ = loss(estimates, targets)
    assert value.dtype == torch.float32
    assert torch.equal(value, expected)
    assert torch.equal(estimates, before[0])
    assert torch.equal(targets, before[1])
    half, _ = loss(estimates.half(), targets.half())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, expected, atol=0.05, rtol=0)
    estimates[0, 0, 0] = float("nan")
    assert loss(estimates, targets)[0].isfinite().tolist() == [False, True, True]


def test_a_sum_of_losses_takes_each_as_it_is():
    estimates, targets = silenced("one-target", *noisy_sources(4))
    mixture = targets.sum(2) + noisy_sources(8)[0][..., 0]

    def mine(estimates, targets, lengths=None):
        return torch.arange(3.0), torch.zeros(3, 2)

    total, permutation = MultiLoss(["thresholded_snr", mine], [0.5, 3])(
        estimates, targets, mixture=mixture
    )
    snr, expected = ThresholdedSnr()(estimates, targets, mixture=mixture)
    torch.testing.assert_close(total, 0.5 * snr + 3 * torch.arange(3.0))
    assert torch.equal(permutation, expected)


@given(st.integers(0, 10**6), st.floats(-40, 40))
@settings(max_examples=20, deadline=None)
def test_snr_is_that_of_the_best_order_at_any_level(seed, gain_db):
    """Plain: an estimate at another level is another one, and nothing ends at 30 dB."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randn(2, 300, 2, generator=generator)
    noise = 10 ** (-gain_db / 20) * torch.randn(2, 300, 2, generator=generator)
    estimates = targets.flip(2) + noise
    found, order = LOSSES["snr"]()(estimates, targets)
    for example, (e, t) in enumerate(zip(estimates, targets, strict=True)):
        by_order = {
            places: float(signal_noise_ratio(e.T[[*places]].double(), t.T.double()).mean())
            for places in permutations(range(2))
        }
        best = max(by_order, key=by_order.get)
        assert tuple(order[example].tolist()) == best
        assert -float(found[example]) == pytest.approx(by_order[best], abs=1e-3)


def test_losses_are_found_by_name_and_other_names_are_refused_in_one_line():
    assert find_loss("si_sdr") is pit_si_sdr_loss
    for name in LOSSES:
        loss, _ = find_loss(name)(*noisy_sources(1))
        assert loss.shape == (3,)
    assert find_loss(len) is len
    for wrong in ("sa_sd", "", 3, None, ["sa_sdr"]):
        with pytest.raises(InputError, match="si_sdr, clamped_si_sdr, sa_sdr") as caught:
            find_loss(wrong)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SaSdr(clamp=-1), "SaSdr: clamp=-1"),
        (lambda: SiSdr(silent_limit="low"), "SiSdr: silent_limit=low"),
        (lambda: ThresholdedSnr(snr_max=None), "ThresholdedSnr: snr_max=None"),
        (lambda: MultiLoss(["sa_sdr"], [1, 2]), "2 weights for 1 losses"),
        (lambda: MultiLoss([]), "give each one"),
        (lambda: MultiLoss(["sa_sd"]), "choose one of"),
    ],
)
def test_options_that_make_no_loss_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_a_loss_is_an_object_of_an_hparams_file_too(tmp_path):
    (tmp_path / "a.yaml").write_text(
        "loss: !new:custom_modules.losses.MultiLoss\n"
        "    losses:\n"
        "        - si_sdr\n"
        "        - !new:custom_modules.losses.SaSdr\n"
        "          clamp: 30\n"
        "    weights: [0.2, 0.8]\n"
    )
    loss = load_hparams(tmp_path / "a.yaml", {})["loss"]
    estimates, targets = noisy_sources(1, noise=1e-3)
    (one, _), (other, _) = pit_si_sdr_loss(estimates, targets), SaSdr(30)(estimates, targets)
    torch.testing.assert_close(loss(estimates, targets)[0], 0.2 * one + 0.8 * other)


@pytest.mark.parametrize("loss", [*LOSSES, MultiStageLoss(), MultiLoss(["si_sdr", "sa_sdr"])])
def test_a_loss_that_learns_nothing_from_silence_is_refused_with_it(loss):
    """It is one whose gradient is zero where a target is silent."""
    estimates = torch.randn(1, 900, 2, requires_grad=True)
    targets = torch.stack([torch.randn(1, 900), torch.zeros(1, 900)], dim=2)
    values, permutation = loss_of(find_loss(loss), estimates, targets)
    values.sum().backward()
    learns = bool(estimates.grad[0, :, permutation[0, 1]].any())
    check_loss(loss)
    if learns:
        return check_loss(loss, 0.1)
    with pytest.raises(InputError, match=r"--silent_talker=0.1: the loss learns nothing"):
        check_loss(loss, 0.1)
