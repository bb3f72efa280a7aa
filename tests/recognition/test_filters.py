"""Random filters: gains within their bounds, smooth, of each example its own."""

import pytest
import torch

from custom_modules.recognition.filters import RandomFilter, RandomWarp
from custom_modules.recognition.mini import LogMel

RATE = 8000


def response(filtered, signals):
    """dB at each frequency of an FFT as long as the signals."""
    return 20 * (torch.fft.rfft(filtered).abs() / torch.fft.rfft(signals).abs()).log10()


@pytest.mark.parametrize("length", [1, 2, 7, 8000])
def test_no_gain_changes_nothing(length):
    signals = torch.randn(3, length)
    filtered = RandomFilter(RATE, gain_db=0)(signals)
    torch.testing.assert_close(filtered, signals, atol=1e-6, rtol=1e-5)


def test_gains_are_bounded_smooth_and_of_each_example_their_own():
    torch.manual_seed(1)
    signals = torch.randn(64, 4000, dtype=torch.float64)
    gains = response(RandomFilter(RATE, points=5, gain_db=10)(signals), signals)
    assert gains.abs().max() < 10.001
    assert gains.abs().amax(1).min() > 2  # none is flat
    assert gains.std(0).min() > 2  # nowhere are they alike
    mel = torch.log1p(torch.linspace(0, RATE / 2, 2001) / 700)
    steps = gains.diff(dim=1) / (mel / mel[-1] * 4).diff()
    assert steps.abs().max() < 20.1  # dB from one point to the next


def test_a_tone_is_scaled_alone():
    time = torch.arange(RATE, dtype=torch.float64) / RATE
    tone = (2 * torch.pi * 440 * time).sin()[None]
    filtered = RandomFilter(RATE)(tone)
    gain = filtered[0] @ tone[0] / (tone[0] @ tone[0])
    torch.testing.assert_close(filtered, gain * tone, atol=1e-6, rtol=0)


def tones(hertz):
    """A second of each frequency ``[tones]``, ``[tones, time]``."""
    return (2 * torch.pi * torch.as_tensor(hertz)[:, None] * torch.arange(RATE) / RATE).sin()


def test_a_warp_of_one_changes_nothing():
    features = torch.rand(3, 9, 40)
    torch.testing.assert_close(RandomWarp(RATE, most=1)(features), features, atol=1e-4, rtol=0)


def test_a_warped_tone_is_where_a_tone_of_a_multiple_of_its_frequency_is():
    """Each example at a frequency of its own within the bounds, in all of its frames at one."""
    torch.manual_seed(1)
    features = LogMel(RATE)(tones([1500.0] * 64))[:, 20:80]
    peaks = RandomWarp(RATE, most=1.2)(features).argmax(2)
    assert (peaks == peaks[:, :1]).all()
    bounds = LogMel(RATE)(tones([1500 / 1.2, 1500 * 1.2]))[:, 50].argmax(1)
    assert abs(peaks.min() - bounds[0]) <= 1
    assert abs(peaks.max() - bounds[1]) <= 1
    assert len(peaks.unique()) > 4
