"""Laws of the chain: what comes in comes out, and nothing is lost on the way."""

from itertools import pairwise

import numpy as np
import pytest
import soundfile as sf
from hypothesis import given, settings
from hypothesis import strategies as st

from custom_modules.conversation.chain import Chain
from custom_modules.conversation.passages import Passage, atoms, overlap_spans
from custom_modules.conversation.stretches import Stretches
from custom_modules.conversation.tracks import FADE_SECONDS, cover
from custom_modules.errors import InputError
from tests.conversation.talks import RATE, Counting, Oracle, Twice, talk

THREE = ((0, 0.5, 4.0), (1, 3.0, 7.0), (0, 6.0, 9.5))


def chain(separator=None, recogniser=None, **options):
    return Chain(separator, recogniser, activity="energy", **options)


@pytest.mark.parametrize("separate", ["overlaps", "all"])
@pytest.mark.parametrize(
    "turns",
    [
        THREE,
        ((0, 0.0, 3.0), (1, 1.0, 2.0)),  # within a turn, and from the first sample
        ((0, 0.5, 2.5), (1, 0.5, 4.0), (0, 3.5, 10.5)),  # both begin at once; to the last sample
        ((0, 0.5, 2.5), (1, 2.0, 4.5), (2, 4.0, 6.0), (0, 5.5, 8.0)),  # three, two at a time
    ],
)
def test_the_truth_in_is_the_truth_out(separate, turns):
    """Whatever the order, level and sign of a separator's outputs in each stretch."""
    tracks, passages = talk(turns=turns, voices=1 + max(who for who, _, _ in turns))
    oracle = Oracle(tracks)
    made = chain(oracle, separate=separate)(tracks.sum(0), RATE, passages)
    assert len(made.tracks) == len(tracks)
    for who, track in zip("abc", tracks, strict=False):
        np.testing.assert_allclose(made.tracks[who].read(), track, atol=1e-5)
    assert made.notes == []


def test_some_of_the_recording_is_added_where_it_was_separated_and_only_there():
    tracks, passages = talk(turns=THREE)
    mixture = tracks.sum(0)
    made = chain(Oracle(tracks), observation_db=-20)(mixture, RATE, passages)
    inside, around = (np.zeros(len(mixture), bool) for _ in range(2))
    for start, end in made.overlaps:
        inside[round((start + 0.01) * RATE) : round((end - 0.01) * RATE)] = True
        around[round((start - 0.1) * RATE) : round((end + 0.1) * RATE)] = True
    for who, track in zip("ab", tracks, strict=True):
        found = made.tracks[who].read()
        np.testing.assert_allclose(found[inside], (track + 0.1 * mixture)[inside], atol=1e-5)
        np.testing.assert_allclose(found[~around], track[~around], atol=1e-5)


def test_only_overlaps_with_their_context_are_separated():
    tracks, passages = talk(turns=((0, 0.5, 15.0), (1, 14.0, 30.0)), seconds=31)
    oracle = Oracle(tracks)
    chain(oracle)(tracks.sum(0), RATE, passages)
    assert oracle.asked == pytest.approx(9.0, abs=0.01)


def test_a_separator_that_returns_the_mixture_twice_is_none():
    """But for where it is faded, before somebody joins and after he has left."""
    tracks, passages = talk(turns=THREE)
    made = [
        chain(Twice(), separate=separate)(tracks.sum(0), RATE, passages)
        for separate in ("overlaps", "none")
    ]
    fade = round(FADE_SECONDS * RATE)
    heard = np.ones(tracks.shape[1], bool)
    for start, end in made[0].overlaps:
        for edge in (start, end):
            heard[round(edge * RATE) - fade - 1 : round(edge * RATE) + fade + 1] = False
    for who in "ab":
        first, second = (conversation.tracks[who].read() for conversation in made)
        np.testing.assert_allclose(first[heard], second[heard], atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("abcd"), st.floats(0, 3), st.floats(0, 2)), min_size=1, max_size=8
    )
)
def test_tracks_sum_to_the_recording_where_nothing_was_separated(rows):
    """Also the noise in pauses is on one track, and on one only."""
    passages = [Passage(who, start, start + length) for who, start, length in rows]
    noise = np.random.default_rng(0).normal(0, 0.1, 4 * RATE).astype("float32")
    cuts = atoms(passages, RATE, len(noise))
    covered = cover(cuts)
    if not any(atom.speakers for atom in cuts):
        assert covered == []
        return
    assert covered[0].start == 0 and covered[-1].stop == len(noise)
    assert all(a.stop == b.start for a, b in pairwise(covered))
    made = chain(separate="none")(noise, RATE, passages)
    total = sum(track.read() for track in made.tracks.values())
    counted = np.zeros(len(noise), int)
    for atom in covered:
        counted[atom.start : atom.stop] = len(atom.speakers)
    np.testing.assert_allclose(total, counted * noise, atol=1e-6)
    several = sum(atom.stop - atom.start for atom in cuts if len(atom.speakers) > 1) / RATE
    spans = sum(end - start for start, end in overlap_spans(passages) if end > start)
    assert spans == pytest.approx(several, abs=len(rows) * 4 / RATE)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "FLOAT", "ULAW"])
def test_without_overlap_a_recording_comes_out_to_the_sample(tmp_path, subtype):
    from custom_modules.conversation.tracks import write_wav

    tracks, passages = talk(turns=((0, 0.5, 4.0), (1, 4.5, 7.0)))
    path = tmp_path / "talk.wav"
    loud = np.concatenate([tracks.sum(0), [1.0, -1.0, 0.999, -0.999]])
    sf.write(path, loud, RATE, subtype=subtype)
    made = chain(Twice())(path, diarization=passages)
    written, _ = sf.read(path)
    for who, other in ("ab", "ba"):
        write_wav(made.tracks[who], tmp_path / f"{who}.wav", subtype)
        track, _ = sf.read(tmp_path / f"{who}.wav")
        mine, theirs = (
            [slice(round(p.start * RATE), round(p.end * RATE)) for p in passages if p.speaker == x]
            for x in (who, other)
        )
        assert all((track[part] == written[part]).all() for part in mine)
        assert all((track[part] == 0).all() for part in theirs if subtype != "PCM_U8")
    total = sum(track.read() for track in made.tracks.values())
    np.testing.assert_array_equal(total, sf.read(path, dtype="float32")[0])


def test_one_speaker_alone_is_unchanged():
    tracks, passages = talk(turns=((0, 0.5, 4.0), (0, 6.0, 9.0)))
    made = chain(Twice())(tracks[0], RATE, passages)
    assert list(made.tracks) == ["a"]
    np.testing.assert_array_equal(made.tracks["a"].read(), tracks[0])


def test_three_at_once_are_left_as_they_are_and_told():
    turns = ((0, 0.5, 6.0), (1, 2.0, 5.0), (2, 3.0, 4.0))
    tracks, passages = talk(turns=turns, voices=3)
    made = chain(Twice())(tracks.sum(0), RATE, passages)
    middle = slice(round(3.1 * RATE), round(3.9 * RATE))
    for track in made.tracks.values():
        np.testing.assert_allclose(track.read()[middle], tracks.sum(0)[middle], atol=1e-6)
    assert made.notes == ["1.0 s in which more than 2 speak at once were not separated"]


@pytest.mark.parametrize("seconds", [0.01, 0.2, 3.0])
@pytest.mark.parametrize("level", [0.0, 0.05])
@pytest.mark.parametrize("activity", ["silero", "energy"])
def test_silence_noise_and_moments_of_them(seconds, level, activity):
    noise = level * np.random.default_rng(0).normal(size=round(seconds * RATE))
    recogniser = Counting()
    made = Chain(Twice(), recogniser, activity=activity)(noise.astype("float32"), RATE)
    if not level or activity == "silero":
        assert made.tracks == {} and made.utterances == [] and recogniser.given == []
    assert len(made.tracks) <= 1


def test_silence_on_a_track_is_not_recognised():
    """Also where somebody is said to speak."""
    recogniser = Counting()
    silence = np.zeros(5 * RATE, "float32")
    made = chain(Twice(), recogniser)(silence, RATE, [Passage("a", 1, 4), Passage("b", 2, 3)])
    assert made.utterances == [] and recogniser.given == []


def test_a_recording_whose_speakers_are_found():
    tracks, _ = talk(turns=THREE)
    made = chain(Oracle(tracks), num_speakers=2)(tracks.sum(0), RATE)
    assert sorted(made.tracks) == ["spk1", "spk2"]
    found = [(p.speaker, round(p.start, 1), round(p.end, 1)) for p in made.passages]
    wanted = [("spk1", 0.5, 4.0), ("spk2", 3.0, 7.0), ("spk1", 6.0, 9.5)]
    assert [row[0] for row in found] == [row[0] for row in wanted]
    np.testing.assert_allclose([row[1:] for row in found], [row[1:] for row in wanted], atol=0.3)


def test_tracks_that_are_given_are_recognised_alone():
    tracks, passages = talk(turns=THREE)
    recogniser = Counting()
    by_name = {"a": tracks[0], "b": tracks[1]}
    made = chain(None, recogniser)(tracks.sum(0), RATE, passages, tracks=by_name)
    assert made.passages == sorted(passages, key=lambda p: p.start)
    assert [u.speaker for u in made.utterances] == ["a", "b", "a"]
    assert all(said.words == f"{said.end - said.start:.1f} sekund" for said in made.utterances)
    found = chain(None)(tracks.sum(0), RATE, tracks=by_name)
    assert {p.speaker for p in found.passages} == {"a", "b"}


def test_an_enhancer_is_heard_where_one_speaks():
    class Halving:
        rate, sources = RATE, 1

        def separate(self, blocks, start):
            for block in blocks:
                yield block[None] / 2

    tracks, passages = talk(turns=((0, 0.5, 4.0), (1, 4.5, 7.0)))
    made = chain(Twice(), enhancer=Halving())(tracks.sum(0), RATE, passages)
    total = sum(track.read() for track in made.tracks.values())
    np.testing.assert_allclose(total, tracks.sum(0) / 2, atol=1e-6)
    with pytest.raises(InputError, match="--enhancer"):
        chain(Twice(), enhancer=Twice())(tracks.sum(0), RATE, passages)


@pytest.mark.parametrize("rate", [16000, 44100])
def test_other_rates_than_the_model_s(rate):
    """An overlap at the wrong place, or of the wrong length, would not fit its context."""
    from custom_modules.audio import resample

    tracks, passages = talk(turns=THREE)
    wide = np.stack([resample(track, RATE, rate) for track in tracks]).astype("float32")
    made = chain(Oracle(tracks))(wide.sum(0), rate, passages)
    for who, track in zip("ab", wide, strict=True):
        difference = made.tracks[who].read() - track
        assert np.square(difference).sum() < 1e-4 * np.square(track).sum()


def test_a_killed_run_goes_on_where_it_was(tmp_path):
    """After each stage: what was done is not asked for again, and the outcome is the same."""
    tracks, passages = talk(turns=((0, 0.5, 4.0), (1, 3.0, 7.0), (0, 30.0, 40.0), (1, 39.0, 41.0)),
                            seconds=42)  # fmt: skip

    class KilledError(Exception):
        pass

    class Dying(Oracle):
        left = 1

        def separate(self, blocks, start):
            if not self.left:
                raise KilledError
            self.left -= 1
            return super().separate(blocks, start)

    class DyingRecogniser(Counting):
        def transcribe(self, waveforms, rate):
            if self.given:
                raise KilledError
            return super().transcribe(waveforms, rate)

    place = (tracks.sum(0), RATE, passages, None, tmp_path / "work", "a", "key")
    with pytest.raises(KilledError):
        chain(Dying(tracks))(*place)
    oracle, recogniser = Oracle(tracks), DyingRecogniser()
    with pytest.raises(KilledError):
        chain(oracle, recogniser)(*place)
    assert oracle.asked < 12  # the second overlap alone
    first = [length for length, _ in recogniser.given]
    again, rest = Oracle(tracks), Counting()
    made = chain(again, rest)(*place)
    assert again.asked == 0
    whole = chain(Oracle(tracks), Counting())(tracks.sum(0), RATE, passages)
    assert made.utterances == whole.utterances
    assert len(first) + len(rest.given) == len(whole.utterances)
    for who, track in whole.tracks.items():
        np.testing.assert_allclose(made.tracks[who].read(), track.read(), atol=1e-6)
    other = (*place[:-1], "another key")
    assert chain(again, rest)(*other).utterances == whole.utterances
    assert again.asked > 12


def test_who_speaks_behind_the_end_is_told():
    tracks, passages = talk(turns=THREE)
    late = [*passages, Passage("b", 10.0, 20.0), Passage("d", 30.0, 31.0)]
    made = chain(Twice())(tracks.sum(0), RATE, late)
    assert made.notes == ["who speaks when goes on for 20.5 s behind its end: left out"]
    assert list(made.tracks) == ["a", "b"]
    assert max(p.end for p in made.passages) == made.length / RATE


def test_what_cannot_be_is_refused():
    tracks, passages = talk()
    with pytest.raises(InputError, match="--separate=some"):
        chain(separate="some")
    with pytest.raises(InputError, match="--activity=none"):
        Chain(activity="none")
    with pytest.raises(InputError, match="separates no speakers"):
        chain(None)(tracks.sum(0), RATE, passages)
    with pytest.raises(InputError, match="embedding=voice"):
        chain(Twice(), embedding="voice").check()


class Measured(Oracle):
    """Remembers how much it was given at once, s."""

    def separate(self, blocks, start):
        blocks = list(blocks)
        self.longest = max(getattr(self, "longest", 0), sum(map(len, blocks)) / RATE)
        return super().separate(blocks, start)


def test_a_long_overlap_is_separated_in_parts_that_meet():
    tracks, passages = talk(turns=((0, 2, 66), (1, 4, 68)), seconds=70)
    separator = Measured(tracks)
    made = chain(separator, context_seconds=1)(tracks.sum(0), RATE, passages)
    assert 20 < separator.longest < 34
    for who, track in zip("ab", tracks, strict=True):
        heard = made.tracks[who].read(5 * RATE, 65 * RATE)
        error = heard - track[5 * RATE : 65 * RATE]
        assert np.square(error).sum() < 1e-2 * np.square(heard).sum()


def test_of_the_whole_no_more_is_held_than_a_part(monkeypatch):
    tracks, passages = talk(turns=((0, 1, 40), (1, 39, 80), (0, 79, 99)), seconds=100)
    lengths = []
    put = Stretches.put
    monkeypatch.setattr(
        Stretches, "put", lambda self, group: lengths.append(group) or put(self, group)
    )
    chain(Oracle(tracks), separate="all", context_seconds=1)(tracks.sum(0), RATE, passages)
    assert max(group[-1].stop - group[0].start for group in lengths) <= 30 * RATE
