"""espeak-ng's voices: repeatable, checked, independent of the number of jobs."""

import builtins
import os
import shutil

import espeakng_loader
import numpy as np
import pytest
import soundfile

from custom_modules.corpus import espeak, sources
from custom_modules.corpus.sources import Setup
from custom_modules.errors import InputError
from custom_modules.layout import read_rows

VOICES = [v for v in read_rows(sources.DATA / "voices.csv") if v["subset"] == "test"][:4]


def speak(folder, workers=1, seed=1, rate=8000):
    setup = Setup(folder, rate, 2.0, seed, workers, subsets=("test",))
    source = espeak.EspeakSpeech(4.0, VOICES)
    source.check(setup)
    return source, source.prepare(setup)["test"]


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*.wav"))
    }


@pytest.fixture(scope="module")
def spoken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("espeak")
    return folder, *speak(folder)


def test_every_voice_speaks_long_enough_and_at_its_level(spoken):
    folder, source, recordings = spoken
    assert {r.group for r in recordings} == {v["speaker"] for v in VOICES}
    for voice in VOICES:
        own = [r for r in recordings if r.group == voice["speaker"]]
        assert sum(r.samples for r in own) >= 4.0 * 8000
        for recording in own:
            assert recording.gender == voice["gender"]
            path = folder / recording.path
            assert recording.path.startswith(f"sources/speech/{voice['speaker']}/")
            samples, rate = soundfile.read(path)
            assert (rate, len(samples)) == (8000, recording.samples)
            assert 20 * np.log10(np.sqrt(np.mean(samples**2))) == pytest.approx(-26, abs=0.5)
            read = source.read(recording, 100, 500, 8000)
            np.testing.assert_array_equal(read, samples[100:600])


def test_bytes_do_not_depend_on_the_number_of_jobs(spoken, tmp_path):
    folder, _, recordings = spoken
    _, again = speak(tmp_path, workers=3)
    assert again == recordings
    assert contents(tmp_path) == contents(folder)


def test_another_seed_says_other_things(spoken, tmp_path):
    folder, *_ = spoken
    speak(tmp_path, seed=2)
    assert contents(tmp_path) != contents(folder)


def test_interrupted_voice_is_spoken_again(spoken, tmp_path):
    folder, *_ = spoken
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "sources" / "speech" / VOICES[0]["speaker"] / "000.wav").unlink()
    speak(tmp_path)
    assert contents(tmp_path) == contents(folder)


def test_unknown_variant_is_refused(tmp_path):
    voice = {**VOICES[0], "variant": "f6"}
    setup = Setup(tmp_path, 8000, 2.0, 1)
    with pytest.raises(InputError, match="no variant 'f6'"):
        espeak.EspeakSpeech(4.0, [voice]).check(setup)


def test_more_voices_to_test_with_change_no_other():
    few, many = espeak.EspeakSpeech().voices, espeak.EspeakSpeech(test_voices=24).voices
    assert many[: len(few)] == few
    assert {voice["subset"] for voice in many[len(few) :]} == {"test"}
    for subset, number in {"train": 48, "val": 8, "test": 24}.items():
        assert sum(voice["subset"] == subset for voice in many) == number
    with pytest.raises(InputError, match="--test_voices=25: must be from 2 to 24"):
        espeak.EspeakSpeech(test_voices=25)


def test_missing_package_names_the_remedy(tmp_path, monkeypatch):
    real_import = builtins.__import__

    def without_loader(name, *args, **kwargs):
        if name == "espeakng_loader":
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_loader)
    with pytest.raises(InputError, match=r"pip install espeakng-loader==0\.2\.4"):
        espeak.EspeakSpeech().check(Setup(tmp_path, 8000, 2.0, 1))


def test_long_paths_are_shortened(spoken, tmp_path, monkeypatch):
    deep = tmp_path.joinpath(*["a" * 40] * 5)
    deep.mkdir(parents=True)
    os.symlink(espeakng_loader.get_data_path(), deep / "data")
    monkeypatch.setattr(espeakng_loader, "get_data_path", lambda: str(deep / "data"))
    speak(tmp_path / "out")
    assert contents(tmp_path / "out") == contents(spoken[0])


def test_failing_process_is_told_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(espeakng_loader, "get_library_path", lambda: "/no/such.so")
    with pytest.raises(InputError, match=r"voice pl\+.* failed with status 1"):
        speak(tmp_path)
