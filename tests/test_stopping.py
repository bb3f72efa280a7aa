"""When training stops, against a count by hand; also across a resume."""

import pytest
from speechbrain.utils.epoch_loop import EpochCounter

from custom_modules.checkpoints import AtomicCheckpointer
from custom_modules.errors import InputError
from custom_modules.steps import StoppingEpochCounter


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


@pytest.mark.parametrize(
    ("patience", "warmup", "message"),
    [
        (0, 0, "--early_stopping_patience=0"),
        ("ten", 0, "--early_stopping_patience=ten"),
        (True, 0, "--early_stopping_patience=True"),
        (2, -1, "--early_stopping_warmup=-1"),
        (2, None, "--early_stopping_warmup=None"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(patience, warmup, message):
    with pytest.raises(InputError, match=message):
        StoppingEpochCounter(9, patience, warmup)
