"""The sentences of the matrix, and the corpus that says them whole."""

import json
from collections import Counter
from itertools import product

import numpy as np
import pytest
import soundfile
from scipy.signal import correlate

from custom_modules.corpus import espeak, matrix, sources
from custom_modules.corpus.sources import Setup
from custom_modules.errors import InputError
from custom_modules.layout import SUBSETS, read_rows
from polsess_prepare import prepare_polsess
from tests.integration.generating import HPARAMS, files_of, rows_of, run

SIZES = ["--n_train=0", "--n_val=0", "--n_test=6", "--seconds_per_voice=12"]


OWN = {"train": set(range(8)), "val": {8}, "test": {9}}
SENTENCES = [matrix.sentence(n) for n in range(10**5)]


def sentences_of(subset):
    """By the digits of their numbers, added up."""
    return {s for n, s in enumerate(SENTENCES) if sum(map(int, str(n))) % 10 in OWN[subset]}


def test_there_are_a_hundred_thousand_sentences():
    words = [word for slot in matrix.slots() for word in slot]
    assert len(set(words)) == 50
    expected = {" ".join(s) + "." for s in product(*matrix.slots())}
    assert len(expected) == 10**5
    assert set(SENTENCES) == expected


def test_the_grammar_agrees():
    """The third person; numerals and all behind them in the genitive plural, of no gender."""
    _, verbs, numerals, adjectives, nouns = matrix.slots()
    assert all(verb[-1] in "eiya" for verb in verbs)
    assert not {"jeden", "dwa", "trzy", "cztery"} & set(numerals)  # they take the nominative
    assert all(adjective.endswith(("ych", "ich")) for adjective in adjectives)
    assert all(noun.endswith(("ów", "en", "eł", "ek", "mp", "rzy")) for noun in nouns)


def test_subsets_share_no_sentence_and_all_words():
    split = {subset: sentences_of(subset) for subset in SUBSETS}
    assert {subset: len(own) for subset, own in split.items()} == {
        "train": 80_000,
        "val": 10_000,
        "test": 10_000,
    }
    for subset in SUBSETS:
        drawn = [set(matrix.sentences(subset, 3, place, seed=7)) for place in range(3)]
        assert set.union(*drawn) == split[subset]
        assert sum(map(len, drawn)) == len(split[subset])
        counts = Counter(word for text in split[subset] for word in text.rstrip(".").split())
        assert set(counts.values()) == {len(split[subset]) // 10}


@pytest.mark.parametrize("pair", [(0, 1), (1, 4), (0, 4)])
def test_two_slots_tell_nothing_of_each_other(pair):
    counts = Counter()
    for text in sentences_of("test"):
        words = text.rstrip(".").split()
        counts[words[pair[0]], words[pair[1]]] += 1
    assert len(counts) == 100
    assert set(counts.values()) == {100}


def test_another_seed_draws_another_order():
    assert matrix.sentences("val", 8, 0, 1) != matrix.sentences("val", 8, 0, 2)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("matrix") / "M"
    options = [*SIZES, f"--output_folder={root}", "--sentences=matrix"]
    run([HPARAMS / "mini_polsess.yaml", *options, "--workers=1"])
    return root


def test_a_sentence_is_whole_and_at_a_random_place(corpus):
    starts = []
    for row in rows_of(corpus, "test"):
        for talker in (1, 2):
            assert row[f"speech{talker}Text"].rstrip(".").split()[0] in matrix.slots()[0]
            said, _ = soundfile.read(corpus / row[f"speech{talker}OryginalPath"])
            assert (row[f"speech{talker}Start"], row[f"speech{talker}End"]) == ("1", str(len(said)))
            file = corpus / "test" / "clean" / row[f"speaker{talker}File"]
            samples, rate = soundfile.read(file)
            start = int(correlate(samples, said, "valid").argmax())
            starts.append(start)
            rest = np.delete(samples, np.s_[start : start + len(said)])
            assert not rest.any()
            piece = samples[start : start + len(said)]
            assert np.corrcoef(piece, said)[0, 1] > 0.999
            assert len(samples) == 4 * rate
    assert len(set(starts)) > 8


def test_workers_do_not_matter(corpus, tmp_path):
    root = tmp_path / "M"
    options = [HPARAMS / "mini_polsess.yaml", *SIZES, f"--output_folder={root}"]
    run([*options, "--sentences=matrix", "--workers=2"])
    assert files_of(root) == files_of(corpus)


def test_texts_come_into_the_manifest(corpus, tmp_path):
    prepare_polsess(corpus, tmp_path, ("test",), workers=1)
    entries = json.loads((tmp_path / "test.json").read_text("utf-8"))
    for row in rows_of(corpus, "test"):
        entry = entries[row["mixFile"].removesuffix(".wav")]
        assert [entry["text1"], entry["text2"]] == [row["speech1Text"], row["speech2Text"]]


def voices(rate):
    (voice,) = [v for v in read_rows(sources.DATA / "voices.csv") if v["speaker"] == "m8-p75"]
    return [voice | {"rate": rate}]


def test_a_sentence_that_is_too_long_is_said_faster(tmp_path):
    setup = Setup(tmp_path, 8000, 2.4, 1, subsets=("test",))
    source = espeak.EspeakSpeech(9.0, voices("120"), sentences="matrix")
    listed = source.prepare(setup)["test"]
    assert max(recording.samples for recording in listed) <= setup.length
    whole = espeak.EspeakSpeech(9.0, voices("120"), sentences="matrix")
    slow = whole.prepare(Setup(tmp_path / "slow", 8000, 9.0, 1, subsets=("test",)))["test"]
    assert [r.text for r in slow] == [r.text for r in listed]
    assert max(recording.samples for recording in slow) > setup.length


def test_a_mixture_that_no_sentence_fits_is_refused(tmp_path):
    setup = Setup(tmp_path, 8000, 0.5, 1, subsets=("test",))
    source = espeak.EspeakSpeech(4.0, voices("160"), sentences="matrix")
    with pytest.raises(InputError, match=r"--duration=0\.5: .* for a sentence.*raise it"):
        source.prepare(setup)
