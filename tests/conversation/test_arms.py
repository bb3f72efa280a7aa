"""The arms on generated conversations: laws between them, resuming, and what is refused."""

import json
import shutil

import numpy as np
import pytest
import soundfile

from custom_modules.conversation.arms import ARMS, Evaluation
from custom_modules.conversation.chain import Chain
from custom_modules.conversation.measures import MEASURES
from custom_modules.conversation.reporting import summarise
from custom_modules.conversation.truths import find_references
from custom_modules.errors import InputError
from tests.conversation.talks import Oracle, Twice
from tests.integration.generating import HPARAMS, run


class Loudness:
    """A recogniser whose words are levels of quarters of a second."""

    gives_times = False

    def __init__(self):
        self.given = 0

    def transcribe(self, waveforms, rate):
        self.given += len(waveforms)
        return [" ".join(self.words(waveform, rate // 4)) for waveform in waveforms]

    def words(self, waveform, size):
        for part in waveform[: len(waveform) // size * size].reshape(-1, size):
            yield f"w{round(20 * np.log10(1e-5 + np.sqrt(np.mean(part**2))) / 6)}"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two voices of espeak-ng in two conversations, outdoors and next to silent."""
    root = tmp_path_factory.mktemp("data") / "Talk"
    options = ["--n_test=2", "--minutes=0.4", "--voices=2", "--workers=1", "--scene_level=-60"]
    options += ["--events_per_minute=0", "--indoor_share=0", "--scene_recordings=1"]
    options += ["--seconds_per_voice=15"]
    run([HPARAMS / "mini_conversations.yaml", f"--output_folder={root}", *options])
    return root


def evaluation(folder, separator, **options):
    chain = Chain(separator, Loudness(), activity="energy")
    return Evaluation(chain, folder, {"x": 1}, true_number=True, show_progress=False, **options)


def value(rows, arm, metric):
    table = summarise(rows).set_index(["arm", "metric"])
    return table.loc[(arm, metric), "value"]


@pytest.fixture(scope="module")
def twice(data, tmp_path_factory):
    """Its folder, the evaluation and its rows."""
    folder = tmp_path_factory.mktemp("twice")
    made = evaluation(folder, Twice())
    return folder, made, made.scores(find_references(data), [*ARMS])


def test_the_mixture_twice_is_as_good_as_no_separation(twice):
    _, _, rows = twice
    for metric in ("cpwer", "tcpwer", "orcwer"):
        difference = value(rows, "overlaps", metric) - value(rows, "none", metric)
        assert abs(difference) <= 1
    assert value(rows, "overlaps", "der") == value(rows, "none", "der") < 33
    assert value(rows, "overlaps", "leakage") == pytest.approx(
        value(rows, "none", "leakage"), abs=0.5
    )


def test_what_is_given_is_right(twice):
    _, _, rows = twice
    for arm in ("true_diarization", "true_tracks"):
        assert value(rows, arm, "der_0") == 0
        assert value(rows, arm, "overlap_recall") == 100
    measured = {arm: set(part.metric) for arm, part in rows.groupby("arm")}
    assert measured["true_tracks"] == {n for n, m in MEASURES.items() if m.needs != "tracks"}
    assert measured["none"] == set(MEASURES)


def test_files_of_each_arm_lie_beside_the_scores(twice):
    folder, _, _ = twice
    for arm in ARMS:
        kinds = {path.name.partition(".")[2] for path in (folder / arm).iterdir()}
        assert kinds == {"seglst.json", "rttm", "scores.json"}
    assert not list((folder / ".work").rglob("*.f32"))


def test_a_rerun_does_only_what_is_missing(data, twice):
    folder, made, rows = twice
    before = made.chain.recogniser.given
    references = find_references(data)
    assert made.scores(references, [*ARMS]).equals(rows)
    assert made.chain.recogniser.given == before
    path = folder / "none" / "test_00001.scores.json"
    path.write_text(path.read_text()[:-9])
    assert made.scores(references, [*ARMS]).equals(rows)
    assert 0 < made.chain.recogniser.given - before < before / len(ARMS)
    other = Evaluation(made.chain, folder, {"x": 2}, True, show_progress=False)
    again = made.chain.recogniser.given
    other.scores(references[:1], ["true_tracks"])
    assert made.chain.recogniser.given > again


def test_an_oracle_loses_nothing_by_the_chain(data, tmp_path):
    for reference in find_references(data):
        dry, _ = reference.tracks()
        tracks = np.stack([track.astype("float32") for track in dry.values()])
        arms = ["none", "true_diarization", "true_tracks"]
        rows = evaluation(tmp_path, Oracle(tracks)).scores([reference], arms)
        assert value(rows, "true_diarization", "si_sdr") > value(rows, "none", "si_sdr") + 10
        assert value(rows, "true_diarization", "leakage") < value(rows, "none", "leakage") - 10


def test_with_an_oracle_words_are_those_of_the_true_tracks(data, tmp_path):
    """Of recordings that are the sum of their dry tracks: what else is in them is not ours."""
    folder = tmp_path / "dry"
    shutil.copytree(data / "test", folder)
    for reference in find_references(folder):
        dry, _ = reference.tracks()
        soundfile.write(reference.path, sum(dry.values()), reference.length[1], subtype="FLOAT")
        tracks = np.stack([track.astype("float32") for track in dry.values()])
        arms = ["true_diarization", "true_tracks"]
        rows = evaluation(tmp_path, Oracle(tracks)).scores([reference], arms)
        errors = [value(rows, arm, "cpwer") for arm in arms]
        assert abs(errors[0] - errors[1]) <= 1


def test_a_recording_that_fails_stops_no_other(data, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(data / "test", folder)
    (folder / "test_00000.wav").write_bytes(b"no sound")
    made = evaluation(tmp_path, Twice())
    rows = made.scores(find_references(folder), ["none"])
    assert set(rows.session) == {"test_00001"}
    assert list(made.failed) == ["test_00000"] and "test_00000.wav" in made.failed["test_00000"]
    (folder / "test_00001.wav").write_bytes(b"")
    with pytest.raises(InputError, match="test_00000"):
        evaluation(tmp_path, Twice()).scores(find_references(folder), ["none"])


@pytest.fixture
def meeting(data, tmp_path):
    """A recording of somebody's own: no clean tracks."""
    folder = tmp_path / "meetings"
    (folder / "monday").mkdir(parents=True)
    for suffix in (".wav", ".rttm", ".seglst.json"):
        shutil.copy(data / "test" / f"test_00000{suffix}", folder / "monday" / f"talk{suffix}")
    return folder


def test_real_recordings_need_no_tracks(meeting, tmp_path):
    references = find_references(meeting)
    assert [(r.session, r.talkers) for r in references] == [("talk", [])]
    rows = evaluation(tmp_path / "out", Twice()).scores(references, ["none", "true_tracks"])
    assert set(rows.arm) == {"none"}
    assert set(rows.metric) == {n for n, m in MEASURES.items() if m.needs != "tracks"}


def test_without_words_only_time_is_scored(meeting, tmp_path):
    (meeting / "monday" / "talk.seglst.json").unlink()
    rows = evaluation(tmp_path / "out", Twice()).scores(find_references(meeting), ["none"])
    assert set(rows.metric) == {n for n, m in MEASURES.items() if not m.needs}


def test_time_is_of_segments_where_there_is_no_rttm(meeting):
    (meeting / "monday" / "talk.rttm").unlink()
    (reference,) = find_references(meeting)
    segments = json.loads((meeting / "monday" / "talk.seglst.json").read_text())
    assert [p.start for p in reference.passages] == [s["start_time"] for s in segments]


def test_what_holds_no_truth_is_refused(meeting, tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        find_references(tmp_path / "missing")
    soundfile.write(tmp_path / "alone.wav", np.zeros(800), 8000)
    shutil.rmtree(meeting)
    with pytest.raises(InputError, match="add the truth"):
        find_references(tmp_path)


def test_generated_subsets_are_chosen(data):
    assert len(find_references(data)) == 2
    with pytest.raises(InputError, match="--split"):
        find_references(data, "val")
