"""Whole utterances: pairs that do not come again, nothing cut, texts kept to the letter."""

import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from custom_modules.corpus.folders import SpeechFolder
from custom_modules.corpus.sources import Recording, Setup
from custom_modules.corpus.utterances import GAP, Pairs, join_short
from custom_modules.dataio import Manifest, MixtureDataset
from custom_modules.errors import InputError
from custom_modules.mmipc import VARIANTS
from polsess_prepare import prepare_polsess
from tests.corpus.recordings import SPEAKERS, talker, write
from tests.integration.generating import HPARAMS, refusal, rows_of, run
from tests.manifest.tiny_corpus import TinyCorpus

#: What tables and templates trip over; and words that stand for nothing elsewhere.
TEXTS = [
    'Powiedziała: "nie", i wyszła',
    "raz, dwa; trzy\tcztery",
    "pierwszy wiersz\ndrugi wiersz",
    "🙂 cześć 👋🏽",
    "{data_root} i {{klamry}} i {",
    "null",
    "NaN",
    "Ściąga 3,5 zł — ŚĆ!",
    "?",
    "",
    " odstęp na końcu ",
    "ordinary words",
]


@given(st.lists(st.integers(1, 6), min_size=2, max_size=5), st.integers(0, 9))
def test_no_pair_comes_again_before_all_have_come(sizes, seed):
    groups = {
        f"s{n}": [Recording(f"s{n}/{take}", f"s{n}", 5) for take in range(size)]
        for n, size in enumerate(sizes)
    }
    pairs = Pairs(groups, seed)
    number = (sum(sizes) ** 2 - sum(size**2 for size in sizes)) // 2
    seen = [frozenset(r.path for r in pairs.of(turn)) for turn in range(number)]
    assert len(set(seen)) == len(seen) == number
    assert all(pairs.of(t)[0].group != pairs.of(t)[1].group for t in range(number))
    assert frozenset(r.path for r in pairs.of(number)) == seen[0]


def test_a_few_of_many_pairs_are_spread_over_the_recordings():
    groups = {f"s{n}": [Recording(f"{n}/{t}", f"s{n}", 5) for t in range(28)] for n in range(8)}
    pairs = Pairs(groups, 42)
    used = Counter(r.path for turn in range(100) for r in pairs.of(turn))
    assert max(used.values()) <= 4
    speakers = Counter(r.group for turn in range(100) for r in pairs.of(turn))
    assert set(speakers) == set(groups)
    assert max(speakers.values()) < 2.5 * min(speakers.values())


def test_a_rejected_candidate_is_of_the_same_pair_at_first():
    pairs = Pairs({n: [Recording(f"{n}/{t}", n, 5) for t in range(9)] for n in "abc"}, 1)
    assert pairs.of(3, 0) == pairs.of(3, 9) != pairs.of(3, 10)


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """A command whose two talkers have three utterances each: nine pairs."""
    speech = tmp_path_factory.mktemp("few") / "speech"
    for number, speaker in enumerate(SPEAKERS[:2]):
        for take, seconds in enumerate((1.1, 1.3, 1.5)):
            samples = talker(10 * number + take, seconds, 8000)
            write(speech / speaker / f"{take}.wav", samples)
    options = ["--n_val=0", "--n_test=0", "--duration=2.0", "--utterances=whole"]
    return [HPARAMS / "speech_folder.yaml", f"--speech_folder={speech}", *options]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_all_pairs_are_used_and_none_twice_whatever_is_made_again(few, tmp_path, seed):
    first, second = tmp_path / "a", tmp_path / "b"
    few = [*few, f"--seed={seed}", "--n_train=9", "--max_tries=400"]
    run([*few, f"--output_folder={first}", "--workers=1"])
    rows = rows_of(first, "train")
    assert len({frozenset(row[f"speech{n}OryginalPath"] for n in (1, 2)) for row in rows}) == 9
    run([*few, f"--output_folder={second}", "--workers=2"])
    for index in (2, 5, 8):  # as if killed while it wrote
        (second / "train/mix" / rows[index]["mixFile"]).write_bytes(b"RIFF")
    run([*few, f"--output_folder={second}", "--workers=1"])
    assert rows_of(second, "train") == rows
    for file in (first / "train").rglob("*.wav"):
        assert file.read_bytes() == (second / file.relative_to(first)).read_bytes()


def test_more_mixtures_than_pairs_are_refused(few, tmp_path, capsys):
    few = [*few, f"--output_folder={tmp_path}", "--n_train=10", "--max_tries=400", "--workers=1"]
    line = refusal(few, capsys)
    assert "rejected (speech of another mixture: 400); add recordings or lower n_train" in line
    assert len([*(tmp_path / "train/mix").glob("*.wav")]) == 10  # nothing is lost


def test_short_recordings_are_joined_with_their_texts():
    setup = Setup(Path(), 100, 4.0, seed=1)
    own = [Recording(f"a/{n}", "a", 150, text=f"word{n}") for n in range(5)]
    joined = join_short([*own, Recording("b/0", "b", 400, text="long")], setup)
    assert sorted(len(r.parts) for r in joined) == [0, 0, 2, 2]
    assert sorted(word for r in joined for word in r.text.split()) == sorted(
        [*(r.text for r in own), "long"]
    )
    for recording in joined:
        parts = recording.parts or (recording,)
        assert recording.path == ";".join(part.path for part in parts)
        assert recording.text == " ".join(part.text for part in parts)
        assert recording.samples == sum(p.samples for p in parts) + (len(parts) - 1) * GAP * 100
        assert recording.samples <= setup.length


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    """Six talkers of two short recordings and one that is too long, and their texts."""
    root = tmp_path_factory.mktemp("speech")
    rows = []
    for number, speaker in enumerate(SPEAKERS):
        for take, seconds in enumerate((1.4, 1.7, 2.5)):
            name = f"{speaker}/{take}.wav"
            write(root / name, talker(10 * number + take, seconds, 8000))
            text = TEXTS[2 * number + take] if take < 2 else "too long"
            rows.append({"file": name, "speaker": speaker, "text": text})
    with open(root / "table.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["file", "speaker", "text"])
        writer.writeheader()
        writer.writerows(rows)
    return root


@pytest.fixture(scope="module")
def corpus(speech, tmp_path_factory):
    root = tmp_path_factory.mktemp("whole") / "Whole"
    options = ["--n_train=3", "--n_val=2", "--n_test=2", "--duration=2.0", "--workers=1"]
    options += [f"--speech_folder={speech}", f"--speech_table={speech / 'table.csv'}"]
    options += [f"--output_folder={root}", "--utterances=whole"]
    run([HPARAMS / "speech_folder.yaml", *options])
    return root


def all_rows(corpus):
    return [row for subset in ("train", "val", "test") for row in rows_of(corpus, subset)]


def text_of(speech):
    with open(speech / "table.csv", encoding="utf-8", newline="") as file:
        return {row["file"]: row["text"] for row in csv.DictReader(file)}


def test_no_word_is_cut(corpus, speech):
    for row in all_rows(corpus):
        for n in (1, 2):
            path = row[f"speech{n}OryginalPath"]
            said, _ = soundfile.read(speech / path)
            clean = corpus / row["subset"] / "clean" / row[f"speaker{n}File"]
            heard = np.flatnonzero(soundfile.read(clean)[0])
            sound = np.flatnonzero(said)
            assert heard[-1] - heard[0] == sound[-1] - sound[0]
            assert row[f"speech{n}End"] == str(len(said))
            assert row[f"speech{n}Text"] == text_of(speech)[path]


def test_texts_survive_from_the_table_to_the_dataset(corpus, tmp_path):
    prepare_polsess(corpus, tmp_path, workers=1)
    seen = set()
    for subset in ("train", "val", "test"):
        manifest = Manifest(tmp_path / f"{subset}.json", {"data_root": str(corpus)})
        dataset = MixtureDataset(manifest, VARIANTS, "SB", 1, draw=False)
        for row in rows_of(corpus, subset):
            entry = dataset.data[row["mixFile"].removesuffix(".wav")]
            for n in (1, 2):
                assert entry[f"text{n}"] == (row[f"speech{n}Text"] or None)
                seen.add(entry[f"text{n}"])
        assert len(dataset[0]["variants"]) >= 1
    assert len(seen) > 6


def test_any_text_survives(tmp_path):
    corpus = TinyCorpus(tmp_path / "Tiny")
    for number, text in enumerate(TEXTS):
        corpus.add("val", f"m{number}", speech1Text=text, speech2Text=text[::-1])
    corpus.write_tables()
    prepare_polsess(corpus.root, tmp_path / "m", ("val",), workers=1)
    manifest = Manifest(tmp_path / "m" / "val.json", {"data_root": "/x"})
    for number, text in enumerate(TEXTS):
        entry = manifest[f"m{number}"]
        assert (entry["text1"], entry["text2"]) == (text or None, text[::-1] or None)


def test_readers_that_do_not_know_the_columns_pass_over_them(corpus, tmp_path):
    prepare_polsess(corpus, tmp_path, ("train",), workers=1)
    entries = json.loads((tmp_path / "train.json").read_text("utf-8"))
    known = {"duration", "environment", "mix", "s1", "s2", "s2_layers", "variants"}
    assert all(known < entry.keys() for entry in entries.values())


def test_what_is_left_out_is_counted(speech, tmp_path, capsys):
    setup = Setup(tmp_path, 8000, 2.0, 1)
    listed = SpeechFolder(speech, speech / "table.csv", utterances="whole").prepare(setup)
    assert "6 of 18 recordings left out, over 2 s" in capsys.readouterr().out
    assert sum(map(len, listed.values())) == 12
    with pytest.raises(InputError, match="all recordings are longer than 1 s; raise --duration"):
        SpeechFolder(speech, utterances="whole").prepare(Setup(tmp_path, 8000, 1.0, 1))


def test_joined_recordings_are_read_whole(speech, tmp_path):
    source = SpeechFolder(speech, speech / "table.csv", utterances="whole")
    (first, *_) = [r for r in source.prepare(Setup(tmp_path, 8000, 4.0, 1))["train"] if r.parts]
    samples = source.read(first, 0, first.samples, 8000)
    assert len(samples) == first.samples
    for part, start in ((first.parts[0], 0), (first.parts[-1], first.samples)):
        said, _ = soundfile.read(speech / part.path)
        start = start and start - len(said)
        np.testing.assert_array_equal(samples[start : start + len(said)], said)


def test_other_ways_are_refused(speech):
    with pytest.raises(InputError, match="set it to cut or to whole"):
        SpeechFolder(speech, utterances="half")
