"""Which variants an epoch draws from, and what is no schedule."""

import pytest

from custom_modules.errors import InputError
from custom_modules.mmipc import VARIANTS, Curriculum


def entry(epoch, *variants, **more):
    return {"epoch": epoch, "variants": list(variants), **more}


def test_each_entry_is_valid_until_the_next():
    curriculum = Curriculum([entry(1, "C"), entry(2, "R", "C"), entry(7, "SER")])
    seen = [set(curriculum.variants_at(epoch)) for epoch in range(1, 9)]
    assert seen == [{"C"}, *[{"C", "R"}] * 5, {"SER"}, {"SER"}]
    assert set(curriculum.all_variants()) == {"C", "R", "SER"}


def test_train_variants_restrict_every_entry():
    curriculum = Curriculum([entry(1, "C", "R"), entry(3, *VARIANTS)], ["C", "SE"])
    assert curriculum.variants_at(1) == ("C",)
    assert set(curriculum.variants_at(3)) == {"C", "SE"}
    with pytest.raises(InputError, match=r"epoch 1 has none .*--curriculum=null"):
        Curriculum([entry(1, "C"), entry(3, "SE")], ["SE"])


def test_without_a_schedule_everything_is_trained_on_at_once():
    curriculum = Curriculum(None, ["SER", "SE"])
    assert set(curriculum.variants_at(1)) == {"SER", "SE"}
    assert curriculum.scheduler_runs_at(1)


def test_the_scheduler_waits_for_the_entry_that_starts_it():
    waiting = Curriculum([entry(1, "C"), entry(4, "R", lr_scheduler="start")])
    assert [waiting.scheduler_runs_at(e) for e in (1, 3, 4, 9)] == [0, 0, 1, 1]
    assert Curriculum([entry(1, "C"), entry(4, "R")]).scheduler_runs_at(1)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ([], "no schedule"),
        ("C", "no schedule"),
        ([{"epoch": 1}], "entry 1: .* must have epoch and variants"),
        ([entry(1, "C", rate=2)], "entry 1: .* may have lr_scheduler"),
        ([entry("1", "C")], "'1' is no whole number"),
        ([entry(1, "C"), entry(2, "XX")], "entry 2: variants .*SER"),
        ([entry(1)], "entry 1: variants"),
        ([entry(2, "C")], "must begin with 1"),
        ([entry(1, "C"), entry(1, "R")], "must begin with 1 and rise"),
        ([entry(1, "C", lr_scheduler="stop")], "can only be start"),
        ([entry(e, "C", lr_scheduler="start") for e in (1, 2)], "only once"),
    ],
)
def test_what_is_no_schedule_is_refused_in_one_line(schedule, message):
    with pytest.raises(InputError, match=message) as caught:
        Curriculum(schedule)
    assert "\n" not in str(caught.value)
