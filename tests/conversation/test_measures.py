"""Measures of conversations against plain loops and against what meeteval and pyannote say."""

from dataclasses import replace

import meeteval
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from custom_modules.conversation.measures import MEASURES, Case, leakage, measure, overlap_mask
from custom_modules.conversation.passages import Passage
from custom_modules.errors import InputError


def said(*lines):
    return [Passage(*line) for line in lines]


TRUTH = said(("ada", 0.0, 4.0), ("bea", 3.0, 6.0), ("ada", 7.0, 9.0), ("bea", 8.5, 8.8))


def seglst(passages):
    keys = {"session_id": "talk"}
    return meeteval.io.SegLST(
        [
            keys
            | {"speaker": p.speaker, "start_time": p.start, "end_time": p.end, "words": p.words}
            for p in passages
        ]
    )


def later(passages, seconds):
    return [replace(p, start=p.start + seconds, end=p.end + seconds) for p in passages]


WORDS = said(("ada", 0, 4, "ala ma kota"), ("bea", 3, 6, "a kot ma"), ("ada", 7, 9, "alę i sierść"))


def value(case, name):
    over, under = measure(case)[name]
    return MEASURES[name].scale * over / under


def frames(activity, seconds, step=0.01):
    """Talker → whether he speaks in each frame."""
    times = np.arange(0, seconds, step) + step / 2
    names = sorted({p.speaker for p in activity})
    return {
        name: np.any(
            [(times > p.start) & (times < p.end) for p in activity if p.speaker == name], 0
        )
        for name in names
    }


def activities(names):
    time = st.integers(0, 1900).map(lambda hundredths: hundredths / 100)
    length = st.integers(5, 100).map(lambda hundredths: hundredths / 100)
    line = st.tuples(st.sampled_from(names), time, length)
    return st.lists(line.map(lambda x: Passage(x[0], x[1], x[1] + x[2])), max_size=8)


@given(activities("ab"), activities("xyz"))
@settings(max_examples=30, deadline=None)
def test_time_is_counted_as_frame_by_frame(truth, found):
    case = Case(20.0, truth, found)
    true, made = frames(truth, 20), frames(found, 20)
    n_true, n_made = (np.sum([np.zeros(2000, int), *x.values()], axis=0) for x in (true, made))
    correct = sum(
        (true[talker] & made[name]).sum()
        for name, talker in case.talker_of.items()
        if talker in true and name in made
    )
    both = ((n_true > 1) & (n_made > 1)).sum() / 100
    assert measure(case)["overlap_recall"] == pytest.approx((both, (n_true > 1).sum() / 100))
    assert measure(case)["overlap_precision"] == pytest.approx((both, (n_made > 1).sum() / 100))
    missed = np.maximum(0, n_true - n_made).sum() / 100
    false = np.maximum(0, n_made - n_true).sum() / 100
    confused = (np.minimum(n_true, n_made).sum() - correct) / 100
    assert measure(case)["der_0"] == pytest.approx((missed + false + confused, n_true.sum() / 100))


def test_a_collar_forgives_boundaries_on_both_sides():
    shifted = later(TRUTH, 0.2)
    assert value(Case(10.0, TRUTH, shifted), "der") == 0
    assert value(Case(10.0, TRUTH, shifted), "der_0") > 0
    assert value(Case(10.0, TRUTH, later(TRUTH, 0.3)), "der") > 0


def test_components_add_up_to_the_error():
    found = said(("1", 0.5, 3.0), ("2", 2.0, 6.5), ("2", 7.0, 8.0))
    case = Case(10.0, TRUTH, found)
    parts = sum(value(case, name) for name in ("missed", "false_alarm", "confusion"))
    assert value(case, "der") == pytest.approx(parts)


def test_each_component_is_of_its_kind():
    """Nobody found, somebody too many, and one for the other."""
    one, two = said(("ada", 1.0, 3.0)), said(("1", 1.0, 3.0), ("2", 5.0, 7.0))
    parts = said(("ada", 1.0, 5.0)), said(("1", 1.0, 3.0), ("2", 3.0, 5.0))
    kinds = "missed", "false_alarm", "confusion"
    for kind, truth, found in (
        ("missed", one, []),
        ("false_alarm", one, two),
        ("confusion", *parts),
    ):
        values = {name: value(Case(10.0, truth, found), name) for name in kinds}
        assert values.pop(kind) > 0.3 and set(values.values()) == {0.0}


def test_more_talkers_than_can_be_counted_are_a_line():
    many = [Passage(f"t{n}", n, n + 1, "tak") for n in range(21)]
    with pytest.raises(InputError, match="21 talkers; words are counted of 20 at most"):
        measure(Case(30.0, many, TRUTH, many, WORDS))


def test_a_talker_s_overlaps_are_marked():
    mask = overlap_mask(TRUTH, "bea", 1000, 100)
    assert list(np.flatnonzero(np.diff(mask.astype(int)))) == [299, 399, 849, 879]


def test_words_are_those_of_meeteval():
    heard = said(("1", 0, 4, "ala ma psa"), ("2", 3, 6, "a kot"), ("2", 7, 9, "alę i sierść"))
    case = Case(10.0, TRUTH, TRUTH, WORDS, heard)
    lists = [seglst(x) for x in (WORDS, heard)]
    cp, orc = meeteval.wer.cpwer(*lists)["talk"], meeteval.wer.orcwer(*lists)["talk"]
    tcp = meeteval.wer.tcpwer(*lists, collar=5)["talk"]
    assert measure(case)["cpwer"] == (cp.errors, cp.length)
    assert measure(case)["tcpwer"] == (tcp.errors, tcp.length)
    assert measure(case)["orcwer"] == (orc.errors, orc.length)
    assert cp.errors > orc.errors == 2


def test_words_far_from_their_time_do_not_count():
    case = Case(60.0, TRUTH, TRUTH, WORDS, later(WORDS, 30))
    assert value(case, "cpwer") == 0
    assert value(case, "tcpwer") == 200


def test_what_is_not_there_is_not_measured():
    without = measure(Case(10.0, TRUTH, TRUTH))
    assert set(without) == {n for n, entry in MEASURES.items() if not entry.needs}
    silent = measure(Case(10.0, TRUTH, [], WORDS, []))
    assert silent["cpwer"] == (9, 9)
    assert silent["overlap_recall"][0] == 0
    assert "cpwer" not in measure(Case(10.0, TRUTH, TRUTH, said(("ada", 0, 1, "")), WORDS))


@pytest.fixture(scope="module")
def voices():
    rng = np.random.default_rng(7)
    rate, images = 1000, {}
    for name in ("ada", "bea"):
        active = frames(TRUTH, 10, 1 / rate)[name]
        images[name] = 0.1 * rng.standard_normal(len(active)) * active
    return images


@pytest.mark.parametrize("level", [-30.0, -10.0, 0.0])
def test_leakage_is_the_level_that_was_added(voices, level):
    images = np.stack(list(voices.values()), axis=1)
    energy = np.square(images).sum(0)
    gain = 10 ** (level / 20) * np.sqrt(energy[0] / energy[1])
    track = 0.5 * (images[:, 0] + gain * images[:, 1])
    assert leakage(track, images, 0, 1000) == pytest.approx(level, abs=0.3)
    assert leakage(-track, images, 0, 1000) == leakage(track, images, 0, 1000)


def test_leakage_of_clean_foreign_and_silent_tracks(voices):
    images = np.stack(list(voices.values()), axis=1)
    assert leakage(images[:, 0], images, 0, 1000) == -60
    assert leakage(images[:, 0], images, 1, 1000) == 60
    assert leakage(0 * images[:, 0], images, 0, 1000) is None


def test_si_sdr_is_that_of_the_overlaps(voices):
    rng = np.random.default_rng(1)
    tracks, expected = {}, []
    for number, (name, clean) in enumerate(voices.items()):
        noise = 0.02 * rng.standard_normal(len(clean))
        tracks[f"s{number}"] = clean + noise
        inside = overlap_mask(TRUTH, name, len(clean), 1000)
        a, b = clean[inside], (clean + noise)[inside]
        a, b = a - a.mean(), b - b.mean()
        part = a * (a @ b) / (a @ a)
        expected.append(10 * np.log10((part @ part) / ((b - part) @ (b - part))))
    found = [replace(p, speaker={"ada": "s0", "bea": "s1"}[p.speaker]) for p in TRUTH]
    case = Case(10.0, TRUTH, found, None, None, 1000, voices, voices, tracks)
    assert case.talker_of == {"s0": "ada", "s1": "bea"}
    assert measure(case)["si_sdr"] == pytest.approx((sum(expected), 2), abs=0.01)
    swapped = Case(
        10.0,
        TRUTH,
        found,
        None,
        None,
        1000,
        voices,
        voices,
        dict(zip(tracks, list(tracks.values())[::-1], strict=True)),
    )
    assert value(swapped, "si_sdr") < 0
    assert value(swapped, "leakage") > 0
