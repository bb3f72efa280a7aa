"""Compressed files to their end, whatever their headers say: against soundfile, part by part."""

import os
import struct

import numpy as np
import pytest
import soundfile as sf

from custom_modules import audio
from custom_modules.errors import InputError

RATE = 16000
KINDS = {
    "mp3": {"format": "MP3", "subtype": "MPEG_LAYER_III"},
    "ogg": {"format": "OGG", "subtype": "VORBIS"},
    "opus": {"format": "OGG", "subtype": "OPUS"},
    "flac": {"format": "FLAC"},
}


def sweep(seconds, seed=0):
    """A rising tone in noise: no two stretches of it are alike."""
    time = np.arange(round(seconds * RATE)) / RATE
    noise = np.random.default_rng(seed).standard_normal(len(time))
    return 0.4 * np.sin(2 * np.pi * (200 + 50 * seed + 150 * time) * time) + 0.02 * noise


def decoded(path):
    with audio.open_audio(path) as file:
        return np.concatenate(list(audio.read_blocks(file, seconds=0.7)), axis=1)[0]


def vbr_mp3(path, seconds=6):
    """Of variable rate, its first half so soft that the first frames say nothing of the rest."""
    samples = sweep(seconds)
    samples[: len(samples) // 2] *= 1e-4
    options = {"bitrate_mode": "VARIABLE", "compression_level": 0.3}
    sf.write(path, samples, RATE, **KINDS["mp3"], **options)
    return path


def without_index(path):
    """The same mp3 without the frame that holds its index, as other encoders write it."""
    data = path.read_bytes()
    tag = max(data.find(b"Xing"), data.find(b"Info"))
    head = data.rfind(b"\xff", 0, tag)
    path.with_name("bare.mp3").write_bytes(data[data.find(data[head : head + 2], tag + 120) :])
    return path.with_name("bare.mp3")


@pytest.mark.parametrize("kind", KINDS)
def test_intact_files_are_as_soundfile_reads_them(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    sf.write(path, sweep(3), RATE, **KINDS[kind])
    expected, _ = sf.read(path, dtype="float32")
    np.testing.assert_allclose(decoded(path), expected, atol=1e-6)
    assert audio.read_header(path) == (len(expected) / RATE, RATE)


@pytest.mark.parametrize("kind", ["ogg", "opus", "flac"])
def test_joined_files_are_all_of_their_parts(tmp_path, kind):
    parts = [tmp_path / f"{i}.{kind}" for i in range(3)]
    for seed, part in enumerate(parts):
        sf.write(part, sweep(1 + seed / 2, seed), RATE, **KINDS[kind])
    joined = tmp_path / f"joined.{kind}"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    expected = np.concatenate([sf.read(part, dtype="float32")[0] for part in parts])
    np.testing.assert_array_equal(decoded(joined), expected)
    assert audio.read_header(joined) == (len(expected) / RATE, RATE)
    for start in (0, 15_990, 16_000, 39_000, len(expected) - 200):
        span = audio.read_span(joined, start, 500, RATE)
        np.testing.assert_allclose(span, audio.fit(expected[start : start + 500], 500), atol=1e-6)


def test_joined_mp3s_are_all_of_their_parts(tmp_path):
    parts = [tmp_path / f"{i}.mp3" for i in range(2)]
    for seed, part in enumerate(parts):
        sf.write(part, sweep(2, seed), RATE, **KINDS["mp3"])
    joined = tmp_path / "joined.mp3"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    whole = decoded(joined)
    assert 4 <= len(whole) / RATE < 4.3  # with what the encoder adds at both ends
    for part in parts:
        inner = sf.read(part)[0][8000:24000]
        start = int(np.argmax(np.correlate(whole, inner, "valid")))
        assert np.abs(whole[start : start + 16000] - inner).max() < 1e-4


def test_an_mp3_of_variable_rate_needs_no_index(tmp_path):
    path = vbr_mp3(tmp_path / "vbr.mp3")
    indexed, bare = decoded(path), decoded(without_index(path))
    assert len(indexed) == 6 * RATE
    assert len(indexed) <= len(bare) < len(indexed) + 4000
    delay = int(np.argmax(np.correlate(bare, indexed[60_000:80_000], "valid"))) - 60_000
    assert 0 < delay < 4000
    np.testing.assert_allclose(bare[delay:][40_000:90_000], indexed[40_000:90_000], atol=1e-4)


@pytest.mark.parametrize("bare", [False, True])
def test_a_span_of_an_mp3_is_where_it_was_asked_for(tmp_path, bare):
    path = vbr_mp3(tmp_path / "vbr.mp3")
    path = without_index(path) if bare else path
    whole = decoded(path)
    for start in (100, 47_000, 50_000, len(whole) - 300):
        span = audio.read_span(path, start, 1000, RATE)
        np.testing.assert_allclose(span, audio.fit(whole[start:], 1000), atol=1e-6)


def test_a_stream_without_a_length_is_read_to_its_end(tmp_path):
    path = tmp_path / "a.flac"
    sf.write(path, sweep(3), RATE)
    expected, data = decoded(path), bytearray(path.read_bytes())
    data[21:26] = bytes([data[21] & 0xF0, 0, 0, 0, 0])  # as ffmpeg and sox write into pipes
    path.with_name("streamed.flac").write_bytes(data)
    np.testing.assert_array_equal(decoded(path.with_name("streamed.flac")), expected)
    assert audio.read_header(path.with_name("streamed.flac")) == (3.0, RATE)


def test_a_wrong_length_is_not_believed(tmp_path):
    sf.write(tmp_path / "a.mp3", sweep(20), RATE, **KINDS["mp3"])
    data = bytearray((tmp_path / "a.mp3").read_bytes())
    tag = max(data.find(b"Xing"), data.find(b"Info"))
    data[tag + 8 : tag + 12] = struct.pack(">I", 30)
    (tmp_path / "a.mp3").write_bytes(data)
    assert len(decoded(tmp_path / "a.mp3")) >= 20 * RATE
    sf.write(tmp_path / "a.flac", sweep(20), RATE)
    data = bytearray((tmp_path / "a.flac").read_bytes())
    data[22:26] = struct.pack(">I", 20_000)
    (tmp_path / "a.flac").write_bytes(data)
    with pytest.raises(InputError, match=r"a\.flac: .*more than its header says"):
        decoded(tmp_path / "a.flac")


@pytest.mark.parametrize("kind", ["flac", "mp3"])
def test_a_tag_before_or_behind_is_passed_over(tmp_path, kind):
    sf.write(tmp_path / "a.x", sweep(3), RATE, **KINDS[kind])
    data = (tmp_path / "a.x").read_bytes()
    tag = b"ID3\4\0\0\0\0\3\x74" + bytes(500)
    (tmp_path / "b.x").write_bytes(tag + data + b"TAG" + bytes(125))
    np.testing.assert_array_equal(decoded(tmp_path / "b.x"), decoded(tmp_path / "a.x"))


def test_what_is_no_audio_behind_an_ogg_is_passed_over(tmp_path):
    sf.write(tmp_path / "a.ogg", sweep(3), RATE)
    (tmp_path / "b.ogg").write_bytes((tmp_path / "a.ogg").read_bytes() + bytes(10**6))
    np.testing.assert_array_equal(decoded(tmp_path / "b.ogg"), decoded(tmp_path / "a.ogg"))


def test_damage_in_an_mp3_is_passed_over(tmp_path):
    sf.write(tmp_path / "a.mp3", sweep(4), RATE, **KINDS["mp3"])
    data = (tmp_path / "a.mp3").read_bytes()
    (tmp_path / "tagged.mp3").write_bytes(data + b"APETAGEX" + bytes(7000))
    np.testing.assert_array_equal(decoded(tmp_path / "tagged.mp3"), decoded(tmp_path / "a.mp3"))
    (tmp_path / "holed.mp3").write_bytes(data + bytes(7000) + data)
    assert len(decoded(tmp_path / "holed.mp3")) >= 8 * RATE
    (tmp_path / "cut.mp3").write_bytes(data[: len(data) * 3 // 4])
    assert 2.9 < len(decoded(tmp_path / "cut.mp3")) / RATE < 3.2


def test_what_cannot_be_joined_is_told(tmp_path):
    sf.write(tmp_path / "a.ogg", sweep(1), RATE)
    sf.write(tmp_path / "b.ogg", np.stack([sweep(1)] * 2, 1), RATE)
    parts = [(tmp_path / name).read_bytes() for name in ("a.ogg", "b.ogg")]
    (tmp_path / "both.ogg").write_bytes(b"".join(parts))
    with pytest.raises(InputError, match=r"both\.ogg: .*different rates or channels"):
        decoded(tmp_path / "both.ogg")


@pytest.mark.parametrize("rate", [1, 999, 200_000_000])
def test_absurd_rates_are_refused(tmp_path, rate):
    path = tmp_path / "a.wav"
    sf.write(path, sweep(1), RATE)
    data = bytearray(path.read_bytes())
    data[24:28] = struct.pack("<I", rate)
    path.write_bytes(data)
    for read in (audio.read_header, decoded, lambda p: audio.read_span(p, 0, 9, 8000)):
        with pytest.raises(InputError, match=rf"a\.wav: .*a rate of {rate} Hz"):
            read(path)


def test_pipes_devices_and_folders_are_no_audio(tmp_path):
    os.mkfifo(tmp_path / "a.wav")
    (tmp_path / "b.wav").mkdir()
    (tmp_path / "c.wav").symlink_to("/dev/zero")
    (tmp_path / "d.wav").symlink_to("nowhere")
    for name in "abcd":
        with pytest.raises(InputError, match=rf"{name}\.wav: (is a|cannot be read .No such)"):
            audio.open_audio(tmp_path / f"{name}.wav")
