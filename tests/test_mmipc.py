"""The draws' laws, and curricula. What a variant cancels is in test_dataio.py."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from custom_modules.errors import InputError
from custom_modules.mmipc import (
    VARIANTS,
    Curriculum,
    draw_fraction,
    draw_variant,
    generator,
    is_target,
    num_sources,
    shuffled,
    variants_of,
)

environments = st.sampled_from(["indoor", "outdoor"])
variant_lists = st.lists(st.sampled_from(VARIANTS), unique=True)


@given(environments, variant_lists, st.integers(), st.integers(0, 10**6), st.text())
def test_draw_is_allowed_exists_and_ignores_order(env, allowed, seed, epoch, name):
    drawn = draw_variant(env, allowed, seed, epoch, name)
    assert drawn == draw_variant(env, reversed(allowed), seed, epoch, name)
    exists = {"indoor": {"SER", "SR", "ER", "R", "C"}, "outdoor": {"SE", "S", "E", "C"}}
    assert (drawn is None) == (not set(allowed) & exists[env])
    assert drawn is None or drawn in set(allowed) & exists[env]


@pytest.mark.parametrize("environment", ["indoor", "outdoor"])
def test_variants_are_equally_likely_and_change_with_epoch_and_seed(environment):
    def draws(seed, epoch):
        return [draw_variant(environment, VARIANTS, seed, epoch, f"mix_{i}") for i in range(4000)]

    first, next_epoch, next_seed = draws(42, 1), draws(42, 2), draws(43, 1)
    existing = len(variants_of(environment))
    for count in Counter(first).values():
        # six standard deviations of a binomial
        assert abs(count - 4000 / existing) < 6 * (4000 / existing) ** 0.5
    for other in (next_epoch, next_seed):
        same = sum(a == b for a, b in zip(first, other, strict=True)) / 4000
        assert abs(same - 1 / existing) < 0.05


def test_draw_never_changes_between_versions():
    """Recorded values: a change would make old experiments irreproducible."""
    names = [f"mix_{i}" for i in range(6)]
    drawn = [draw_variant("indoor", VARIANTS, 42, 1, name) for name in names]
    assert drawn == ["SER", "C", "SR", "ER", "SR", "SER"]
    assert draw_fraction("crop", 42, 1, "mix_0") == 0.2892235270315425
    assert generator(42, "train", 0).integers(1000, size=3).tolist() == [148, 363, 654]
    assert shuffled("abcdef", "voices", 42) == list("fbdeca")


@given(st.tuples(st.integers(), st.text()))
def test_fraction_is_in_the_unit_interval(key):
    assert 0 <= draw_fraction(*key) < 1


@given(st.lists(st.text(), unique=True), st.text())
def test_an_item_more_leaves_the_order_of_the_others(items, more):
    order = shuffled({*items, more}, "order", 1)
    others = [item for item in order if item != more or more in items]
    assert shuffled(reversed(items), "order", 1) == others


def test_nothing_but_a_clean_mixture_of_one_source_is_its_target():
    assert is_target("C", num_sources("ES"))
    assert not is_target("C", num_sources("SB"))
    assert not is_target("S", num_sources("ES"))


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
        ([], "is not a schedule"),
        ("C", "is not a schedule"),
        ([{"epoch": 1}], "entry 1: .* must have epoch and variants"),
        ([entry(1, "C", rate=2)], "entry 1: .* may have lr_scheduler"),
        ([entry("1", "C")], "'1' is not a whole number"),
        ([entry(1, "C"), entry(2, "XX")], "entry 2: variants .*SER"),
        ([entry(1)], "entry 1: variants"),
        ([entry(2, "C")], "must begin with 1"),
        ([entry(1, "C"), entry(1, "R")], "must begin with 1 and rise"),
        ([entry(1, "C", lr_scheduler="stop")], "can only be start"),
        ([entry(e, "C", lr_scheduler="start") for e in (1, 2)], "only once"),
    ],
)
def test_what_is_not_a_schedule_is_refused_in_one_line(schedule, message):
    with pytest.raises(InputError, match=message) as caught:
        Curriculum(schedule)
    assert "\n" not in str(caught.value)
