"""What the page takes in, and for how long."""

import os
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from custom_modules.page.shelf import Shelf
from custom_modules.page.texts import LANGUAGES, TEXTS, RefusedError


class Clock:
    """Minutes pass when a test says so."""

    def __init__(self, now):
        self.now = now

    def __call__(self):
        return self.now


@pytest.fixture
def shelf(tmp_path):
    (tmp_path / "shelf").mkdir()
    return Shelf(tmp_path / "shelf", max_minutes=0.1, keep_minutes=0.5)


def noise(path, seconds=1.0, rate=8000, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(
        path, 0.1 * np.random.default_rng(0).normal(size=round(seconds * rate)), rate, **options
    )
    return path


def test_length_and_rate_are_told(shelf, tmp_path):
    assert shelf.check(noise(tmp_path / "a.flac", 1.5, 44_100)) == (1.5, 44_100)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3"])
def test_at_most_so_many_minutes(shelf, tmp_path, name):
    shelf.check(noise(tmp_path / name, 5.9))
    with pytest.raises(RefusedError) as refused:
        shelf.check(noise(tmp_path / f"longer_{name}", 7))
    assert refused.value.told("en") == f"longer_{name} lasts 0:07; at most 0.1 min are taken here."


def wav_header(rate=8000, channels=1, claimed=0):
    form = struct.pack("<IHHIIHH", 16, 1, channels, rate, 2 * rate, 2, 16)
    return b"RIFF" + struct.pack("<I", 36 + claimed) + b"WAVEfmt " + form + b"data" + bytes(4)


@pytest.mark.parametrize(
    ("content", "key"),
    [
        (b"", "empty"),
        (b"no audio", "unreadable"),
        (bytes(10_000), "unreadable"),
        (wav_header(), "silent"),
        (wav_header(rate=0), "unreadable"),
        (wav_header(channels=0), "unreadable"),
        (wav_header()[:20], "unreadable"),
        (None, "gone"),
    ],
)
def test_what_is_refused(shelf, tmp_path, content, key):
    path = tmp_path / "a.wav"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RefusedError) as refused:
        shelf.check(path)
    assert refused.value.key == key
    for language in LANGUAGES:
        sentence = refused.value.told(language)
        assert sentence.endswith(".")
        assert str(tmp_path) not in sentence


def test_too_large_is_refused_unread(shelf, tmp_path):
    path = tmp_path / "a.wav"
    path.touch()
    os.truncate(path, shelf.most_bytes + 1)
    with pytest.raises(RefusedError, match="too_large"):
        shelf.check(path)


def test_a_value_that_is_no_number_is_refused(shelf, tmp_path):
    sf.write(tmp_path / "a.wav", np.r_[np.nan, np.zeros(9)], 8000, subtype="FLOAT")
    with pytest.raises(RefusedError, match="not_numbers"):
        shelf.check(tmp_path / "a.wav")


def test_all_texts_are_there_in_both_languages():
    for key, texts in TEXTS.items():
        assert len(texts) == len(LANGUAGES), key
        english, polish = ({part.split("}")[0] for part in t.split("{")[1:]} for t in texts)
        assert english == polish, key


@pytest.mark.parametrize("name", ["a.wav", "ż" * 90 + ".wav", ".wav", "<b>.wav", "..wav"])
def test_each_visit_has_a_folder_that_nobody_can_guess(shelf, name):
    upload = noise(shelf.folder / "upload" / name, format="WAV")
    (first, one), (second, other) = shelf.take(upload), shelf.take(upload)
    assert first != second
    assert len(first.name) >= 20
    assert one.parent == first / "given"
    assert one.read_bytes() == other.read_bytes() == upload.read_bytes()
    assert len(os.fsencode(one.name)) <= 200


def test_an_example_stays_where_it_is(shelf, tmp_path):
    example = noise(tmp_path / "example.wav")
    place, recording = shelf.take(example)
    assert recording == example
    shelf.release(place)
    shelf.clock = Clock(example.stat().st_mtime + 3600)
    shelf.sweep()
    assert example.exists()
    assert not place.exists()


def test_nothing_is_left_after_its_minutes(shelf):
    upload = noise(shelf.folder / "upload" / "a.wav")
    (shelf.folder / "half an upload").write_bytes(b"1")
    clock = shelf.clock = Clock(upload.stat().st_mtime)
    working, _ = shelf.take(upload)
    done, _ = shelf.take(upload)
    shelf.release(done)
    clock.now += 25
    assert shelf.sweep() == []
    clock.now += 10  # s: more than half a minute since
    assert {path.name for path in shelf.sweep()} == {"upload", "half an upload", done.name}
    assert list(shelf.folder.iterdir()) == [working]
    shelf.release(working)  # whose time runs from now on
    clock.now += 25
    assert shelf.sweep() == []
    clock.now += 10
    assert shelf.sweep() == [working]
    assert list(Path(shelf.folder).iterdir()) == []
