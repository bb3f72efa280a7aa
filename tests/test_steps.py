"""Steps over accumulated batches, what they are made of, and when they end."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.utils.epoch_loop import EpochCounter

from custom_modules.checkpoints import AtomicCheckpointer
from custom_modules.errors import InputError
from custom_modules.steps import StoppingEpochCounter, TrainBatches
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
    torch.testing.assert_close(parts.modules.separator.weight, whole.modules.separator.weight)
    assert parts.averages.counts["steps"] == whole.averages.counts["steps"] == 3
    assert parts.averages.grad_norm == pytest.approx(whole.averages.grad_norm)


@pytest.mark.parametrize("bad", [0, 1])
def test_a_bad_batch_drops_its_whole_step_as_if_it_had_been_one_batch(bad):
    values = [1, 2, 3, 4]
    values[bad] = -1
    brain = trained([batch_of(v) for v in values], accumulation=2)
    reference = trained([batch_of(3), batch_of(4)], accumulation=2)
    assert torch.equal(brain.modules.separator.weight, reference.modules.separator.weight)
    assert brain.averages.means() == reference.averages.means()
    assert brain.averages.skipped == 1


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
    linear.weight.grad, linear.bias.grad = (torch.full((2, 2), 3.0), torch.full((2,), 4.0))
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
    assert scaled_brain.optimizer_step == 1  # no warm-up goes on without a step
    assert not torch.equal(scaled_brain.modules.separator.weight, before)


def test_gradients_that_no_scale_makes_finite_end_the_run(scaled_brain):
    before = scaled_brain.modules.separator.weight.clone()
    break_gradients(scaled_brain, steps=range(1, 99))
    take_steps(scaled_brain, 4)  # the scale falls to 1, then patience is used up
    with pytest.raises(InputError, match=r"3 batches whose gradient is not finite"):
        take_steps(scaled_brain, 1)
    assert scaled_brain.averages.skipped == 5
    assert torch.equal(scaled_brain.modules.separator.weight, before)


few = st.integers(1, 4)


class Shifted:
    """A dataset that has other mixtures in even epochs."""

    def __init__(self, number):
        self.number = number

    def indices_at(self, epoch):
        return list(range(epoch % 2, self.number + epoch % 2))


def steps_of(number, size, processes, accumulation, epoch=1):
    """The mixtures of each step with their weights, over all processes."""
    steps = {}
    for rank in range(processes):
        part = TrainBatches(Shifted(number), size, 42, rank, processes, accumulation)
        part.set_epoch(epoch)
        batches = list(part)
        assert len(batches) == len(part)
        for step, batch in enumerate(batches, start=1):
            share = part.share(step)
            assert share.mixtures <= len(batch) <= size
            for mixture in batch[: share.mixtures]:
                # The loss is a mean over the batch, gradients one over processes.
                weight = share.weight / len(batch) / processes
                steps.setdefault((step - 1) // accumulation, {})[mixture] = weight
    return [steps[key] for key in sorted(steps)]


@given(st.integers(1, 30), few, few, few)
def test_steps_are_those_of_one_big_batch(number, size, processes, accumulation):
    steps = steps_of(number, size, processes, accumulation)
    whole = steps_of(number, size * processes * accumulation, 1, 1)
    assert [set(step) for step in steps] == [set(step) for step in whole]
    assert sorted(m for step in steps for m in step) == Shifted(number).indices_at(1)
    for step in steps:
        for weight in step.values():
            assert math.isclose(weight, 1 / len(step))


@given(st.integers(1, 30), few, few, few)
def test_all_processes_begin_and_complete_a_step_together(n, size, processes, grouped):
    parts = [
        TrainBatches(Shifted(n), size, 42, rank, processes, grouped) for rank in range(processes)
    ]
    for step in range(1, len(parts[0]) + 1):
        shares = {(p.share(step).first, p.share(step).last) for p in parts}
        last = step % grouped == 0 or step == len(parts[0])
        assert shares == {((step - 1) % grouped == 0, last)}


def test_the_order_changes_with_seed_and_epoch_and_is_repeatable():
    def order(seed, epoch):
        batches = TrainBatches(Shifted(20), 4, seed)
        batches.set_epoch(epoch)
        return list(batches)

    assert order(1, 3) == order(1, 3)
    assert order(1, 3) != order(1, 5)
    assert order(1, 3) != order(2, 3)
    assert min(min(batch) for batch in order(1, 2)) == 0  # as the dataset says


def epochs_run(counter, values, checkpointer=None, until=99):
    for epoch in counter:
        counter.update_metric(values[epoch - 1])
        if checkpointer is not None:
            checkpointer.save_and_keep_only(importance_keys=[])
        if epoch == until:
            break
    return counter.current


@pytest.mark.parametrize(
    ("values", "patience", "warmup", "last"),
    [
        ([1.0, 2.0, 1.5, 1.9, 3.0], 2, 0, 4),
        ([-9.0, -8.0, -8.5, -8.1, -7.0], 3, 0, 5),  # below 0 dB, too
        ([5.0, 5.0, 5.0, 5.0, 5.0], 2, 0, 3),  # SpeechBrain's would go on for ever
        ([9.0, 8.0, 1.0, 2.0, 1.0], 2, 3, 5),  # the warm-up is forgotten
        ([9.0, 8.0, -float("inf"), 2.0, 3.0], 2, 2, 5),  # a failed epoch is not five
        ([5.0, 4.0, 3.0, 2.0, 1.0], None, 0, 5),
    ],
)
def test_it_stops_where_a_count_by_hand_does(tmp_path, values, patience, warmup, last):
    assert epochs_run(StoppingEpochCounter(5, patience, warmup), values) == last
    for killed_after in range(1, last):
        folder = tmp_path / str(killed_after)
        counters = [StoppingEpochCounter(5, patience, warmup) for _ in range(2)]
        checkpointers = [AtomicCheckpointer(folder, {"c": c}) for c in counters]
        epochs_run(counters[0], values, checkpointers[0], until=killed_after)
        checkpointers[1].recover_if_possible()
        assert epochs_run(counters[1], values) == last


def test_more_patience_lets_a_stopped_training_go_on(tmp_path):
    values = [5.0, 4.0, 3.0, 6.0, 7.0]
    first = StoppingEpochCounter(5, patience=2)
    epochs_run(first, values, AtomicCheckpointer(tmp_path, {"c": first}))
    assert first.current == 3
    for patience, last in ((2, 3), (3, 5)):
        again = StoppingEpochCounter(5, patience)
        AtomicCheckpointer(tmp_path, {"c": again}).recover_if_possible()
        assert epochs_run(again, values) == last


def test_checkpoints_of_a_counter_that_does_not_stop_are_read(tmp_path):
    plain = EpochCounter(9)
    next(plain)
    AtomicCheckpointer(tmp_path, {"c": plain}).save_checkpoint()
    counter = StoppingEpochCounter(9, patience=2)
    AtomicCheckpointer(tmp_path, {"c": counter}).recover_if_possible()
    assert next(counter) == 2
