"""Cutting segments: no start twice, short recordings joined, positions true."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from custom_modules.corpus import segments
from custom_modules.corpus.sources import Recording, Setup

RATE = 100
LENGTH = 400
SETUP = Setup(Path(), RATE, LENGTH / RATE, seed=1)


class Numbered:
    """A source whose samples say which recording and which position they are."""

    def __init__(self, lengths):
        self.recordings = [
            Recording(f"ada/{n}.wav", "ada", size) for n, size in enumerate(lengths)
        ]

    def read(self, recording, start, length, rate):
        assert rate == RATE
        assert start >= 0
        assert start + length <= recording.samples
        number = self.recordings.index(recording)
        return 10000.0 * (number + 1) + np.arange(start, start + length)


def cut_speech(lengths, turn, rng):
    source = Numbered(lengths)
    return segments.cut_speech(source, source.recordings, SETUP, turn, rng)


@given(
    st.lists(st.integers(1, 900), min_size=1, max_size=5),
    st.integers(0, 10**7),
)
def test_no_start_comes_twice_while_others_are_left(lengths, first_turn):
    rng = np.random.default_rng(0)
    choices = sum(n - LENGTH + 1 if n >= LENGTH else max(1, n // 2) for n in lengths)
    number = min(choices, 60)
    cuts = [cut_speech(lengths, first_turn + turn, rng) for turn in range(number)]
    starts = {(cut.path.split(";")[0], cut.start) for cut in cuts}
    assert len(starts) == number
    assert all(len(cut.samples) == LENGTH for cut in cuts)


def test_long_recording_is_cut_where_the_row_says():
    rng = np.random.default_rng(0)
    for turn in range(50):
        cut = cut_speech([1000, 700], turn, rng)
        number = int(cut.path[4]) + 1
        expected = 10000.0 * number + np.arange(cut.start, cut.end)
        np.testing.assert_array_equal(cut.samples, expected)


@given(st.integers(0, 1000))
def test_short_recordings_are_joined_with_short_gaps(turn):
    cut = cut_speech(
        [90, 110, 100, 120, 130, 95, 105], turn, np.random.default_rng(turn)
    )
    paths = cut.path.split(";")
    assert len(paths) == len(set(paths)) >= 3
    heard = cut.samples[cut.samples > 0]
    order = [f"ada/{int(v // 10000) - 1}.wav" for v in heard]
    assert list(dict.fromkeys(order)) == paths
    assert heard[0] % 10000 == cut.start
    assert heard[-1] % 10000 == cut.end - 1
    gaps = np.diff(np.flatnonzero(cut.samples > 0)) - 1
    assert gaps.max() <= segments.LONGEST_GAP * RATE
    assert sum(gaps > 0) == len(paths) - 1


def test_single_short_recording_is_padded():
    cut = cut_speech([150], 3, np.random.default_rng(0))
    assert cut.path == "ada/0.wav"
    assert np.count_nonzero(cut.samples) == cut.end - cut.start
    assert not cut.samples[cut.end - cut.start :].any()


@pytest.mark.parametrize("size", [1, 399, 400, 401, 1000])
def test_scene_is_cut_or_repeated(size):
    source = Numbered([size])
    for seed in range(20):
        rng = np.random.default_rng(seed)
        cut = segments.cut_stretch(
            source, source.recordings[0], SETUP, rng, repeat=True
        )
        stretch = 10000.0 + np.arange(cut.start, cut.end)
        np.testing.assert_array_equal(cut.samples, np.resize(stretch, LENGTH))
        assert cut.end - cut.start == min(size, LENGTH)


@pytest.mark.parametrize("size", [1, 399, 400, 401, 1000])
def test_event_is_cut_or_placed(size):
    source = Numbered([size])
    offsets = set()
    for seed in range(40):
        rng = np.random.default_rng(seed)
        cut = segments.cut_stretch(
            source, source.recordings[0], SETUP, rng, repeat=False
        )
        heard = cut.samples[cut.samples > 0]
        np.testing.assert_array_equal(heard, 10000.0 + np.arange(cut.start, cut.end))
        offsets.add((cut.start, int(np.flatnonzero(cut.samples)[0])))
    assert len(offsets) > 1 or size == LENGTH


def test_cells_are_seconds():
    cut = segments.Segment(np.zeros(LENGTH), "ada/0.wav", 50, 450)
    assert cut.cells("speech1", RATE) == {
        "speech1OryginalPath": "ada/0.wav",
        "speech1Start": "0.5",
        "speech1End": "4.5",
    }
