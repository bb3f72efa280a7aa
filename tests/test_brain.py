"""What the Brain adds to SpeechBrain's: averages, and batches that are dropped."""

import pytest
import torch
from speechbrain import Stage
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.utils.epoch_loop import EpochCounter

from custom_modules.brain import Separation, _add_to
from custom_modules.errors import InputError
from custom_modules.losses import find_loss
from custom_modules.objectives import pit_si_sdr_loss, si_sdr
from custom_modules.training_log import Averages


class Bend(torch.nn.Module):
    """Bends each sample, and so sees nothing of padding."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([1.0, 0.2]))

    def forward(self, mixture):
        return torch.tanh(mixture[..., None] * self.weight)


def batch_of(values):
    """A batch of one mixture of two sources; NaN if asked for."""
    generator = torch.Generator().manual_seed(int(values * 10))
    targets = torch.randn(300, 2, generator=generator)
    mixture = targets.sum(1) * (float("nan") if values < 0 else 1)
    return PaddedBatch([{"id": "x", "variant": "C", "mixture": mixture, "targets": targets}])


def brain_with(patience=1, loss=pit_si_sdr_loss, separator=None, freeze=None, **options):
    hparams = {"seed": 1, "nonfinite_patience": patience, "loss": loss, "freeze": freeze}
    hparams["separator"] = separator or Bend()
    brain = Separation(
        {"separator": hparams["separator"]},
        lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        hparams | {"epoch_counter": EpochCounter(1)},
        {"device": "cpu", "noprogressbar": True, **options},
    )
    brain.init_optimizers()
    brain.epoch, brain.nonfinite_count = 1, 0
    brain.averages = Averages()
    return brain


def test_a_bad_batch_never_touches_weights_or_averages():
    brain, reference = brain_with(), brain_with()
    for values in (1, -1, 2):
        brain.step += 1
        brain.fit_batch(batch_of(values))
    for values in (1, 2):
        reference.step += 1
        reference.fit_batch(batch_of(values))
    assert torch.equal(brain.modules.separator.weight, reference.modules.separator.weight)
    assert brain.averages.skipped == 1
    assert brain.averages.mixtures == 2
    assert brain.averages.means() == reference.averages.means()


def test_a_gradient_that_is_not_finite_changes_nothing_either():
    brain = brain_with()
    before = brain.modules.separator.weight.clone()
    # The loss is finite, its derivative is not.
    brain.modules.separator.weight.register_hook(lambda g: g * float("inf"))
    brain.step += 1
    brain.fit_batch(batch_of(1))
    assert torch.equal(brain.modules.separator.weight, before)
    assert brain.averages.skipped == 1
    assert brain.modules.separator.weight.grad is None


def test_patience_ends_the_run_with_a_remedy_and_whole_weights():
    brain = brain_with(patience=2)
    before = brain.modules.separator.weight.clone()
    for _ in range(2):
        brain.fit_batch(batch_of(-1))
    with pytest.raises(InputError, match=r"3 batches .* lower --lr"):
        brain.fit_batch(batch_of(-1))
    assert torch.equal(brain.modules.separator.weight, before)


def test_averages_are_means_over_mixtures_with_audible_targets():
    brain = brain_with()
    expected = []
    for values in (1, 2, 3):
        batch = batch_of(values)
        if values == 3:
            batch.targets.data[..., 1] = 0
        outputs = brain.compute_forward(batch, None)
        brain.compute_objectives(outputs, batch, None)
        _add_to(brain.averages, batch, outputs)
        if values < 3:
            mixture, targets = batch.mixture.data, batch.targets.data
            loss, _ = pit_si_sdr_loss(Bend()(mixture), targets)
            gain = -loss - si_sdr(mixture[..., None].expand(-1, -1, 2), targets).mean(1)
            expected.append((-loss.item(), gain.item()))
    scores, gains = zip(*expected, strict=True)
    averages = brain.averages.means()
    assert averages["si_sdr"] == pytest.approx(sum(scores) / 2, abs=1e-4)
    assert averages["si_sdri"] == pytest.approx(sum(gains) / 2, abs=1e-4)


def test_padding_changes_no_loss():
    short, long = batch_of(1), batch_of(2)
    items = [
        {"id": "x", "mixture": b.mixture.data[0], "targets": b.targets.data[0]}
        for b in (short, long)
    ]
    items[0] = {k: v[:200] if k != "id" else v for k, v in items[0].items()}
    brain = brain_with()

    def loss_of(items):
        batch = PaddedBatch(items)
        outputs = brain.compute_forward(batch, None)
        brain.compute_objectives(outputs, batch, None)
        return outputs["si_sdr"]

    alone = torch.cat([loss_of(items[:1]), loss_of(items[1:])])
    torch.testing.assert_close(loss_of(items), alone, atol=1e-4, rtol=0)


def half_and_a_thousand(estimates, targets, lengths=None):
    loss, permutation = pit_si_sdr_loss(estimates, targets, lengths)
    return 0.5 * loss + 1000, permutation


def test_the_score_is_not_the_loss():
    ours, other = brain_with(), brain_with(loss=half_and_a_thousand)
    for brain in (ours, other):
        for values in (1, 2, 3):
            brain.step += 1
            loss = brain.fit_batch(batch_of(values))
    assert other.averages.means()["si_sdr"] < 50
    assert loss > 900
    # At the first step, before the weights part: the same score, half the gradient.
    ours, other = brain_with(), brain_with(loss=half_and_a_thousand)
    for brain in (ours, other):
        brain.step += 1
        brain.fit_batch(batch_of(1))
    assert other.averages.means() == ours.averages.means()
    assert other.averages.grad_norm == pytest.approx(ours.averages.grad_norm / 2)
    for brain in (ours, other):
        brain.modules.separator = Bend()
        brain.averages = Averages()
        brain.evaluate_batch(batch_of(2), Stage.VALID)
    assert other.averages.means() == ours.averages.means()


def test_a_loss_gets_float32_outside_autocast():
    seen = []

    def loss(estimates, targets, lengths):
        seen.append((estimates.dtype, torch.is_autocast_enabled("cpu")))
        return pit_si_sdr_loss(estimates, targets, lengths)

    brain = brain_with(loss=loss, precision="bf16")
    brain.step += 1
    brain.fit_batch(batch_of(1))
    assert seen == [(torch.float32, False)]


@pytest.mark.parametrize("most", [0, 1e9])
def test_without_a_limit_nothing_is_clipped(most):
    brain, reference = brain_with(max_grad_norm=most), brain_with(max_grad_norm=1e9)
    before = brain.modules.separator.weight.clone()
    for trained in (brain, reference):
        trained.step += 1
        trained.fit_batch(batch_of(1))
    assert not torch.equal(brain.modules.separator.weight, before)
    assert torch.equal(brain.modules.separator.weight, reference.modules.separator.weight)


class Levelled(torch.nn.Module):
    """Of a level that all samples share, as models with norms over time have it."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, mixture):
        level = mixture.square().mean(1, keepdim=True).sqrt()
        return self.weight * torch.stack([mixture / level, (mixture / level).abs()], dim=2)


def test_validation_does_not_depend_on_batch_mates():
    generator = torch.Generator().manual_seed(3)
    items = []
    for length in (300, 900, 450):
        targets = torch.randn(length, 2, generator=generator)
        items.append({"id": "x", "variant": "C", "mixture": targets.sum(1), "targets": targets})
    brain = brain_with(separator=Levelled())
    brain.modules.eval()
    together = brain.compute_forward(PaddedBatch(items), Stage.VALID)["estimates"]
    for row, item in zip(together, items, strict=True):
        alone = brain.compute_forward(PaddedBatch([item]), Stage.VALID)["estimates"]
        torch.testing.assert_close(row[: alone.shape[1]], alone[0])


def test_scores_hold_no_graph_whatever_the_loss():
    brain = brain_with(loss=find_loss("snr"))
    for values in (1, 2):
        brain.step += 1
        brain.fit_batch(batch_of(values))
    assert not brain.averages.scores.requires_grad
