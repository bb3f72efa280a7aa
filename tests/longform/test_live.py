"""Streams that are separated while they come."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from custom_modules.errors import InputError
from custom_modules.longform.live import LiveSeparation
from tests.longform.conversations import RATE, KnowingModel, converse


def correlations(found, sources):
    return [float(np.corrcoef(a, b)[0, 1]) for a, b in zip(found.T, sources.T, strict=True)]


@pytest.mark.parametrize("seed", range(3))
def test_speakers_keep_their_places_whatever_order_and_sign_chunks_have(seed):
    sources = converse(seed, seconds=40, longest_pause=4.0)
    model = KnowingModel(sources, seed, signs=(1, -1))
    live = LiveSeparation(model, RATE)
    found = torch.cat(list(live.stream(model.mixture.split(777))))
    assert found.shape == sources.shape
    order = [0, 1] if correlations(found, sources)[0] > 0.5 else [1, 0]
    assert min(correlations(found[:, order], sources)) > 0.99


@settings(max_examples=30, deadline=None)
@given(
    time=st.integers(1, 3000),
    block=st.integers(1, 900),
    chunk=st.sampled_from([0.1, 0.37, 1.0]),
    ahead=st.sampled_from([0.0, 0.05, 0.5]),
    context=st.sampled_from([0.0, 0.2, 2.0]),
)
def test_what_comes_out_is_as_long_and_no_later_than_said(time, block, chunk, ahead, context):
    mixture, rate, given_samples, made = torch.randn(time), 1000, 0, 0
    live = LiveSeparation(lambda x: torch.stack([x, x], 2), rate, chunk, ahead, context)

    def come():
        nonlocal given_samples
        for part in mixture.split(block):
            # All that is older than the latency has come out.
            assert made >= given_samples - round(live.latency * rate) - 1
            given_samples += len(part)
            yield part

    parts = []
    for part in live.stream(come()):
        parts.append(part)
        made += len(part)
    assert made == time
    torch.testing.assert_close(torch.cat(parts).sum(1), mixture, atol=1e-4, rtol=1e-4)


def test_a_model_hears_context_chunk_and_look_ahead_and_no_more():
    lengths = []

    def model(x):
        lengths.append(x.shape[1])
        return torch.stack([x, x], 2)

    live = LiveSeparation(model, 1000, 0.5, 0.25, 2.0)
    list(live.stream(torch.randn(6000).split(100)))
    assert max(lengths) == 2750 and lengths[0] == 750


def test_nothing_comes_of_nothing():
    live = LiveSeparation(lambda x: torch.stack([x, x], 2), 1000)
    assert list(live.stream([])) == []


def test_a_value_that_is_no_number_is_told_with_its_time():
    live = LiveSeparation(lambda x: torch.stack([x, x / 0], 2), 1000, 0.5, 0.0)
    with pytest.raises(InputError, match=r"no number after 0\.000 s"):
        list(live.stream([torch.ones(700)]))
