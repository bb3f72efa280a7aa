"""Reading anything, writing 16 bit, streams at another rate."""

import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from custom_modules import audio
from custom_modules.errors import InputError
from tests.corpus.recordings import write


def sine(frequency, seconds, rate):
    return 0.5 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)


@pytest.mark.parametrize(
    ("name", "rate", "tolerance"),
    [
        ("a.wav", 44100, 1e-2),
        ("a.flac", 16000, 1e-2),
        ("a.ogg", 44100, 5e-2),
        ("a.mp3", 22050, 5e-2),
        ("a.wav", 8000, 1e-3),
    ],
)
def test_reads_any_format_at_the_wanted_rate(tmp_path, name, rate, tolerance):
    path = write(tmp_path / name, sine(440, 2.0, rate), rate)
    samples = audio.read_span(path, 4000, 8000, 8000)
    # The phase of a codec's delay is its own affair; the level is not.
    window = samples[800:-800] * np.hanning(6400)
    spectrum = np.abs(np.fft.rfft(window)) / 1600
    assert np.argmax(spectrum) == round(440 * 6400 / 8000)
    assert spectrum.max() == pytest.approx(0.5, abs=tolerance)


def test_span_is_cut_where_it_was_asked_for(tmp_path):
    path = write(tmp_path / "a.wav", sine(440, 2.0, 44100), 44100)
    whole = audio.read_span(path, 0, 16000, 8000)
    np.testing.assert_allclose(whole[200:-200], sine(440, 2.0, 8000)[200:-200], atol=1e-3)
    part = audio.read_span(path, 4000, 4410, 8000)
    np.testing.assert_allclose(part[100:-100], whole[4100:8310], atol=1e-3)


def test_stereo_becomes_its_mean(tmp_path):
    left, right = sine(300, 0.1, 8000), 0.2 * sine(500, 0.1, 8000)
    path = write(tmp_path / "a.wav", np.stack([left, right], 1), 8000, subtype="FLOAT")
    np.testing.assert_allclose(audio.read_span(path, 0, 800, 8000), (left + right) / 2, atol=1e-7)


def test_resampling_does_not_alias():
    above = audio.resample(sine(6000, 1.0, 44100), 44100, 8000)
    below = audio.resample(sine(1000, 1.0, 44100), 44100, 8000)
    assert audio.rms(above[400:-400]) < 1e-3 * audio.rms(below[400:-400])


def test_past_the_end_there_is_silence(tmp_path):
    path = write(tmp_path / "a.wav", np.full(100, 0.5), 8000)
    samples = audio.read_span(path, 50, 100, 8000)
    assert samples[:50] == pytest.approx(0.5)
    assert not samples[50:].any()


@given(st.lists(st.floats(-2, 2), min_size=1, max_size=50))
def test_quantised_samples_read_back_within_half_a_step(tmp_path_factory, values):
    samples = audio.limit(np.array(values))
    path = tmp_path_factory.mktemp("wav") / "a.wav"
    audio.write_pcm16(path, audio.quantise(samples), 8000)
    read, _ = soundfile.read(path)
    assert np.abs(read - np.clip(values, -0.999, 0.999)).max() <= 0.5 / 32768
    assert soundfile.info(path).subtype == "PCM_16"


@pytest.mark.parametrize(
    "content", [b"", b"RIFF", b"no sound at all" * 100], ids=["empty", "cut", "text"]
)
def test_unreadable_recordings_are_named(tmp_path, content):
    path = tmp_path / "bad.wav"
    path.write_bytes(content)
    for read in (audio.read_header, lambda p: audio.read_span(p, 0, 1, 8000)):
        with pytest.raises(InputError, match=r"bad\.wav"):
            read(path)


@pytest.mark.parametrize("suffix", ["flac", "ogg", "wav"])
def test_truncated_recordings_are_found_or_shorter(tmp_path, suffix):
    path = write(tmp_path / f"a.{suffix}", sine(440, 4.0, 8000), 8000)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    try:
        seconds, _ = audio.read_header(path)
    except InputError as error:
        assert "a." in str(error)
    else:
        assert seconds < 3.0
        assert np.isfinite(audio.read_span(path, 0, round(seconds * 8000), 8000)).all()


def test_a_folder_is_no_recording(tmp_path):
    with pytest.raises(InputError):
        audio.read_header(tmp_path)


def test_recording_without_samples_is_refused(tmp_path):
    path = write(tmp_path / "none.wav", np.zeros(0), 8000)
    with pytest.raises(InputError, match="empty or cut off"):
        audio.read_header(path)


def test_samples_that_are_not_finite_are_refused(tmp_path):
    samples = np.array([0.0, np.nan, 0.0])
    path = write(tmp_path / "nan.wav", samples, 8000, subtype="FLOAT")
    with pytest.raises(InputError, match="finite"):
        audio.read_span(path, 0, 3, 8000)


def test_activity_follows_the_loudest_frame():
    loud, faint, quiet = 0.5, 0.5 * 10 ** (-39 / 20), 0.5 * 10 ** (-41 / 20)
    samples = np.repeat([loud, faint, quiet, 0.0], 160)
    assert audio.active_frames(samples, 8000).tolist() == [True, True, False, False]
    assert not audio.active_frames(np.zeros(800), 8000).any()


def test_levels_and_padding():
    assert audio.from_db(20) == 10.0
    assert audio.rms(np.array([1.0, -1.0])) == 1.0
    assert audio.limit(np.array([0.5, -2.0])).tolist() == [0.5, -0.999]
    assert audio.fit(np.ones(3), 2).tolist() == [1, 1]
    assert audio.fit(np.ones(2), 3).tolist() == [1, 1, 0]
    assert audio.quantise(np.array([0.5, -0.999])).tolist() == [16384, -32735]


def test_blocks_are_all_of_a_file(tmp_path):
    samples = np.random.default_rng(0).normal(size=(2500, 2)).astype("float32")
    path = write(tmp_path / "a.wav", samples, 1000, subtype="FLOAT")
    with audio.open_audio(path) as file:
        blocks = list(audio.read_blocks(file, seconds=1))
    assert [block.shape for block in blocks] == [(2, 1000), (2, 1000), (2, 500)]
    np.testing.assert_array_equal(np.concatenate(blocks, axis=1), samples.T)


def test_a_layer_that_has_changed_is_named(tmp_path):
    path = write(tmp_path / "a.wav", np.full(100, 0.5), 8000)
    assert audio.read_layer(path, 50, 50).tolist() == [0.5] * 50
    with pytest.raises(InputError, match=r"a\.wav: not as it was prepared"):
        audio.read_layer(path, 51, 50)
    with pytest.raises(InputError, match=r"b\.wav: cannot be read .*prepare again"):
        audio.read_layer(tmp_path / "b.wav", 0, 50)
    os.mkfifo(tmp_path / "c.wav")
    with pytest.raises(InputError, match=r"c\.wav: cannot be read \(is a pipe\); prepare again"):
        audio.read_layer(tmp_path / "c.wav", 0, 50)


RATES = [8000, 11025, 16000, 22051, 44100, 48000]


def resample_in_blocks(signal, block, rate, new_rate):
    blocks = np.split(signal, range(block, signal.shape[1], block), axis=1)
    return np.concatenate(list(audio.resample_blocks(blocks, rate, new_rate)), axis=1)


@settings(max_examples=25)
@given(
    st.sampled_from(RATES), st.sampled_from(RATES), st.integers(1, 120_000), st.integers(1, 60_000)
)
def test_blocks_make_no_difference(rate, new_rate, samples, block):
    block = max(block, samples // 20)
    signal = np.random.default_rng(samples).normal(size=(2, samples)).astype("float32")
    at_once = resample_in_blocks(signal, samples, rate, new_rate)
    assert at_once.shape == (2, -(-samples * new_rate // rate))
    in_blocks = resample_in_blocks(signal, block, rate, new_rate)
    np.testing.assert_allclose(in_blocks, at_once, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("rate", "new_rate"), [(44100, 8000), (8000, 48000)])
def test_a_tone_stays_that_tone(rate, new_rate):
    def tone(rate, hertz):
        return np.sin(2 * np.pi * hertz * np.arange(rate) / rate)[None]

    found = resample_in_blocks(tone(rate, 1234.5), 10_000, rate, new_rate)
    inner = slice(new_rate // 10, -new_rate // 10)
    assert np.abs(found - tone(new_rate, 1234.5))[:, inner].max() < 1e-3
    if rate > new_rate:  # nothing above half the new rate comes back as something else
        above = resample_in_blocks(tone(rate, 6000), 10_000, rate, new_rate)
        assert np.abs(above[:, inner]).max() < 1e-3


def test_samples_are_read_without_torch():
    code = "import custom_modules.audio, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_folder_is_listed_without_what_is_hidden(tmp_path):
    kinds = [
        "wav",
        "flac",
        "mp3",
        "ogg",
        "oga",
        "opus",
        "aif",
        "aiff",
        "aifc",
        "w64",
        "caf",
        "au",
        "snd",
        "rf64",
        "sph",
        "voc",
    ]
    shown = {f"a.{kind}" for kind in kinds} | {"B.WAV", "sub/deep/c.Flac", "d.wav/e.wav"}
    for name in (*shown, ".a.wav", "._a.wav", ".git/a.wav", "sub/.old/a.wav", "a.txt", "wav"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    found, problems = audio.find_recordings(tmp_path / "in")
    assert {str(path.relative_to(tmp_path / "in")) for path in found} == shown
    assert found == sorted(found)
    assert problems == []


def test_linked_folders_are_followed_once(tmp_path):
    for name in ("in/z/own.wav", "in/.store/kept.wav", "else/far.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    links = {"a": "z", "z/loop": "..", "b": "../else", "c": "../else", "d": ".store", "e": "gone"}
    for link, target in links.items():
        (tmp_path / "in" / link).symlink_to(target)
    (tmp_path / "in" / "f.wav").symlink_to("nowhere")  # is told when it is opened
    found, problems = audio.find_recordings(tmp_path / "in")
    names = [path.relative_to(tmp_path / "in").as_posix() for path in found]
    assert names == ["b/far.wav", "d/kept.wav", "f.wav", "z/own.wav"]
    assert problems == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anywhere")
def test_a_folder_that_cannot_be_listed_is_told(tmp_path):
    (tmp_path / "locked").mkdir(mode=0)
    found, problems = audio.find_recordings(tmp_path)
    assert found == []
    assert len(problems) == 1
    assert "locked: cannot be listed" in problems[0]
