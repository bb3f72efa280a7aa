"""Libri2Mix's layout becomes manifests that everything else runs on."""

import logging

import numpy as np
import pytest
import soundfile

from custom_modules.dataio import Manifest, MixtureDataset
from custom_modules.errors import InputError
from custom_modules.evaluation.loading import Model
from custom_modules.evaluation.runner import Scope, score_test_set
from custom_modules.evaluation.store import ScoreStore
from custom_modules.evaluation.summary import summarise
from custom_modules.evaluation.tables import result_rows
from custom_modules.manifest.librimix import prepare_librimix, read_speakers
from custom_modules.mmipc import VARIANTS
from tests.evaluation.conftest import Blur

NAMES = ("19-198-0001_26-495-0002", "26-495-0003_19-198-0004", "19-1-0_40-2-1")
SPEAKERS = "; comment\n19 | F | dev | 1 | A\n26 | M | dev | 1 | B\n40 | F | dev | 1 | C\n"


def write(path, samples, rate=8000):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples.astype(np.int16), rate)


def make(root, mode="min", subsets=("dev", "test"), rate=8000, noisy=True):
    """Libri2Mix with a few short mixtures; in max mode the shorter is padded."""
    random = np.random.default_rng(3)
    for subset in subsets:
        for number, name in enumerate(NAMES):
            lengths = 900 + 40 * number, 800 + 10 * number
            total = (min if mode == "min" else max)(lengths)
            sources = np.zeros((2, total), dtype=int)
            for source, length in zip(sources, lengths, strict=True):
                kept = min(length, total)
                source[:kept] = random.integers(-3000, 3000, kept)
            noise = random.integers(-1000, 1000, total)
            folder = root / f"wav{rate // 1000}k" / mode / subset
            signals = {"s1": sources[0], "s2": sources[1], "mix_clean": sources.sum(0)}
            if noisy:
                signals |= {"noise": noise, "mix_both": sources.sum(0) + noise}
            for place, samples in signals.items():
                write(folder / place / f"{name}.wav", samples, rate)
    return root


def dataset(root, save_folder, subset="test", variants=VARIANTS, task="SB"):
    manifest = Manifest(save_folder / f"{subset}.json", {"data_root": str(root)})
    return MixtureDataset(manifest, variants, task, seed=1, draw=False)


@pytest.mark.parametrize("mode", ["min", "max"])
def test_scene_is_the_noise_and_clean_is_without_it(tmp_path, mode):
    root = make(tmp_path / "Libri2Mix", mode)
    counts = prepare_librimix(root, tmp_path / "m", mode=mode, check="full", workers=1)
    assert counts == {"val": 3, "test": 3}
    data = dataset(root, tmp_path / "m")
    assert data.data_ids == sorted(NAMES)
    for item in (data[i] for i in range(3)):
        assert item["variants"] == ("C", "S")
        folder = root / "wav8k" / mode / "test"
        for place, mixture in zip(("mix_clean", "mix_both"), item["mixtures"], strict=True):
            expected, _ = soundfile.read(folder / place / f"{item['id']}.wav")
            assert np.array_equal(mixture.numpy(), expected.astype(np.float32))
        assert np.array_equal(item["targets"].sum(1), item["mixtures"][0])
    speaker_alone = dataset(root, tmp_path / "m", task="ES")[0]
    first, _ = soundfile.read(folder / "s1" / f"{sorted(NAMES)[0]}.wav")
    assert np.array_equal(speaker_alone["mixtures"][0], first.astype(np.float32))


def test_it_is_evaluated_like_any_other_corpus(tmp_path, monkeypatch):
    root = make(tmp_path / "Libri2Mix", "max")
    (tmp_path / "SPEAKERS.TXT").write_text(SPEAKERS)
    prepare_librimix(root, tmp_path, mode="max", speakers_file=tmp_path / "SPEAKERS.TXT", workers=1)
    module, data = Blur(), dataset(root, tmp_path)
    tables = []
    for size in (1, 4):  # mixtures of unequal lengths, one by one and in batches
        monkeypatch.setattr(Model, "batch_size", lambda self, _, size=size: size)
        store = ScoreStore(tmp_path / f"scores{size}", "key")
        scope = Scope((), workers=0, progressbar=False)
        score_test_set(Model(module, module, 8000), data, store, scope)
        tables.append(result_rows(data, store, ()))
    scores = [name for name in tables[0] if name.startswith("si_sdr")]
    np.testing.assert_allclose(tables[0][scores], tables[1][scores], atol=2e-4)
    summary = summarise(tables[0])
    assert list(dict.fromkeys(summary.variant)) == [*("C", "S", "all variants", "all mixtures")]
    assert {"female-male", "female-female", "cross gender"} < set(summary.group)


def test_a_training_set_of_another_size_is_pointed_to(tmp_path, caplog):
    root = make(tmp_path / "Libri2Mix", subsets=("train-100", "test"))
    assert prepare_librimix(root, tmp_path, workers=1) == {"test": 3}
    assert "--train_set train-100 is there" in caplog.text
    counts = prepare_librimix(root, tmp_path, train_set="train-100", workers=1)
    assert counts == {"train": 3, "test": 3}


def test_clean_mixtures_alone_have_one_variant(tmp_path):
    root = make(tmp_path / "Libri2Mix", noisy=False)
    prepare_librimix(root, tmp_path, workers=1)
    assert dataset(root, tmp_path)[0]["variants"] == ("C",)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "max"}, "wav8k/max: no such folder"),
        ({"sample_rate": 16000}, "wav16k"),
        ({"sample_rate": 44100}, "44100"),
        ({"train_set": "train-500"}, "train-500"),
        ({"check": "some"}, "check: some"),
        ({"speakers_file": "nobody.txt"}, r"nobody.txt: cannot be read"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, options, message):
    root = make(tmp_path / "Libri2Mix", subsets=("test",))
    with pytest.raises(InputError, match=message):
        prepare_librimix(root, tmp_path / "m", workers=1, **options)
    assert not (tmp_path / "m").exists()


def test_bad_files_are_listed_and_nothing_is_written(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    root = make(tmp_path / "Libri2Mix", subsets=("test",))
    test = root / "wav8k" / "min" / "test"
    (test / "s2" / f"{NAMES[0]}.wav").unlink()
    write(test / "noise" / f"{NAMES[1]}.wav", np.ones(10))
    for place in ("mix_both", "s1", "s2", "noise"):
        write(test / place / f"{NAMES[2]}.wav", np.ones(800), rate=16000)
    with pytest.raises(InputError, match="3 files are bad") as caught:
        prepare_librimix(root, tmp_path / "m", workers=1)
    listed = "\n".join(caught.value.details)
    assert f"s2/{NAMES[0]}.wav: no such file" in listed
    assert f"noise/{NAMES[1]}.wav" in listed
    assert "16000 Hz, the corpus 8000" in listed
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("level", ["none", "header", "full"])
@pytest.mark.parametrize("noisy", [True, False])
@pytest.mark.parametrize("sign", ["folder", "names"])
def test_three_speakers_are_not_two(tmp_path, level, noisy, sign):
    root = make(tmp_path / "Libri3Mix", subsets=("dev", "test"), noisy=noisy)
    for file in sorted((root / "wav8k" / "min" / "test").glob("*/*.wav")):
        if sign == "folder" and file.parent.name == "s2":
            write(file.parent.with_name("s3") / file.name, np.ones(800))
        elif sign == "names":
            file.rename(file.with_stem(f"{file.stem}_50-1-0001"))
    with pytest.raises(InputError, match=r"test: mixtures of more than two speakers"):
        prepare_librimix(root, tmp_path / "m", check=level, workers=1)
    assert not (tmp_path / "m").exists()


def test_every_file_that_can_be_read_is_a_mixture(tmp_path):
    root = make(tmp_path / "Libri2Mix", subsets=("test",))
    subset = root / "wav8k" / "min" / "test"
    for file in subset.glob(f"*/{NAMES[0]}.wav"):
        file.rename(file.with_suffix(".WAV"))
    for file in subset.glob(f"*/{NAMES[1]}.wav"):
        samples, rate = soundfile.read(file)
        soundfile.write(file.with_suffix(".flac"), samples, rate)
        file.with_name(f"._{file.name}").write_text("a Mac's notes")
        file.unlink()
    assert prepare_librimix(root, tmp_path / "m", workers=1) == {"test": 3}
    assert len(dataset(root, tmp_path / "m")[0]["mixtures"]) == 2
    for file in subset.glob(f"*/{NAMES[2]}.wav"):
        file.with_suffix(".WAV").write_bytes(file.read_bytes())
    with pytest.raises(InputError, match="1 files are bad") as caught:
        prepare_librimix(root, tmp_path / "m2", workers=1)
    assert "a mixture of the same name" in caught.value.details[0]


@pytest.mark.parametrize("line", ["14 | X | dev | 1 | A", "14", "14;F;dev", "#N/A"])
def test_a_line_that_names_no_speaker_is_refused(tmp_path, line):
    path = tmp_path / "SPEAKERS.TXT"
    path.write_text(SPEAKERS + "\n", encoding="utf-8-sig")
    assert read_speakers(path) == {"19": "female", "26": "male", "40": "female"}
    path.write_text(f"{SPEAKERS}{line}\n")
    with pytest.raises(InputError, match=r"SPEAKERS.TXT, line 5"):
        read_speakers(path)


def test_what_is_of_no_mixture_is_named(tmp_path, caplog):
    root = make(tmp_path / "Libri2Mix", subsets=("test",))
    test = root / "wav8k" / "min" / "test"
    (test / "mix_both" / f"{NAMES[0]}.wav").unlink()
    (test / "mix_both" / "notes.txt").touch()
    assert prepare_librimix(root, tmp_path, workers=1) == {"test": 2}
    assert f"2 files are of no mixture, such as {NAMES[0]}.wav" in caplog.text
    (test / "noise").rename(test / "noises")
    assert prepare_librimix(root, tmp_path, workers=1) == {"test": 3}
    assert "no folder noise, so mix_clean is used" in caplog.text


def test_speakers_are_known_by_libri_speech_names_alone(tmp_path):
    root = make(tmp_path / "Libri2Mix", subsets=("test",))
    for file in root.rglob(f"{NAMES[0]}.wav"):
        file.rename(file.with_name("mixture_1.wav"))
    prepare_librimix(root, tmp_path, workers=1)
    entries = Manifest(tmp_path / "test.json", {"data_root": str(root)})
    assert entries["mixture_1"]["speaker1"] is entries["mixture_1"]["speaker2"] is None
    assert entries[NAMES[1]]["speaker2"] == "19"
