"""What is noticed about the audio of a row."""

import os

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from custom_modules.audio import LIMIT
from custom_modules.layout import LAYERS
from custom_modules.manifest.checks import check_row, compare_with_sum
from tests.manifest.tiny_corpus import FOLDERS, TinyCorpus

STEP = 2.0**-15


@pytest.fixture
def corpus(tmp_path):
    corpus = TinyCorpus(tmp_path / "Tiny")
    corpus.add("val", "a")
    return corpus


def files_of(corpus):
    row = corpus.rows["val"][0]
    names = {column: row[column] for column in FOLDERS}
    return {c: f"val/{FOLDERS[c]}/{name}" for c, name in names.items()}


def check(corpus, level="header"):
    return check_row(str(corpus.root), tuple(files_of(corpus).values()), level)


def spoil(corpus, column, samples, **options):
    corpus.write("val", column, corpus.rows["val"][0][column], samples, **options)


def test_a_sound_row_has_no_problems(corpus):
    for level in ("none", "header", "full"):
        facts = check(corpus, level)
        assert facts.problems == ()
        assert (facts.sample_rate, facts.frames) == (8000, 80)


def test_one_sample_is_enough(tmp_path):
    corpus = TinyCorpus(tmp_path, frames=1)
    corpus.add("val", "a")
    spoil(corpus, "speaker1File", [900])
    spoil(corpus, "speaker2File", [-900])
    layers = [c for c in FOLDERS if c != "mixFile"]
    total = sum(corpus.read("val", c, corpus.rows["val"][0][c]) for c in layers)
    spoil(corpus, "mixFile", total)
    assert check(corpus, "full").problems == ()


@pytest.mark.parametrize("column", list(FOLDERS))
@pytest.mark.parametrize(
    ("samples", "rate", "complaint"),
    [
        (np.ones((80, 2)), 8000, "2 channels"),
        (np.ones(80), 44100, "44100 Hz"),
        (np.ones(79), 8000, "79 samples"),
        (np.ones(0), 8000, "no samples"),
    ],
)
def test_headers_that_do_not_fit(corpus, column, samples, rate, complaint):
    spoil(corpus, column, samples, rate=rate)
    text = " ".join(reason for _, reason in check(corpus).problems)
    # If it is the mixture that is wrong, every other file differs from it.
    assert complaint.split()[0] in text
    assert check(corpus).problems


@pytest.mark.parametrize("column", list(FOLDERS))
@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: path.touch(), "is empty"),
        (lambda path: path.write_text("not a sound"), "not readable audio"),
        (lambda path: path.symlink_to("nowhere.wav"), "a link to nowhere"),
    ],
)
def test_files_that_cannot_be_read(corpus, column, make, complaint):
    file = files_of(corpus)[column]
    (corpus.root / file).unlink()
    make(corpus.root / file)
    ((found, reason),) = check(corpus).problems
    assert found == file
    assert complaint in reason
    assert "\n" not in reason


@pytest.mark.parametrize("column", list(FOLDERS))
@pytest.mark.parametrize("level", ["none", "header", "full"])
def test_a_pipe_is_named_and_not_waited_for(corpus, column, level):
    path = corpus.root / files_of(corpus)[column]
    path.unlink()
    os.mkfifo(path)
    problems = check(corpus, level).problems
    reasons = [reason for _, reason in problems]
    checked = level != "none" or column == "mixFile"
    assert reasons == ["is a pipe; name an audio file"] * checked


@pytest.mark.parametrize("rate", [1, 999, 768_001, 200_000_000])
def test_an_absurd_rate_is_a_damaged_header(corpus, rate):
    for column in FOLDERS:
        spoil(corpus, column, np.ones(400), rate=rate)
    assert {reason for _, reason in check(corpus).problems} == {
        f"is not readable audio (a rate of {rate} Hz); make it again"
    }


@pytest.mark.parametrize("column", list(FOLDERS)[1:])
def test_without_checks_only_the_mixture_must_be_there(corpus, column):
    (corpus.root / files_of(corpus)[column]).unlink()
    assert check(corpus, "none").problems == ()
    (corpus.root / files_of(corpus)["mixFile"]).unlink()
    assert len(check(corpus, "none").problems) == 1


@pytest.mark.parametrize("keep", [20, 43, 44, 60, 150])
def test_a_truncated_file_is_noticed(corpus, keep):
    path = corpus.root / files_of(corpus)["sceneFile"]
    path.write_bytes(path.read_bytes()[:keep])
    assert files_of(corpus)["sceneFile"] in dict(check(corpus).problems)


def test_a_truncated_flac_is_noticed_by_the_full_check(tmp_path):
    corpus = TinyCorpus(tmp_path, frames=8000)
    corpus.add("val", "a")
    name = corpus.rows["val"][0]["sceneFile"]
    path = corpus.path("val", "sceneFile", name)
    samples, rate = soundfile.read(path, dtype="int16")
    soundfile.write(path, samples, rate, format="FLAC")
    assert check(corpus, "full").problems == ()
    path.write_bytes(path.read_bytes()[:9000])
    assert check(corpus, "header").problems == ()
    ((file, _),) = check(corpus, "full").problems
    assert file == "val/scene/a_sceneFile.wav"


@pytest.mark.parametrize("claimed", [2**36 - 1, 10**8, 8001])
def test_a_header_that_claims_more_than_there_is(tmp_path, claimed):
    corpus = TinyCorpus(tmp_path, frames=8000)
    corpus.add("val", "a")
    for file in files_of(corpus).values():
        samples, rate = soundfile.read(tmp_path / file, dtype="int16")
        soundfile.write(tmp_path / file, samples, rate, format="FLAC")
        data = bytearray((tmp_path / file).read_bytes())
        # The last 36 bits before the digest of STREAMINFO are the number of samples.
        data[21:26] = ((data[21] >> 4 << 36) + claimed).to_bytes(5, "big")
        (tmp_path / file).write_bytes(data)
    assert set(dict(check(corpus, "full").problems)) == set(files_of(corpus).values())


def test_one_file_for_two_layers_is_noticed(corpus):
    files = list(files_of(corpus).values())
    files[2] = files[1]
    ((file, reason),) = check_row(str(corpus.root), files, "header").problems
    assert file == files[1]
    assert "twice" in reason


@pytest.mark.parametrize("column", list(FOLDERS))
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_no_numbers(corpus, column, value):
    samples = np.zeros(80) + 0.1
    samples[7] = value
    spoil(corpus, column, samples, subtype="FLOAT")
    assert check(corpus, "header").problems == ()
    problems = dict(check(corpus, "full").problems)
    assert "NaN" in problems[files_of(corpus)[column]]


@pytest.mark.parametrize("column", ["speaker1File", "speaker2File"])
@pytest.mark.parametrize("peak", [0, 3])
def test_a_silent_speaker(corpus, column, peak):
    samples = np.zeros(80, dtype=int)
    samples[5] = peak
    spoil(corpus, column, samples)
    problems = dict(check(corpus, "full").problems)
    assert "silent" in problems[files_of(corpus)[column]]


def test_a_silent_background_is_no_fault(corpus):
    row = corpus.rows["val"][0]
    scene = corpus.read("val", "sceneFile", row["sceneFile"])
    mix = corpus.read("val", "mixFile", row["mixFile"])
    spoil(corpus, "sceneFile", np.zeros_like(scene))
    spoil(corpus, "mixFile", mix - scene)
    assert check(corpus, "full").problems == ()


@pytest.mark.parametrize("column", list(FOLDERS))
def test_a_mixture_that_is_not_the_sum(corpus, column):
    samples = corpus.read("val", column, corpus.rows["val"][0][column])
    samples[30] += 20
    spoil(corpus, column, samples)
    assert check(corpus, "header").problems == ()
    ((file, reason),) = check(corpus, "full").problems
    assert file == "val/mix/a.wav"
    assert "sum of its layers" in reason


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_quantisation_is_allowed_for_and_nothing_more(tmp_path, subtype):
    step = STEP if subtype == "PCM_16" else 2.0**-23
    corpus = TinyCorpus(tmp_path, frames=4000)
    corpus.add("val", "a")
    signals = np.random.default_rng(3).uniform(-0.1, 0.1, (7, 4000))
    # The worst case: the layers are rounded, the mixture of the unrounded ones too.
    for column, signal in zip(list(FOLDERS)[1:], signals, strict=True):
        spoil(corpus, column, signal, subtype=subtype)
    spoil(corpus, "mixFile", signals.sum(axis=0), subtype=subtype)
    assert check(corpus, "full").problems == ()
    spoil(corpus, "mixFile", signals.sum(axis=0) + 10 * step, subtype=subtype)
    assert len(check(corpus, "full").problems) == 1


layer_samples = st.lists(st.floats(-1.5, 1.5), min_size=4, max_size=4)


@given(layer_samples, layer_samples, layer_samples)
def test_a_limiter_excuses_what_it_limits(first, second, scene):
    s1, s2, scene = (np.array(x).clip(-LIMIT, LIMIT) for x in (first, second, scene))
    limited_mix = (s1 + s2 + scene).clip(-LIMIT, LIMIT)
    limited_speech = (s1 + s2).clip(-LIMIT, LIMIT) + scene
    for mix in (limited_mix, limited_speech):
        signals = {"mix": mix, "s1": s1, "s2": s2, "scene": scene}
        limited, worst = compare_with_sum(signals, 5 * STEP)
        differs = np.abs(mix - s1 - s2 - scene) > 5 * STEP
        assert limited == differs.sum()
        assert worst == 0.0


@given(layer_samples, layer_samples, st.floats(0.01, 0.2))
def test_the_largest_difference_is_found(first, second, error):
    s1, s2 = np.array(first) / 8, np.array(second) / 8
    mix = s1 + s2
    mix[2] += error
    limited, worst = compare_with_sum({"mix": mix, "s1": s1, "s2": s2}, STEP)
    assert limited == 0
    assert worst == pytest.approx(error)


def test_files_are_told_apart_by_little(tmp_path):
    corpus = TinyCorpus(tmp_path)
    corpus.add("val", "a")
    corpus.add("val", "b")
    seen = [
        check_row(str(tmp_path), (f"val/mix/{stem}.wav",) + ("",) * 7, "none")
        for stem in ("a", "a", "b")
    ]
    assert seen[0] == seen[1]
    assert seen[0].inode != seen[2].inode
    assert seen[0].excerpt != seen[2].excerpt
    assert seen[0].size == seen[2].size


def test_files_with_the_same_beginning_are_told_apart(tmp_path):
    corpus = TinyCorpus(tmp_path, frames=8000)
    samples = np.arange(8000)
    for stem, rest in (("a", 1), ("b", 2)):
        samples[2000:] = rest
        corpus.write("val", "mixFile", f"{stem}.wav", samples)
    first, second = (check_row(str(tmp_path), (f"val/mix/{stem}.wav",), "header") for stem in "ab")
    assert first.size == second.size
    assert first.excerpt != second.excerpt


def test_the_layers_are_in_the_order_that_checks_rely_on():
    assert list(LAYERS)[:5] == ["mix", "s1", "s2", "scene", "event"]
    assert dict(LAYERS.values()) == FOLDERS
