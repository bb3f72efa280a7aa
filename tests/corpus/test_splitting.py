"""Nobody, and no recording, is in two subsets."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from custom_modules.corpus import splitting
from custom_modules.corpus.sources import Recording, Setup
from custom_modules.errors import InputError
from custom_modules.layout import SUBSETS

names = st.lists(st.text("abcdef", min_size=1), min_size=6, max_size=60, unique=True)


@given(names, st.integers(0, 99), st.randoms())
def test_speakers_are_divided_and_every_subset_has_two(speakers, seed, random):
    genders = {name: random.choice(["female", "male", ""]) for name in speakers}
    split = splitting.split_speakers(genders, SUBSETS, seed)
    everybody = [name for subset in SUBSETS for name in split[subset]]
    assert sorted(everybody) == sorted(speakers)
    assert min(map(len, split.values())) >= 2
    backwards = dict(reversed(genders.items()))
    assert splitting.split_speakers(backwards, SUBSETS, seed) == split


@given(st.integers(3, 30), st.integers(0, 99))
def test_genders_are_balanced(pairs, seed):
    genders = {f"f{n}": "female" for n in range(pairs)}
    genders |= {f"m{n}": "male" for n in range(pairs)}
    for chosen in splitting.split_speakers(genders, SUBSETS, seed).values():
        women = sum(name.startswith("f") for name in chosen)
        assert abs(2 * women - len(chosen)) <= 1


def test_another_seed_divides_otherwise():
    genders = dict.fromkeys("abcdefghijkl", "")
    splits = {str(splitting.split_speakers(genders, SUBSETS, seed)["test"]) for seed in range(9)}
    assert len(splits) > 3


@pytest.mark.parametrize(
    ("number", "subsets", "remedy"),
    [
        (5, SUBSETS, "add speakers, or set --val_speakers=train$"),
        (3, ("train", "test"), "add speakers$"),
        (0, ("train",), "add speakers$"),
    ],
)
def test_too_few_speakers_name_the_remedy(number, subsets, remedy):
    genders = dict.fromkeys("abcdef"[:number], "")
    with pytest.raises(InputError, match=remedy):
        splitting.split_speakers(genders, subsets, 1)


def setup_of(seed):
    return Setup(Path(), 8000, 4.0, seed)


def recordings(groups, number):
    return [Recording(f"{g}/{n}.wav", g, 100) for g in groups for n in range(number)]


@given(st.integers(2, 40), st.integers(0, 99))
def test_held_out_recordings_are_other_ones_of_every_speaker(number, seed):
    kept, taken = splitting.hold_out(recordings("ab", number), seed)
    assert {r.path for r in kept} | {r.path for r in taken} == {
        r.path for r in recordings("ab", number)
    }
    assert not {r.path for r in kept} & {r.path for r in taken}
    for listed in (kept, taken):
        assert {r.group for r in listed} == {"a", "b"}


def test_a_single_recording_cannot_be_held_out():
    with pytest.raises(InputError, match="'a' has one recording"):
        splitting.hold_out(recordings("a", 1), 1)


@given(st.integers(3, 50), st.integers(0, 99))
def test_each_class_is_in_every_subset_and_no_recording_in_two(number, seed):
    split = splitting.split_by_class(recordings("xyz", number), setup_of(seed))
    paths = [r.path for subset in SUBSETS for r in split[subset]]
    assert sorted(paths) == sorted(r.path for r in recordings("xyz", number))
    for listed in split.values():
        assert {r.group for r in listed} == {"x", "y", "z"}
    assert len(split["train"]) >= max(len(split["val"]), len(split["test"]))


def test_parts_of_one_recording_stay_together():
    parts = [
        Recording(f"rain/{clip}-{take}.ogg", "rain", 100) for clip in range(6) for take in "ABC"
    ]
    split = splitting.split_by_class(parts, setup_of(1), r"^\d+")
    clips = {s: {r.path[5] for r in listed} for s, listed in split.items()}
    assert sum(map(len, clips.values())) == 6
    assert sum(map(len, split.values())) == 18


def test_too_few_recordings_are_refused():
    with pytest.raises(InputError, match="too few for"):
        splitting.split_by_class(recordings("xyz", 1), setup_of(1))


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"train": ["a", "b"], "test": ["b", "c"]}, "'b' is in train and in test"),
        ({"train": ["a", "z"]}, "'z' of train has no recordings"),
        ({"train": ["a"]}, "fewer than two"),
    ],
)
def test_explicit_speakers_are_checked(split, message):
    with pytest.raises(InputError, match=message):
        splitting.check_explicit(split, set("abc"))
