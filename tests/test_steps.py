"""Steps over accumulated batches: what one big batch would do, or nothing."""

import pytest
import torch
from speechbrain.dataio.batch import PaddedBatch
from torch._dynamo.exc import TorchDynamoException

from custom_modules.distributed import explained_failures
from custom_modules.errors import InputError
from custom_modules.steps import TrainBatches
from custom_modules.training_log import Averages
from tests.test_brain import batch_of, brain_with


class Mixtures:
    """As many as asked for."""

    def __init__(self, number):
        self.number = number

    def indices_at(self, epoch):
        return list(range(self.number))


def trained(batches, accumulation, size=1):
    """A brain that took these batches; the number of mixtures is theirs."""
    brain = brain_with(patience=5)
    mixtures = Mixtures(sum(len(batch) for batch in batches))
    brain.train_sampler = TrainBatches(mixtures, size, 1, accumulation=accumulation)
    for batch in batches:
        brain.step += 1
        brain.fit_batch(batch)
    return brain


def joined(*values):
    items = []
    for value in values:
        batch = batch_of(value)
        item = {"id": "x", "variant": "C", "mixture": batch.mixture.data[0]}
        items.append(item | {"targets": batch.targets.data[0]})
    return PaddedBatch(items)


def test_an_incomplete_group_weighs_as_its_mixtures_do():
    parts = trained([batch_of(v) for v in (1, 2, 3, 4, 5)], accumulation=2)
    whole = trained([joined(1, 2), joined(3, 4), joined(5)], accumulation=1, size=2)
    torch.testing.assert_close(
        parts.modules.separator.weight, whole.modules.separator.weight
    )
    assert parts.averages.counts["steps"] == whole.averages.counts["steps"] == 3
    assert parts.averages.grad_norm == pytest.approx(whole.averages.grad_norm)


@pytest.mark.parametrize("bad", [0, 1])
def test_a_bad_batch_drops_its_whole_step_as_if_it_had_been_one_batch(bad):
    values = [1, 2, 3, 4]
    values[bad] = -1
    brain = trained([batch_of(v) for v in values], accumulation=2)
    reference = trained([batch_of(3), batch_of(4)], accumulation=2)
    assert torch.equal(
        brain.modules.separator.weight, reference.modules.separator.weight
    )
    assert brain.averages.means() == reference.averages.means()
    assert brain.averages.skipped == 1


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), "--batch_size=3 --grad_accum"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "batch_size 6"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"), "--segment_seconds=1"),
        (
            TorchDynamoException("no backend"),
            "torch.compile fails .* without --compile",
        ),
        (torch.distributed.DistNetworkError("reset"), "another process"),
        (RuntimeError("[gloo] Connection closed by peer [::1]"), "another process"),
    ],
)
def test_what_ends_a_training_is_told_in_one_line(error, message):
    sizes = {"batch_size": 6, "segment_seconds": 2.0, "grad_accumulation_factor": 1}
    with pytest.raises(InputError, match=message) as caught, explained_failures(sizes):
        raise error
    assert "\n" not in str(caught.value)
    with pytest.raises(RuntimeError, match="a bug"), explained_failures(sizes):
        raise RuntimeError("a bug")


def test_every_group_of_the_optimiser_is_clipped():
    """All together: mamba's spared parameters are a group of their own."""
    linear = torch.nn.Linear(2, 2)
    brain = brain_with(max_grad_norm=1.0)
    brain.modules = torch.nn.ModuleDict({"separator": linear})
    brain.opt_class = lambda _: torch.optim.SGD(
        [{"params": [linear.weight]}, {"params": [linear.bias]}], lr=1.0
    )
    brain.init_optimizers()
    brain.step_averages = Averages()
    before = [p.detach().clone() for p in (linear.weight, linear.bias)]
    linear.weight.grad, linear.bias.grad = (
        torch.full((2, 2), 3.0),
        torch.full((2,), 4.0),
    )
    brain.optimizers_step()
    steps = [a - b for a, b in zip(before, (linear.weight, linear.bias), strict=True)]
    norm = (4 * 9 + 2 * 16) ** 0.5
    torch.testing.assert_close(steps[0], torch.full((2, 2), 3 / norm))
    torch.testing.assert_close(steps[1], torch.full((2,), 4 / norm))


@pytest.fixture
def scaled_brain():
    """As in fp16: the loss is scaled by 4, which the scaler may halve twice."""
    brain = brain_with(patience=2)
    brain.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    return brain


def break_gradients(brain, steps):
    """Makes the gradients of these steps NaN; the loss stays finite."""
    brain.modules.separator.weight.register_hook(
        lambda gradient: gradient * (float("nan") if brain.step in steps else 1)
    )


def take_steps(brain, number):
    for _ in range(number):
        brain.step += 1
        brain.fit_batch(batch_of(brain.step))


def test_the_scaler_backs_off_and_what_it_leaves_out_is_counted(scaled_brain):
    before = scaled_brain.modules.separator.weight.clone()
    break_gradients(scaled_brain, steps={1, 2})
    take_steps(scaled_brain, 2)
    assert torch.equal(scaled_brain.modules.separator.weight, before)
    assert scaled_brain.scaler.get_scale() == 1.0
    assert scaled_brain.averages.skipped == 2
    assert scaled_brain.nonfinite_count == 0  # no fault of the gradient's
    take_steps(scaled_brain, 1)
    assert scaled_brain.averages.counts["steps"] == 1
    assert not torch.equal(scaled_brain.modules.separator.weight, before)


def test_gradients_that_no_scale_makes_finite_end_the_run(scaled_brain):
    before = scaled_brain.modules.separator.weight.clone()
    break_gradients(scaled_brain, steps=range(1, 99))
    take_steps(scaled_brain, 4)  # the scale falls to 1, then patience is used up
    with pytest.raises(InputError, match=r"3 batches whose gradient is not finite"):
        take_steps(scaled_brain, 1)
    assert scaled_brain.averages.skipped == 5
    assert torch.equal(scaled_brain.modules.separator.weight, before)
