"""Rates of single steps: warm-ups, and schedulers that run before each step."""

import inspect
import math

import pytest
import torch
from speechbrain.nnet import schedulers

from custom_modules.checkpoints import AtomicCheckpointer
from custom_modules.errors import InputError
from custom_modules.schedules import (
    CosineDecay,
    check_scheduler,
    rate_after_epoch,
    rate_of_step,
    runs_per_step,
)
from custom_modules.steps import TrainBatches
from tests.test_brain import batch_of, brain_with
from tests.test_steps import Mixtures


def rates_of(brain, batches, accumulation=1):
    """Those of each step that is taken."""
    brain.train_sampler = TrainBatches(Mixtures(batches), 1, 1, accumulation=accumulation)
    rates, real = [], brain.optimizer.step

    def step(*args, **kwargs):
        rates.append(brain.optimizer.param_groups[0]["lr"])
        return real(*args, **kwargs)

    brain.optimizer.step = step
    brain._count_steps()
    for number in range(1, batches + 1):
        brain.step = number
        brain.fit_batch(batch_of(number if number not in brain.bad else -number))
    return rates


def brain_that(bad=(), lr_scheduler=None, epochs=1, **hparams):
    brain = brain_with(patience=9)
    values = {"lr": 0.1, "lr_scheduler": lr_scheduler} | hparams
    for key, value in values.items():
        setattr(brain.hparams, key, value)
    brain.hparams.epoch_counter.limit = epochs
    brain.bad = bad
    return brain


@pytest.mark.parametrize(("batches", "accumulation"), [(6, 1), (12, 2), (17, 3)])
def test_a_warm_up_counts_steps_and_ends_at_the_rate(batches, accumulation):
    rates = rates_of(brain_that(warmup_steps=4), batches, accumulation)
    assert rates == [0.1 * part for part in (0.25, 0.5, 0.75, 1, 1, 1)]


def test_a_dropped_step_is_none():
    rates = rates_of(brain_that(warmup_steps=4, bad=(2, 3)), 6)
    assert rates == [0.1 * part for part in (0.25, 0.5, 0.75, 1)]


def test_without_a_warm_up_the_rate_is_left_alone():
    assert rates_of(brain_that(warmup_steps=0, lr=7.0), 3) == [0.1] * 3
    assert rates_of(brain_with_no_key(), 3) == [0.1] * 3


def brain_with_no_key():
    brain = brain_that()
    del brain.hparams.lr_scheduler
    assert not hasattr(brain.hparams, "warmup_steps")
    return brain


@pytest.mark.parametrize("warmup_steps", [0, 2])
def test_a_cosine_follows_the_warm_up_to_the_last_step(warmup_steps):
    decay = CosineDecay(0.1, final=0.01)
    rates = rates_of(brain_that(lr_scheduler=decay, warmup_steps=warmup_steps), 10)
    left = 10 - warmup_steps
    expected = [0.1 * (n + 1) / 2 for n in range(warmup_steps)]
    for n in range(1, left + 1):
        expected.append(0.001 + (0.1 - 0.001) * (1 + math.cos(math.pi * n / left)) / 2)
    assert rates == pytest.approx(expected, rel=1e-12)
    assert rates[-1] == pytest.approx(0.001)


def test_all_steps_are_those_of_every_epoch_or_of_the_limit():
    for limit, total in ((None, 3 * 4), (7, 7), (100, 3 * 4)):
        decay = CosineDecay(0.1)
        brain = brain_that(lr_scheduler=decay, epochs=3, warmup_steps=2)
        brain.optimizer_step_limit = limit
        rates_of(brain, 7, accumulation=2)
        assert decay.total_steps == total - 2


def test_a_number_of_steps_that_was_given_stays():
    decay = CosineDecay(0.1, total_steps=2)
    rates = rates_of(brain_that(lr_scheduler=decay), 4)
    assert rates == pytest.approx([0.0505, 0.001, 0.001, 0.001])


def test_a_cosine_goes_on_from_its_checkpoint(tmp_path):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    whole = CosineDecay(1.0, total_steps=6)
    expected = [whole(optimizer)[1] for _ in range(6)]
    first, second = (CosineDecay(1.0, total_steps=6) for _ in range(2))
    for _ in range(4):
        first(optimizer)
    AtomicCheckpointer(tmp_path, {"s": first}).save_checkpoint()
    AtomicCheckpointer(tmp_path, {"s": second}).recover_if_possible()
    assert [second(optimizer)[1] for _ in range(2)] == expected[4:]


def test_steps_are_counted_from_the_epoch_where_it_began(tmp_path):
    """As of an imported training, whose earlier epochs had another scheduler."""
    decay = CosineDecay(0.1)
    brain = brain_that(lr_scheduler=decay, epochs=12)
    brain.hparams.epoch_counter.current = 10
    rates = rates_of(brain, 4)
    assert decay.total_steps == 2 * 4
    assert rates[-1] == pytest.approx(0.1 * (0.01 + 0.99 / 2))
    AtomicCheckpointer(tmp_path, {"s": decay}).save_checkpoint()
    again = CosineDecay(0.1)
    AtomicCheckpointer(tmp_path, {"s": again}).recover_if_possible()
    brain = brain_that(lr_scheduler=again, epochs=12)
    brain.hparams.epoch_counter.current = 11
    assert rates_of(brain, 4)[-1] == pytest.approx(0.1 * 0.01)


PER_STEP = {
    "NoamScheduler": (0.1, 4),
    "LinearWarmupScheduler": (0.1, 2, 9),
    "WarmCoolDecayLRSchedule": (0.1, 2, 2, 9),
    "TriStageLRSchedule": (0.1, 2, 2, 2, 9),
    "CyclicCosineScheduler": (2, 0.1, 9),
    "CyclicLRScheduler": (0.01, 0.1, 2),
}
PER_EPOCH = {
    "ReduceLROnPlateau": (),
    "StepScheduler": (0.1, 0.5, 2),
    "LinearScheduler": (0.1, 0.01, 9),
    "NewBobScheduler": (0.1,),
}


@pytest.mark.parametrize("name", PER_STEP)
def test_speechbrains_schedulers_of_steps_do_what_they_do_alone(name):
    make = getattr(schedulers, name)
    alone = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    expected, scheduler = [], make(*PER_STEP[name])
    for step in range(1, 7):
        values = {"opt": alone, "num_updates": step}
        function = getattr(scheduler, "on_batch_end", scheduler)
        function(*[values[name] for name in inspect.signature(function).parameters])
        expected.append(alone.param_groups[0]["lr"])
    assert len(set(expected)) > 1
    assert rates_of(brain_that(lr_scheduler=make(*PER_STEP[name])), 6) == pytest.approx(expected)


@pytest.mark.parametrize("name", PER_EPOCH)
def test_speechbrains_schedulers_of_epochs_do_what_they_do_alone(name):
    make = getattr(schedulers, name)
    ours, alone = (torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1) for _ in range(2))
    scheduler, same = (make(*PER_EPOCH[name]) for _ in range(2))
    assert not runs_per_step(scheduler)
    check_scheduler(scheduler)
    # SI-SDR is positive and negative; NewBob takes what is left over of the energy.
    for epoch, loss in enumerate((3.0, 2.0, -2.5, -2.6, -2.5), start=1):
        rate_after_epoch(scheduler, ours, epoch, loss)
        left = 10 ** (loss / 10)
        arguments = {1: [left if name == "NewBobScheduler" else epoch], 3: [[alone], epoch, loss]}
        _, rate = same(*arguments[len(inspect.signature(same).parameters)])
        schedulers.update_learning_rate(alone, rate)
        assert ours.param_groups[0]["lr"] == alone.param_groups[0]["lr"]


def test_newbob_lowers_the_rate_where_little_is_gained():
    def rates(*si_sdr):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
        scheduler = schedulers.NewBobScheduler(0.1)
        for epoch, value in enumerate(si_sdr, start=1):
            rate_after_epoch(scheduler, optimizer, epoch, -value)
        return optimizer.param_groups[0]["lr"]

    assert rates(5.0, 6.0, 7.0, 8.0) == 0.1
    assert rates(-5.0, -4.0, -3.0) == 0.1
    assert rates(8.0, 7.0, 6.0) < 0.1


@pytest.mark.parametrize("name", [None, *PER_STEP, *PER_EPOCH])
def test_what_a_schedule_has_done_is_kept_in_a_checkpoint(name, tmp_path):
    """Saved in the middle and recovered, it goes on as if nothing had happened."""
    sizes, losses = PER_STEP | PER_EPOCH, (3.0, -1.0, -2.0, -2.0, -2.0)

    def make():
        return name and getattr(schedulers, name)(*sizes[name])

    def go(scheduler, optimizer, places):
        for place in places:
            if runs_per_step(scheduler):
                rate_of_step(scheduler, optimizer, place)
            else:
                rate_after_epoch(scheduler, optimizer, place, losses[place - 1])
        return optimizer.param_groups[0]["lr"]

    one, other = (torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1) for _ in range(2))
    check_scheduler(first := make())
    go(first, one, (1, 2))
    AtomicCheckpointer(tmp_path, {"lr_scheduler": first}).save_checkpoint()
    other.param_groups[0]["lr"] = one.param_groups[0]["lr"]
    second = make()
    AtomicCheckpointer(tmp_path, {"lr_scheduler": second}).recover_if_possible()
    assert go(second, other, (3, 4, 5)) == go(first, one, (3, 4, 5))


def test_what_cannot_be_recovered_is_refused():
    with pytest.raises(InputError, match="cannot be read back"):
        check_scheduler(schedulers.InverseSquareRootScheduler(10))


@pytest.mark.parametrize("own", [lambda: 1, lambda opt, temperature: 1, lambda opt, epoch: 1])
def test_what_asks_for_something_else_is_refused(own):
    with pytest.raises(InputError, match="lr_scheduler: asks for"):
        check_scheduler(own)


def test_none_leaves_the_rate_alone():
    check_scheduler(None)
    assert rates_of(brain_that(lr_scheduler=None), 3) == [0.1] * 3
