"""The published procedure, measured on the layers that it makes; its segments."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from custom_modules import audio
from custom_modules.corpus import mixing, reverb, sources
from custom_modules.corpus.events import ProceduralEvents
from custom_modules.corpus.mixing import Mixer
from custom_modules.corpus.scenes import ProceduralScenes
from custom_modules.corpus.sources import Recording, Setup, Source
from custom_modules.errors import InputError
from custom_modules.layout import COLUMNS
from tests.corpus.recordings import SPEAKERS, talker

RATE = 8000
NUMBER = 40
#: Of the segments that are cut from recordings of numbers.
SETUP = Setup(Path(), rate=100, duration=4.0, seed=1)


class Noise(Source):
    """Six talkers of noise; ``level`` is their loudness."""

    def __init__(self, level=0.05):
        self.level = level

    def prepare(self, setup):
        listed = [Recording(f"{name}/0.wav", name, 5 * RATE) for name in SPEAKERS]
        return {"train": listed}

    def read(self, recording, start, length, rate):
        seed = SPEAKERS.index(recording.group)
        return talker(seed, 5.0, rate, self.level)[start : start + length]


def make_mixer(tmp_path, level=0.05, seed=1, **options):
    setup = Setup(tmp_path, RATE, 2.0, seed, subsets=("train",))
    sources = {
        "speech": Noise(level),
        "scene": ProceduralScenes(2, seconds=2.0),
        "event": ProceduralEvents(1),
    }
    listed = {role: source.prepare(setup) for role, source in sources.items()}
    return Mixer(setup, sources, listed, **options)


@pytest.fixture(scope="module")
def mixtures(tmp_path_factory):
    mixer = make_mixer(tmp_path_factory.mktemp("mix"), indoor_share=0.5)
    return [mixer.mixture("train", index) for index in range(NUMBER)]


def rms(samples):
    return np.sqrt(np.mean(np.square(samples.astype(float))))


def db(ratio):
    return 20 * np.log10(ratio)


def test_mix_is_the_exact_sum_of_its_layers(mixtures):
    for mixture in mixtures:
        parts = [v.astype(int) for k, v in mixture.layers.items() if k != "mix"]
        np.testing.assert_array_equal(sum(parts), mixture.layers["mix"])
        assert all(v.dtype == np.int16 for v in mixture.layers.values())
        assert {len(v) for v in mixture.layers.values()} == {2 * RATE}


def test_ratio_of_the_talkers_is_what_the_row_says(mixtures):
    ratios = [int(mixture.row["SSR"]) for mixture in mixtures]
    for ratio, mixture in zip(ratios, mixtures, strict=True):
        measured = db(rms(mixture.layers["s1"]) / rms(mixture.layers["s2"]))
        assert measured == pytest.approx(ratio, abs=0.01)
    assert set(ratios) <= set(range(-5, 6))
    assert len(set(ratios)) >= 8


def test_scene_is_at_its_level_relative_to_the_speech_mix(mixtures):
    for mixture in mixtures:
        layers, row = mixture.layers, mixture.row
        speech = layers["s1"].astype(int) + layers["s2"]
        relative = float(row["sceneOffsetDB"])
        assert -14 <= relative <= 0
        assert row["sceneRandomDB"] == row["sceneOffsetDB"]
        assert db(rms(layers["scene"]) / rms(speech)) == pytest.approx(relative, abs=0.01)


def test_gain_is_what_the_scene_was_multiplied_by(mixtures, tmp_path):
    mixer = make_mixer(tmp_path)
    by_path = {r.path: r for r in mixer.recordings["scene"]["train"]}
    for mixture in mixtures:
        scene, gain = (
            by_path[mixture.row["sceneOryginalPath"]],
            float(mixture.row["sceneVolumeGain"]),
        )
        samples = mixer.sources["scene"].read(scene, 0, 2 * RATE, RATE)
        assert rms(mixture.layers["scene"]) / 32768 == pytest.approx(gain * rms(samples), rel=1e-3)


def test_speaker_1_and_event_keep_their_level(mixtures, tmp_path):
    mixer = make_mixer(tmp_path)
    by_path = {r.path: r for r in mixer.recordings["event"]["train"]}
    for mixture in mixtures:
        row = mixture.row
        original = talker(SPEAKERS.index(row["speech1OryginalPath"][:3]), 5.0, RATE)
        start = int(row["speech1Start"]) - 1
        segment = original[start : start + 2 * RATE]
        assert np.abs(mixture.layers["s1"] / 32768 - segment).max() <= 0.5 / 32768
        event = by_path[row["eventOryginalPath"]]
        whole = mixer.sources["event"].read(event, 0, event.samples, RATE)
        start, end = (int(row[f"event{k}"]) for k in ("Start", "End"))
        expected = np.abs(whole[start - 1 : end]).max()
        assert np.abs(mixture.layers["event"]).max() / 32768 == pytest.approx(expected, abs=1e-4)


def test_talkers_are_two_people_who_talk_at_once(mixtures):
    for mixture in mixtures:
        row, layers = mixture.row, mixture.layers
        assert row["speech1OryginalPath"] != row["speech2OryginalPath"]
        both = [np.abs(layers[k]).reshape(-1, 160).max(axis=1) > 0 for k in ("s1", "s2")]
        assert np.mean(both[0] & both[1]) >= 0.3


def test_no_pair_of_segments_comes_twice(mixtures):
    pairs = {
        frozenset((m.row[f"speech{n}OryginalPath"], m.row[f"speech{n}Start"]) for n in "12")
        for m in mixtures
    }
    assert len(pairs) == NUMBER


def test_event_suits_the_scene(mixtures):
    for row in (mixture.row for mixture in mixtures):
        assert row["sceneClass"] in sources.event_scenes()[row["eventClass"]]


def test_reverberation_is_indoors_only(mixtures):
    wet = {"s1_reverb", "s2_reverb", "event_reverb"}
    cells = {"reverbForSpeaker1", "reverbForSpeaker2", "reverbForEvent"}
    cells |= {"preDelay1", "preDelay2", "preDelayForEvent"}
    cells |= {"highCut", "diffusion", "decay", "freqDamp"}
    indoor = 0
    for mixture in mixtures:
        scene = sources.scene_classes()[mixture.row["sceneClass"]]
        inside = scene.environment == "indoor"
        indoor += inside
        assert wet <= mixture.layers.keys() if inside else not wet & mixture.layers.keys()
        assert cells <= mixture.row.keys() if inside else not cells & mixture.row.keys()
    assert 0.25 * NUMBER < indoor < 0.75 * NUMBER


def test_wet_layers_follow_from_the_row(mixtures):
    columns = {"s1": "preDelay1", "s2": "preDelay2", "event": "preDelayForEvent"}
    for mixture in mixtures:
        row, layers = mixture.row, mixture.layers
        if "highCut" not in row:
            continue
        columns_of_room = ("highCut", "diffusion", "decay", "freqDamp")
        room = {column: float(row[column]) for column in columns_of_room}
        response = reverb.impulse_response(room, 2 * RATE, RATE)
        for dry, column in columns.items():
            expected = reverb.wet(layers[dry] / 32768, response, float(row[column]), RATE)
            made = layers[f"{dry}_reverb"] / 32768
            assert np.abs(made - expected).max() < 1e-3


def test_indoor_share_is_kept(tmp_path):
    mixer = make_mixer(tmp_path, indoor_share=1.0)
    rows = [mixer.mixture("train", index).row for index in range(10)]
    assert all(row["reverbForSpeaker1"] for row in rows)


def test_mixture_depends_on_seed_subset_and_index_only(tmp_path):
    forwards, backwards = make_mixer(tmp_path), make_mixer(tmp_path)
    made = {i: forwards.mixture("train", i) for i in range(4)}
    for index in reversed(range(4)):
        again = backwards.mixture("train", index)
        assert again.row == made[index].row
        for layer, samples in again.layers.items():
            np.testing.assert_array_equal(samples, made[index].layers[layer])
    other = make_mixer(tmp_path, seed=2).mixture("train", 0)
    assert other.row != made[0].row


def test_loud_candidates_are_drawn_again(tmp_path):
    mixer = make_mixer(tmp_path, level=0.17)
    made = [mixer.mixture("train", index) for index in range(12)]
    assert sum(mixture.tries for mixture in made) > 12
    for mixture in made:
        assert np.abs(mixture.layers["mix"].astype(int)).max() < 0.9999 * 32768
        for samples in mixture.layers.values():
            assert np.abs(samples.astype(int)).max() <= round(0.9999 * 32768)
        dry = max(np.abs(mixture.layers[k].astype(int)).max() for k in ("s1", "s2"))
        assert dry <= round(0.999 * 32768)


def test_sources_beyond_full_scale_are_limited(tmp_path):
    mixer = make_mixer(tmp_path)
    mixer.sources["event"].quietest = mixer.sources["event"].loudest = 3.0
    with pytest.raises(InputError, match=r"mix at full scale: 3, event_reverb at full scale: 2"):
        Mixer(mixer.setup, mixer.sources, mixer.recordings, max_tries=5).mixture("train", 0)


class Clicks(ProceduralScenes):
    """Soft noise in which a few samples are loud, recorded beyond full scale."""

    def read(self, recording, start, length, rate):
        samples = 0.03 * np.random.default_rng(len(recording.path)).standard_normal(length)
        samples[1000:1012] = 3.0 * np.sin(np.pi * (np.arange(12) + 0.5) / 12)
        return samples


@pytest.mark.parametrize(("level", "mixtures"), [(0.01, 12), (0.05, 12), (0.14, 3)])
def test_no_layer_is_cut_off_after_its_gain(tmp_path, level, mixtures):
    mixer = make_mixer(tmp_path, level=level, max_tries=3000)
    mixer.sources["scene"].__class__ = Clicks
    gains, tries = [], 0
    for index in range(mixtures):
        mixture = mixer.mixture("train", index)
        layers, row = mixture.layers, mixture.row
        speech = layers["s1"].astype(int) + layers["s2"]
        relative = float(row["sceneOffsetDB"])
        assert db(rms(layers["scene"]) / rms(speech)) == pytest.approx(relative, abs=0.02)
        assert db(rms(layers["s1"]) / rms(layers["s2"])) == pytest.approx(int(row["SSR"]), abs=0.02)
        source = audio.limit(
            Clicks.read(None, Recording(row["sceneOryginalPath"], "", 0), 0, 2 * RATE, RATE)
        )
        gain = float(row["sceneVolumeGain"])
        np.testing.assert_allclose(layers["scene"] / 32768, gain * source, atol=2e-5)
        gains.append(gain)
        tries += mixture.tries
    assert max(gains) < 1.001
    assert (tries > mixtures) == (level > 0.01)


def test_speech_recorded_too_loud_keeps_its_ratio(tmp_path):
    """Each talker's own peaks are cut off, as in the published script, before the ratio is."""
    mixer = make_mixer(tmp_path, max_tries=3000)

    def read(recording, start, length, rate):
        samples = Noise().read(recording, start, length, rate)
        samples[::997] = 2.5 * (-1) ** SPEAKERS.index(recording.group)
        return samples

    mixer.sources["speech"].read = read
    for index in range(12):
        mixture = mixer.mixture("train", index)
        ratio = db(rms(mixture.layers["s1"]) / rms(mixture.layers["s2"]))
        assert ratio == pytest.approx(int(mixture.row["SSR"]), abs=0.01)


@pytest.mark.parametrize(
    ("level", "reason"), [(2.0, "speech at full scale"), (0.0, "talkers hardly overlap")]
)
def test_hopeless_recordings_end_in_one_line(tmp_path, level, reason):
    mixer = make_mixer(tmp_path, level=level, max_tries=7)
    with pytest.raises(InputError, match=rf"train_00003: all of 7 .*{reason}: 7"):
        mixer.mixture("train", 3)


def test_row_has_polsess_s_columns(mixtures):
    assert len(COLUMNS) == 34
    for mixture in mixtures:
        assert mixture.row.keys() <= set(COLUMNS)
        missing = set(COLUMNS) - mixture.row.keys()
        assert bool(missing) == ("reverbForSpeaker1" not in mixture.row)


class Numbered:
    """A source whose samples say which recording and which position they are."""

    def __init__(self, lengths):
        self.recordings = [Recording(f"ada/{n}.wav", "ada", size) for n, size in enumerate(lengths)]

    def read(self, recording, start, length, rate):
        assert rate == SETUP.rate
        assert start >= 0
        assert start + length <= recording.samples
        number = self.recordings.index(recording)
        return 10000.0 * (number + 1) + np.arange(start, start + length)


def cut_speech(lengths, turn, rng):
    source = Numbered(lengths)
    return mixing.cut_speech(source, source.recordings, SETUP, turn, rng)


@given(st.lists(st.integers(1, 900), min_size=1, max_size=5), st.integers(0, 10**7))
def test_no_start_comes_twice_while_others_are_left(lengths, first_turn):
    rng = np.random.default_rng(0)
    choices = sum(n - SETUP.length + 1 if n >= SETUP.length else max(1, n // 2) for n in lengths)
    number = min(choices, 60)
    cuts = [cut_speech(lengths, first_turn + turn, rng) for turn in range(number)]
    starts = {(cut.path.split(";")[0], cut.start) for cut in cuts}
    assert len(starts) == number
    assert all(len(cut.samples) == SETUP.length for cut in cuts)


def test_long_recording_is_cut_where_the_row_says():
    rng = np.random.default_rng(0)
    for turn in range(50):
        cut = cut_speech([1000, 700], turn, rng)
        number = int(cut.path[4]) + 1
        expected = 10000.0 * number + np.arange(cut.start, cut.end)
        np.testing.assert_array_equal(cut.samples, expected)


@given(st.integers(0, 1000))
def test_short_recordings_are_joined_with_short_gaps(turn):
    cut = cut_speech([90, 110, 100, 120, 130, 95, 105], turn, np.random.default_rng(turn))
    paths = cut.path.split(";")
    assert len(paths) == len(set(paths)) >= 3
    heard = cut.samples[cut.samples > 0]
    order = [f"ada/{int(v // 10000) - 1}.wav" for v in heard]
    assert list(dict.fromkeys(order)) == paths
    assert heard[0] % 10000 == cut.start
    assert heard[-1] % 10000 == cut.end - 1
    gaps = np.diff(np.flatnonzero(cut.samples > 0)) - 1
    assert gaps.max() <= mixing.LONGEST_GAP * SETUP.rate
    assert sum(gaps > 0) == len(paths) - 1


def test_single_short_recording_is_padded():
    cut = cut_speech([150], 3, np.random.default_rng(0))
    assert cut.path == "ada/0.wav"
    assert np.count_nonzero(cut.samples) == cut.end - cut.start
    assert not cut.samples[cut.end - cut.start :].any()


@pytest.mark.parametrize("size", [1, 399, 400, 401, 1000])
def test_scene_is_cut_or_repeated(size):
    source = Numbered([size])
    for seed in range(20):
        rng = np.random.default_rng(seed)
        cut = mixing.cut_stretch(source, source.recordings[0], SETUP, rng, repeat=True)
        stretch = 10000.0 + np.arange(cut.start, cut.end)
        np.testing.assert_array_equal(cut.samples, np.resize(stretch, SETUP.length))
        assert cut.end - cut.start == min(size, SETUP.length)


@pytest.mark.parametrize("size", [1, 399, 400, 401, 1000])
def test_event_is_cut_or_placed(size):
    source = Numbered([size])
    offsets = set()
    for seed in range(40):
        rng = np.random.default_rng(seed)
        cut = mixing.cut_stretch(source, source.recordings[0], SETUP, rng, repeat=False)
        heard = cut.samples[cut.samples > 0]
        np.testing.assert_array_equal(heard, 10000.0 + np.arange(cut.start, cut.end))
        offsets.add((cut.start, int(np.flatnonzero(cut.samples)[0])))
    assert len(offsets) > 1 or size == SETUP.length


def test_cells_are_samples_as_matlab_counts_them():
    cut = mixing.Segment(np.zeros(SETUP.length), "ada/0.wav", 50, 450)
    assert cut.cells("speech1", SETUP.rate) == {
        "speech1OryginalPath": "ada/0.wav",
        "speech1Start": "51",
        "speech1End": "450",
    }
    own = mixing.Segment(cut.samples, "ada/0.wav;ada/1.wav", 50, 450, (44100, 22050))
    assert own.cells("speech1", SETUP.rate)["speech1Start"] == str(50 * 441 + 1)
    assert own.cells("speech1", SETUP.rate)["speech1End"] == str(450 * 441 // 2)
