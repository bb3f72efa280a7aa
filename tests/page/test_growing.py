"""Wav files that grow: another library reads what was written."""

import io

import numpy as np
import soundfile as sf
from hypothesis import given
from hypothesis import strategies as st

from custom_modules.page.growing import Track


@given(st.lists(st.integers(0, 50), max_size=8), st.integers(8000, 48_000))
def test_what_was_written_is_what_is_read(tmp_path_factory, lengths, rate):
    signal = np.random.default_rng(0).uniform(-1.5, 1.5, sum(lengths))
    track = Track(tmp_path_factory.mktemp("tracks") / "a.wav", rate, len(signal))
    for part in np.split(signal, np.cumsum(lengths)[:-1]) if lengths else []:
        before = track.ready
        track.write(part)
        assert track.ready == before + 2 * len(part)
    track.finish()
    read, its_rate = sf.read(io.BytesIO(track.read(0, track.size)))
    assert (its_rate, track.path.stat().st_size) == (rate, track.size)
    np.testing.assert_allclose(read, np.clip(signal, -1, 1), atol=1e-4)


def test_what_does_not_come_is_silence_and_what_is_too_much_is_left_out(tmp_path):
    track = Track(tmp_path / "a.wav", 8000, 5)
    track.write(np.ones(2))
    assert sf.info(track.path).samplerate == 8000
    assert track.read(44, 99) == np.full(2, 32767, "<i2").tobytes()
    assert track.read(48, 99) == b""
    track.finish()
    track.write(np.ones(3))
    np.testing.assert_allclose(sf.read(track.path)[0], [1, 1, 0, 0, 0], atol=1e-4)
