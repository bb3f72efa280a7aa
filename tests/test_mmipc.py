"""The draw's laws. What a variant cancels is tested on audio, in test_dataio.py."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from custom_modules.mmipc import VARIANTS, draw_fraction, draw_variant, variants_of

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
        return [
            draw_variant(environment, VARIANTS, seed, epoch, f"mix_{i}")
            for i in range(4000)
        ]

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


@given(st.tuples(st.integers(), st.text()))
def test_fraction_is_in_the_unit_interval(key):
    assert 0 <= draw_fraction(*key) < 1
