"""Pictures of recordings: their columns are scipy's spectrogram."""

import numpy as np
import pytest
import soundfile as sf
from scipy.signal import stft

from custom_modules.recordings.spectrograms import spectrogram


@pytest.mark.parametrize(("seconds", "hop"), [(0.5, 128), (18.0, 128), (37.0, 246)])
def test_short_recordings_are_drawn_frame_by_frame(tmp_path, seconds, hop):
    """Whole frames of 32 ms, overlapping; half-empty ones would smear tones."""
    path = tmp_path / "a.wav"
    signal = np.random.default_rng(0).normal(scale=0.1, size=round(8000 * seconds))
    signal += 0.5 * np.sin(2 * np.pi * 1000 * np.arange(len(signal)) / 8000)
    sf.write(path, signal, 8000, subtype="DOUBLE")
    levels, length, nyquist = spectrogram(path)
    options = {"nperseg": 256, "noverlap": 256 - hop, "boundary": None}
    _, _, bins = stft(signal, padded=False, **options)
    whole = bins.shape[1]  # the last frame may be filled up with zeros
    expected = 10 * np.log10(np.abs(bins) ** 2 + 1e-12)
    np.testing.assert_allclose(levels[:, :whole], expected, atol=0.05)
    assert levels.shape[1] - whole in (0, 1)
    assert (length, nyquist) == (seconds, 4000)


def test_long_recordings_are_averaged_to_the_width_of_a_picture(tmp_path):
    path = tmp_path / "a.wav"
    rng = np.random.default_rng(0)
    loud = np.r_[np.zeros(8000 * 40), rng.normal(scale=0.1, size=8000 * 40)]
    sf.write(path, loud, 8000)
    levels, _, _ = spectrogram(path)
    assert 1200 <= levels.shape[1] <= 1201
    half = levels.shape[1] // 2
    assert levels[:, : half - 1].max() < -100
    assert levels[:, half + 1 : -1].mean(0).std() < 1.5


def test_a_recording_shorter_than_a_frame_is_one_column(tmp_path):
    path = tmp_path / "a.wav"
    sf.write(path, [0.5], 8000)
    levels, _, _ = spectrogram(path)
    assert levels.shape == (129, 1)
