"""Mixtures and speech that occur more than once."""

import os
import shutil

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from custom_modules.errors import InputError
from custom_modules.manifest.checks import survey_audio
from custom_modules.manifest.csv_tables import Table, find_table, read_table
from custom_modules.manifest.duplicates import content_ids, find_repetitions
from tests.manifest.tiny_corpus import TinyCorpus, three_subsets

FACTS = {"mix": "", "device": 0, "inode": 0, "size": 0, "excerpt": 0}


def repetitions(corpus, subsets=("train", "val", "test")):
    root = str(corpus.root)
    tables = [read_table(find_table(root, name), name, root) for name in subsets]
    tables, _ = survey_audio(tables, root, "header", workers=1)
    return find_repetitions(tables, root)


def found(corpus, **options):
    return [(r.what, r.original, r.copy, r.rows) for r in repetitions(corpus, **options)]


def copy_mixture(corpus, source, target, copy):
    """Gives the mixture of one row the content of another one's."""
    target_path = corpus.path(target[0], "mixFile", f"{target[1]}.wav")
    target_path.unlink()
    copy(corpus.path(source[0], "mixFile", f"{source[1]}.wav"), target_path)


@pytest.fixture
def corpus(tmp_path):
    return three_subsets(tmp_path / "Tiny")


def test_a_sound_corpus_has_none(corpus):
    assert repetitions(corpus) == []


@pytest.mark.parametrize("copy", [shutil.copy, os.link])
def test_a_mixture_twice_in_a_subset(corpus, copy):
    copy_mixture(corpus, ("train", "train_1"), ("train", "train_3"), copy)
    (repetition,) = repetitions(corpus)
    assert (repetition.what, repetition.rows) == ("mixture", 1)
    assert not repetition.is_leakage
    assert repetition.examples == ["train: row 4 repeats row 2"]


@pytest.mark.parametrize("copy", [shutil.copy, os.link])
def test_a_mixture_in_two_subsets(corpus, copy):
    copy_mixture(corpus, ("train", "train_2"), ("test", "test_1"), copy)
    (repetition,) = repetitions(corpus)
    assert repetition.is_leakage
    assert str(repetition) == "LEAKAGE: rows of test that share a mixture with train: 1"
    assert "test: row 2 is row 3 of train" in repetition.examples[0]


def test_files_that_differ_outside_the_excerpt_are_not_the_same(tmp_path):
    corpus = TinyCorpus(tmp_path, frames=8000)
    corpus.add("train", "a")
    corpus.add("train", "b")
    corpus.write_tables()
    samples = corpus.read("train", "mixFile", "a.wav")
    samples[0] += 1
    corpus.write("train", "mixFile", "b.wav", samples)
    assert repetitions(corpus, ["train"]) == []
    samples[0] -= 1
    corpus.write("train", "mixFile", "b.wav", samples)
    assert found(corpus, subsets=["train"]) == [("mixture", "train", "train", 1)]


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=12))
def test_content_ids_agree_with_the_bytes(tmp_path_factory, files):
    folder = tmp_path_factory.mktemp("files")
    rows = []
    for number, (content, linked) in enumerate(files):
        path, origin = folder / f"{number}", folder / f"origin{content}"
        origin.write_text(f"content {content % 3}")
        if linked:
            os.link(origin, path)
        else:
            shutil.copy(origin, path)
        # All excerpts agree, so that nothing but the whole file can tell.
        inode = os.stat(path).st_ino
        rows.append(FACTS | {"mix": path.name, "inode": inode, "size": 9})
    ids = content_ids(pd.DataFrame(rows, columns=list(FACTS)), str(folder))
    for (first, _), one in zip(files, ids, strict=True):
        for (second, _), other in zip(files, ids, strict=True):
            assert (one == other) == (first % 3 == second % 3)


def test_an_inode_means_nothing_on_another_disk(tmp_path):
    rows = pd.DataFrame([FACTS | {"excerpt": 1}, FACTS | {"device": 1, "excerpt": 2}])
    assert content_ids(rows, str(tmp_path)).nunique() == 2


def test_a_mixture_that_goes_away_meanwhile(tmp_path):
    rows = pd.DataFrame([FACTS | {"mix": name, "inode": n} for n, name in enumerate("ab")])
    with pytest.raises(InputError, match="a: cannot be read"):
        content_ids(rows, str(tmp_path))


def with_speech(corpus, subset, stem, first, second):
    """Adds a row whose speakers say (recording, start, end)."""
    cells = {}
    for speaker, values in ((1, first), (2, second)):
        for name, value in zip(("OryginalPath", "Start", "End"), values, strict=True):
            cells[f"speech{speaker}{name}"] = value
    corpus.add(subset, stem, **cells)


def test_a_pair_of_segments_twice_even_if_the_speakers_change_places(tmp_path):
    corpus = TinyCorpus(tmp_path)
    one, two = ("x.wav", 0, 4), ("y.wav", 1, 5)
    with_speech(corpus, "train", "a", one, two)
    with_speech(corpus, "train", "b", two, one)
    with_speech(corpus, "train", "c", one, ("y.wav", 2, 6))
    with_speech(corpus, "train", "d", one, ("", "", ""))
    with_speech(corpus, "train", "e", one, ("", "", ""))
    corpus.write_tables()
    assert found(corpus, subsets=["train"]) == [("pair of speech segments", "train", "train", 1)]


def test_without_segment_columns_only_mixtures_are_compared(tmp_path):
    corpus = TinyCorpus(tmp_path)
    for subset in ("train", "test"):
        with_speech(corpus, subset, subset, ("x.wav", 0, 4), ("y.wav", 1, 5))
    corpus.write_tables()
    both = ["train", "test"]
    assert found(corpus, subsets=both) == [("stretch of speech", "train", "test", 1)]
    corpus.write_tables(drop=["speech2OryginalPath"])
    assert found(corpus, subsets=both) == [("stretch of speech", "train", "test", 1)]
    corpus.write_tables(drop=["speech1OryginalPath", "speech2OryginalPath"])
    assert found(corpus, subsets=both) == []


@pytest.mark.parametrize(
    ("start", "end", "overlaps"),
    [(0, 2, False), (0, 3, True), (5, 9, True), (6, 9, False), (3, 4, True), ("", "", True)],
)
def test_speech_of_one_recording_overlaps_or_does_not(tmp_path, start, end, overlaps):
    corpus = TinyCorpus(tmp_path)
    with_speech(corpus, "train", "a", (r"D:\pl\x.wav", 2, 6), ("y.wav", 0, 4))
    with_speech(corpus, "test", "b", ("z.wav", 0, 4), ("D:/pl/x.wav", start, end))
    corpus.write_tables()
    shared = repetitions(corpus, ["train", "test"])
    assert bool(shared) == overlaps
    if overlaps:
        assert shared[0].is_leakage
        assert shared[0].examples == ["test: row 2 and row 2 of train share D:/pl/x.wav"]


@pytest.mark.parametrize(
    ("stretch", "overlaps"),
    [
        *[(("x.wav", 0, 3), False), (("x.wav", 3, 5), True), (("y.wav", 9, 10), True)],
        *[(("z.wav", 1, 9), True), (("z.wav", 2, 9), False)],
        *[(("w.wav;y.wav", 5, 1), True), (("z.wav;w.wav", 3, 1), False)],
    ],
)
def test_joined_recordings_overlap_with_each_of_them(tmp_path, stretch, overlaps):
    """The first from its start, the last to its end, those between as a whole."""
    corpus = TinyCorpus(tmp_path)
    with_speech(corpus, "train", "a", ("x.wav;y.wav;z.wav", 4, 2), ("v.wav", 0, 4))
    with_speech(corpus, "test", "b", ("u.wav", 0, 4), stretch)
    corpus.write_tables()
    assert bool(repetitions(corpus, ["train", "test"])) == overlaps


segment = st.tuples(st.sampled_from("xy"), st.integers(0, 9), st.integers(1, 4))


@given(st.lists(segment, min_size=1, max_size=8), st.lists(segment, min_size=1, max_size=8))
def test_leaked_rows_are_those_that_a_double_loop_finds(train, test):
    tables = [segment_table("train", train, inode=0), segment_table("test", test, inode=100)]
    expected = sum(
        any(r == r2 and s < s2 + n2 and s2 < s + n for r2, s2, n2 in train) for r, s, n in test
    )
    leaks = [r for r in find_repetitions(tables, "") if r.is_leakage]
    assert sum(leak.rows for leak in leaks) == expected


def segment_table(subset, segments, inode):
    """A table of which only the first speaker's segments are known."""
    recordings, starts, lengths = zip(*segments, strict=True)
    rows = pd.DataFrame({"recording1": recordings, "start1": np.array(starts, float)})
    rows["end1"] = rows["start1"] + np.array(lengths)
    rows = rows.assign(**FACTS)
    rows["inode"] = rows["excerpt"] = np.arange(len(rows)) + inode
    return Table(subset, path=None, rows=rows)
