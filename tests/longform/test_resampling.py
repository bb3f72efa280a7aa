import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from custom_modules.longform import resample_blocks

RATES = [8000, 11025, 16000, 22051, 44100, 48000]


def resample(signal, block, rate, new_rate):
    return torch.cat(list(resample_blocks(signal.split(block, 1), rate, new_rate)), 1)


@settings(max_examples=25)
@given(
    st.sampled_from(RATES),
    st.sampled_from(RATES),
    st.integers(1, 120_000),
    st.integers(1, 60_000),
)
def test_blocks_make_no_difference(rate, new_rate, samples, block):
    block = max(block, samples // 20)
    signal = torch.randn(2, samples, generator=torch.Generator().manual_seed(samples))
    at_once = resample(signal, samples, rate, new_rate)
    assert at_once.shape == (2, -(-samples * new_rate // rate))
    in_blocks = resample(signal, block, rate, new_rate)
    torch.testing.assert_close(in_blocks, at_once, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("rate", "new_rate"), [(44100, 8000), (8000, 48000)])
def test_a_tone_stays_that_tone(rate, new_rate):
    def tone(rate, hertz):
        return torch.sin(2 * torch.pi * hertz * torch.arange(rate) / rate)[None]

    found = resample(tone(rate, 1234.5), 10_000, rate, new_rate)
    inner = slice(new_rate // 10, -new_rate // 10)
    difference = (found - tone(new_rate, 1234.5))[:, inner].abs().max()
    assert difference < 1e-3
    if rate > new_rate:  # nothing above half the new rate comes back as something else
        assert (
            resample(tone(rate, 6000), 10_000, rate, new_rate)[:, inner].abs().max()
            < 1e-3
        )
