"""Every mixture once and with the same weight, however they are dealt out."""

import math

from hypothesis import given
from hypothesis import strategies as st

from custom_modules.steps import TrainBatches

few = st.integers(1, 4)


class Mixtures:
    """A dataset that has other mixtures in even epochs."""

    def __init__(self, number):
        self.number = number

    def indices_at(self, epoch):
        return list(range(epoch % 2, self.number + epoch % 2))


def steps_of(number, size, processes, accumulation, epoch=1):
    """The mixtures of each step with their weights, over all processes."""
    steps = {}
    for rank in range(processes):
        part = TrainBatches(Mixtures(number), size, 42, rank, processes, accumulation)
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
    assert sorted(m for step in steps for m in step) == Mixtures(number).indices_at(1)
    for step in steps:
        for weight in step.values():
            assert math.isclose(weight, 1 / len(step))


@given(st.integers(1, 30), few, few, few)
def test_all_processes_begin_and_complete_a_step_together(n, size, processes, grouped):
    parts = [
        TrainBatches(Mixtures(n), size, 42, rank, processes, grouped)
        for rank in range(processes)
    ]
    for step in range(1, len(parts[0]) + 1):
        shares = {(p.share(step).first, p.share(step).last) for p in parts}
        last = step % grouped == 0 or step == len(parts[0])
        assert shares == {((step - 1) % grouped == 0, last)}


def test_the_order_changes_with_seed_and_epoch_and_is_repeatable():
    def order(seed, epoch):
        batches = TrainBatches(Mixtures(20), 4, seed)
        batches.set_epoch(epoch)
        return list(batches)

    assert order(1, 3) == order(1, 3)
    assert order(1, 3) != order(1, 5)
    assert order(1, 3) != order(2, 3)
    assert min(min(batch) for batch in order(1, 2)) == 0  # as the dataset says
