"""Who speaks when, on signals whose turns are known."""

import numpy as np
import pytest
import soundfile as sf

from custom_modules.page.speaking import Turn, find_turns, transcript, with_words

RATE = 8000


def write(path, spans, seconds=10, leak=None, leak_db=-20):
    """Noise in some spans of s; and faintly, in the other's."""
    rng = np.random.default_rng(len(spans))
    signal = 1e-5 * rng.normal(size=seconds * RATE)
    for kind, gain in ((spans, 0.1), (leak or [], 0.1 * 10 ** (leak_db / 20))):
        for start, end in kind:
            at = slice(round(start * RATE), round(end * RATE))
            signal[at] += gain * rng.normal(size=len(signal[at]))
    sf.write(path, signal, RATE, subtype="FLOAT")
    return path


FIRST, SECOND = [(0.5, 3), (7, 9.5)], [(2, 6), (6.2, 6.6)]


@pytest.mark.parametrize("leak_db", [-40, -15])
def test_turns_are_found_whatever_leaks(tmp_path, leak_db):
    one = write(tmp_path / "1.wav", FIRST, leak=SECOND, leak_db=leak_db)
    two = write(tmp_path / "2.wav", SECOND, leak=FIRST, leak_db=leak_db)
    turns = find_turns([one, two])
    # A pause of a fifth of a second is bridged.
    assert [turn.speaker for turn in turns] == [0, 1, 0]
    spans = np.array([(turn.start, turn.end) for turn in turns])
    np.testing.assert_allclose(spans, [(0.5, 3), (2, 6.6), (7, 9.5)], atol=0.051)


def test_silence_has_no_turns(tmp_path):
    sf.write(tmp_path / "a.wav", np.zeros(RATE), RATE)
    assert find_turns([tmp_path / "a.wav"] * 2) == []


@pytest.mark.parametrize("frames", [1, 399, 8001])
def test_any_length(tmp_path, frames):
    sf.write(tmp_path / "a.wav", np.full(frames, 0.1), RATE)
    turns = find_turns([tmp_path / "a.wav"])
    assert [turn.start for turn in turns] == ([0.0] if frames > RATE else [])


class Counting:
    """Says how many samples it was given, and how loud they are."""

    def transcribe(self, waveforms, rate):
        assert rate == RATE
        return [f"{len(w)} {'loud' if np.std(w) > 0.05 else 'soft'}" for w in waveforms]


def test_each_turn_is_read_from_its_speakers_file(tmp_path):
    files = [write(tmp_path / "1.wav", FIRST), write(tmp_path / "2.wav", SECOND)]
    shares = []
    turns = with_words(find_turns(files), files, Counting(), shares.append)
    expected = [f"{round((turn.end - turn.start) * RATE)} loud" for turn in turns]
    assert [turn.words for turn in turns] == expected
    assert shares == [0]


def test_the_transcript_names_speakers():
    turns = [Turn(0, 0.4, 2.6, "dzień dobry"), Turn(1, 3599.6, 3601, "tak")]
    text = "0:00–0:03 Ola: dzień dobry\n1:00:00–1:00:01 Jan: tak\n"
    assert transcript(turns, ["Ola", "Jan"]) == text
