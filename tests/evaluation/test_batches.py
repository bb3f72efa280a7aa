"""Batches: one length each, of a size that the selection does not change."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from custom_modules.evaluation.runner import (
    MAX_WAITING,
    Example,
    batches_of_one_length,
    rows_by_length,
)


def entry(samples, environment):
    return {"duration": samples / 8000, "sample_rate": 8000, "environment": environment}


def test_rows_are_as_many_as_the_test_set_can_fill():
    manifest = {"a": entry(100, "indoor"), "b": entry(70, "outdoor")}
    assert rows_by_length(manifest, 8) == {100: 5, 70: 4}
    assert rows_by_length(manifest, 3) == {100: 3, 70: 3}
    assert rows_by_length(manifest | {"c": entry(100, "indoor")}, 8)[100] == 8
    assert rows_by_length(manifest, 1) == {}


@given(
    lengths=st.lists(st.integers(1, 9), max_size=40),
    rows=st.dictionaries(st.integers(1, 9), st.integers(1, 5)),
)
def test_every_example_comes_once_in_a_batch_of_its_length(lengths, rows):
    examples = [
        Example(str(i), "C", torch.full((n,), float(i)), None)
        for i, n in enumerate(lengths)
    ]
    seen = []
    for batch, mixtures in batches_of_one_length(examples, rows):
        seen += [example.id for example in batch]
        assert mixtures.shape == (
            rows.get(mixtures.shape[1], 1),
            len(batch[0].mixture),
        )
        for example, mixture in zip(batch, mixtures, strict=False):
            assert torch.equal(example.mixture, mixture)
    assert sorted(seen, key=int) == [example.id for example in examples]


def test_not_everything_is_held_until_the_end():
    read = []

    def examples():
        for length in range(1, 3 * MAX_WAITING):
            read.append(length)
            yield Example(str(length), "C", torch.ones(length), None)

    rows = dict.fromkeys(range(1, 3 * MAX_WAITING), 2)
    next(batches_of_one_length(examples(), rows))
    assert len(read) == MAX_WAITING
