"""Word errors against a plain Levenshtein loop, and meeteval's own command on the files."""

import itertools
import json

import meeteval
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from custom_modules.recognition.word_errors import (
    WordErrors,
    best_order,
    count_errors,
    count_sessions,
    segments,
    write_seglst,
)

TEXT = st.lists(st.sampled_from(["ala", "ma", "kota", "dwa", "psy"]), max_size=4).map(" ".join)


def distance(reference, hypothesis):
    """Levenshtein's, by the textbook's table."""
    row = list(range(len(hypothesis) + 1))
    for i, word in enumerate(reference, start=1):
        above, row[0] = row[0], i
        for j, other in enumerate(hypothesis, start=1):
            above, row[j] = row[j], min(above + (word != other), row[j] + 1, row[j - 1] + 1)
    return row[-1]


@given(st.lists(TEXT, min_size=2, max_size=2), st.lists(TEXT, min_size=2, max_size=2))
@settings(max_examples=60)
def test_two_streams_are_the_best_of_both_orders(references, streams):
    found = count_errors(references, streams)
    orders = itertools.permutations(streams)
    assert found.errors == min(
        sum(distance(r.split(), h.split()) for r, h in zip(references, order, strict=True))
        for order in orders
    )
    assert found.length == sum(len(text.split()) for text in references)
    assert found.errors == found.insertions + found.deletions + found.substitutions


@given(st.lists(TEXT, min_size=2, max_size=2), TEXT)
@settings(max_examples=60)
def test_one_stream_has_both_texts_one_after_the_other(references, stream):
    """In the order of their starts, which is alike: the first comes first."""
    found = count_errors(references, [stream])
    assert found.errors == distance(" ".join(references).split(), stream.split())
    best = [references[place] for place in best_order(references, [stream])]
    assert count_errors(best, [stream]).errors == min(
        distance(" ".join(order).split(), stream.split())
        for order in (references, references[::-1])
    )


@given(st.lists(TEXT, min_size=2, max_size=2), TEXT)
@settings(max_examples=30)
def test_one_stream_is_never_worse_than_the_same_beside_an_empty_one(references, stream):
    assert (
        count_errors(references, [stream]).errors <= count_errors(references, [stream, ""]).errors
    )


@pytest.mark.parametrize(
    ("references", "streams", "expected"),
    [
        (["", ""], ["", ""], (0, 0, 0, 0, 0)),
        (["", ""], ["coś", ""], (1, 0, 1, 0, 0)),
        (["", ""], ["coś"], (1, 0, 1, 0, 0)),
        (["tak", ""], ["", "tak"], (0, 1, 0, 0, 0)),
        (["", "nie"], [""], (1, 1, 0, 1, 0)),
        (["tak"], ["nie"], (1, 1, 0, 0, 1)),
        (['„3,5”, "rzekł"\n', "Śpij 😀!"], ["trzy przecinek pięć rzekł", "śpij"], (0, 5, 0, 0, 0)),
    ],
)
def test_empty_and_awkward_texts(references, streams, expected):
    assert count_errors(references, streams) == WordErrors(*expected)


def test_files_say_what_was_counted_to_the_digit(tmp_path):
    texts = {
        "a,b/C": (['Ala, "ma"\nkota', "Ś 3,5 😀"], ["ala kota", "ś trzy"]),
        "c/SER": (["tak", ""], ["", "tak nie"]),
        "ż ó/SE": (["", ""], ["x", ""]),
    }
    sides = [[], []]
    for session, pair in texts.items():
        for side, of_session in zip(sides, pair, strict=True):
            side += segments(session, of_session, 4.0)
    paths = [tmp_path / "references.json", tmp_path / "model.json"]
    for path, side in zip(paths, sides, strict=True):
        write_seglst(path, side)
        assert json.loads(path.read_text()) == side
    theirs = meeteval.wer.cpwer(*(meeteval.io.load(path) for path in paths))
    ours = count_sessions(*sides)
    assert ours.keys() == theirs.keys() == texts.keys()
    for session, found in ours.items():
        assert found == tuple(getattr(theirs[session], name) for name in WordErrors._fields)
