"""Sources of the user's own recordings."""

import os

import numpy as np
import pytest

from custom_modules.corpus import sources
from custom_modules.corpus.folders import EventFolder, SceneFolder, SpeechFolder
from custom_modules.corpus.sources import Setup
from custom_modules.errors import InputError
from custom_modules.layout import SUBSETS, speaker_of
from tests.corpus.recordings import GENDERS, class_folder, speech_folder, write

RATE = 8000


@pytest.fixture
def setup(tmp_path):
    return Setup(tmp_path / "corpus", RATE, 2.0, 1)


@pytest.fixture
def speech(tmp_path):
    return speech_folder(tmp_path / "speech")


def speakers_of(listed):
    return {subset: {r.group for r in recordings} for subset, recordings in listed.items()}


def test_speakers_by_subfolder(setup, speech):
    listed = SpeechFolder(speech).prepare(setup)
    speakers = speakers_of(listed)
    assert sorted(set().union(*speakers.values())) == sorted(GENDERS)
    assert sum(map(len, speakers.values())) == 6
    recording = listed["train"][0]
    assert recording.samples == 2.5 * RATE
    assert recording.path.split("/")[0] == recording.group


def test_speakers_by_table_have_genders(setup, speech):
    listed = SpeechFolder(speech, speech / "table.csv").prepare(setup)
    for recordings in listed.values():
        assert {r.gender for r in recordings} == {"female", "male"}
        assert all(r.gender == GENDERS[r.group] for r in recordings)


def test_table_may_name_speakers_that_no_folder_has(setup, tmp_path):
    lines = ["file,speaker"]
    for n in range(12):
        write(tmp_path / "flat" / "takes" / f"{n}.wav", np.full(800, 0.01 * (n + 1)))
        lines.append(f"takes\\{n}.wav,s{n % 6}")
    table = tmp_path / "table.csv"
    table.write_text("\n".join(lines), encoding="utf-8-sig")
    source = SpeechFolder(tmp_path / "flat", table)
    for recordings in source.prepare(setup).values():
        for recording in recordings:
            assert recording.path.startswith(f"{recording.group}/takes/")
            number = int(recording.path.rsplit("/", 1)[1].removesuffix(".wav"))
            samples = source.read(recording, 0, 800, RATE)
            assert samples == pytest.approx(0.01 * (number + 1), abs=1e-4)


def colliding_table(folder):
    """Recordings whose folders are named after other speakers; path → speaker."""
    speakers = {
        "6892/10179/0.wav": "6892",
        "10179/6892/0.wav": "10179",
        "mls/6892/10179/1.wav": "10179",
        "mls/6892/77/2.wav": "6892",
        "77/10179/0.wav": "5",
    }
    for number, path in enumerate(speakers):
        write(folder / path, np.full(800, 0.01 * (number + 1)))
    lines = ["file,speaker", *(f"{path},{name}" for path, name in speakers.items())]
    (folder / "table.csv").write_text("\n".join(lines), encoding="utf-8")
    return speakers


def test_speakers_are_told_by_the_paths_of_recordings(tmp_path):
    speakers = colliding_table(tmp_path)
    source = SpeechFolder(tmp_path, tmp_path / "table.csv")
    setup = Setup(tmp_path / "corpus", RATE, 2.0, 1, subsets=("train",))
    recordings = source.prepare(setup)["train"]
    assert sorted(r.group for r in recordings) == sorted(speakers.values())
    for recording in recordings:
        assert speaker_of(recording.path, set(speakers.values())) == recording.group
        level = source.read(recording, 0, 1, RATE)[0]
        path = list(speakers)[round(100 * level) - 1]
        assert speakers[path] == recording.group
        assert recording.path.removeprefix(f"{recording.group}/").endswith(
            path.removeprefix(f"{recording.group}/")
        )


def test_a_path_that_would_stand_for_another_file_is_refused(tmp_path):
    colliding_table(tmp_path)
    write(tmp_path / "5" / "77" / "10179" / "0.wav", np.zeros(800))
    source = SpeechFolder(tmp_path, tmp_path / "table.csv")
    with pytest.raises(InputError, match="1 bad rows") as caught:
        source.prepare(Setup(tmp_path / "corpus", RATE, 2.0, 1))
    assert "row 6: 5/77/10179/0.wav would stand for it" in caught.value.details[0]


def test_table_may_divide_the_recordings(setup, speech):
    rows = ["file,speaker,subset"]
    sides = dict(zip(GENDERS, ["train", "train", "val", "val", "test", "test"], strict=True))
    rows += [f"{s}/{n}.wav,{s},{side}" for s, side in sides.items() for n in range(2)]
    (speech / "table.csv").write_text("\n".join(rows), encoding="utf-8")
    listed = SpeechFolder(speech, speech / "table.csv").prepare(setup)
    assert {r.group: s for s, rs in listed.items() for r in rs} == sides
    assert sum(map(len, listed.values())) == 12


def test_table_may_let_training_and_validation_share_speakers(setup, speech):
    rows = ["file,speaker,subset"]
    for name in ("ada", "bea"):
        rows += [f"{name}/0.wav,{name},train", f"{name}/1.wav,{name},val"]
    rows += [f"{name}/0.wav,{name},test" for name in ("cyd", "dan")]
    table = speech / "table.csv"
    table.write_text("\n".join(rows), encoding="utf-8")
    listed = SpeechFolder(speech, table, val_speakers="train").prepare(setup)
    assert [r.path for r in listed["val"]] == ["ada/1.wav", "bea/1.wav"]
    with pytest.raises(InputError, match="in train and in val"):
        SpeechFolder(speech, table).prepare(setup)


@pytest.mark.parametrize(
    ("val", "message"), [("cyd", "cyd in val and not in train"), ("ada", "two")]
)
def test_shared_validation_is_of_training_s_speakers_two_or_more(setup, speech, val, message):
    rows = ["file,speaker,subset", f"{val}/1.wav,{val},val"]
    rows += [f"{x}/0.wav,{x},train" for x in ("ada", "bea")]
    rows += [f"{x}/0.wav,{x},test" for x in ("cyd", "dan")]
    (speech / "table.csv").write_text("\n".join(rows), encoding="utf-8")
    with pytest.raises(InputError, match=message):
        SpeechFolder(speech, speech / "table.csv", val_speakers="train").prepare(setup)


def test_speakers_may_be_given(setup, speech):
    given = {"train": ["ada", "bea"], "val": ["cyd", "dan"], "test": ["ewa", "fil"]}
    listed = SpeechFolder(speech, speakers=given).prepare(setup)
    assert speakers_of(listed) == {s: set(names) for s, names in given.items()}


@pytest.mark.parametrize("given", [None, {"train": ["ada", "bea"], "test": ["ewa", "fil"]}])
def test_validation_of_training_s_speakers_has_other_recordings(setup, speech, given):
    listed = SpeechFolder(speech, speakers=given, val_speakers="train").prepare(setup)
    speakers = speakers_of(listed)
    assert speakers["val"] == speakers["train"]
    assert not speakers["test"] & speakers["train"]
    paths = [r.path for recordings in listed.values() for r in recordings]
    assert len(paths) == len(set(paths))


def test_sharing_speakers_needs_fewer(setup, tmp_path):
    speech = speech_folder(tmp_path / "few", ["ada", "bea", "cyd", "dan", "ewa"])
    listed = SpeechFolder(speech, val_speakers="train").prepare(setup)
    numbers = {s: len(names) for s, names in speakers_of(listed).items()}
    assert numbers == {"test": 2, "train": 3, "val": 3}
    few = SpeechFolder(
        speech_folder(tmp_path / "three", ["ada", "bea", "cyd"]), val_speakers="train"
    )
    with pytest.raises(InputError, match="3 speakers are too few for train, test"):
        few.prepare(setup)


def test_checking_lists_once(setup, speech):
    source = SpeechFolder(speech)
    source.check(setup)
    (speech / "ada" / "0.wav").unlink()
    paths = [r.path for rs in source.prepare(setup).values() for r in rs]
    assert "ada/0.wav" in paths
    assert "ada/0.wav" not in [r.path for rs in source.prepare(setup).values() for r in rs]


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_lengths_are_counted_at_the_corpus_s_rate(setup, tmp_path, rate):
    speech = speech_folder(tmp_path / "s", rate=rate, recordings=1, seconds=1.5)
    source = SpeechFolder(speech)
    for recording in source.prepare(setup)["train"]:
        assert recording.samples == 1.5 * RATE
        assert source.read(recording, 0, 12000, RATE).shape == (12000,)


def test_scene_classes_are_mapped(setup, tmp_path):
    names = ["park", "rain", "cinema", "desert"]
    folder = class_folder(tmp_path / "scenes", names)
    classes = {"rain": "beach", "cinema": "indoor", "desert": "outdoor"}
    source = SceneFolder(folder, classes)
    listed = source.prepare(setup)
    for recordings in listed.values():
        assert {r.group for r in recordings} == {"park", "beach", "cinema", "desert"}
    assert source.scene_class("park") is sources.scene_classes()["park"]
    assert source.scene_class("cinema").environment == "indoor"
    assert source.scene_class("cinema").room == sources.scene_classes()["m"].room
    assert source.scene_class("desert").room == {}


def test_a_scene_of_a_known_name_may_be_another(setup, tmp_path):
    source = SceneFolder(class_folder(tmp_path / "scenes", ["park"]), {"park": "indoor"})
    source.prepare(setup)
    assert source.scene_class("park").environment == "indoor"
    assert source.scene_class("park").room


@pytest.mark.parametrize("kind", [SceneFolder, EventFolder])
def test_a_class_of_no_folder_is_refused(setup, tmp_path, kind):
    folder = class_folder(tmp_path / "folders", ["park" if kind is SceneFolder else "Bell"])
    with pytest.raises(InputError, match="folders/caat: has no recordings, but a class"):
        kind(folder, {"caat": "park"}).prepare(setup)


def test_unknown_scene_class_names_the_remedy(setup, tmp_path):
    folder = class_folder(tmp_path / "scenes", ["ofice"])
    with pytest.raises(InputError, match=r"--scene_classes='\{ofice: office\}'"):
        SceneFolder(folder).prepare(setup)


def test_events_suit_what_polsess_or_the_user_says(setup, tmp_path):
    names = ["Doorbell", "dog_bark", "seal", "gadget"]
    folder = class_folder(tmp_path / "events", names)
    classes = {"dog_bark": "dog", "seal": ["beach"]}
    source = EventFolder(folder, classes)
    groups = {r.group for rs in source.prepare(setup).values() for r in rs}
    assert groups == {"Doorbell", "dog", "seal", "gadget"}
    for scene in sources.scene_classes():
        assert source.suits("Doorbell", scene) == (scene in sources.event_scenes()["Doorbell"])
        assert source.suits("dog", scene) == (scene in sources.event_scenes()["dog"])
        assert source.suits("seal", scene) == (scene == "beach")
        assert source.suits("gadget", scene)


def test_misspelt_event_class_is_refused(setup, tmp_path):
    folder = class_folder(tmp_path / "events", ["bell"])
    with pytest.raises(InputError, match=r"--event_classes='\{bell: Bell\}'"):
        EventFolder(folder, {"bell": "Bel"}).prepare(setup)


def test_recordings_of_scenes_and_events_are_never_in_two_subsets(setup, tmp_path):
    folder = class_folder(tmp_path / "x", ["park", "home"], recordings=7)
    for source in (SceneFolder(folder), EventFolder(folder)):
        listed = source.prepare(setup)
        paths = [r.path for subset in SUBSETS for r in listed[subset]]
        assert len(paths) == len(set(paths)) == 14


def test_bad_recordings_are_all_named(setup, speech):
    (speech / "ada" / "0.wav").write_bytes(b"")
    (speech / "bea" / "1.wav").write_bytes(b"RIFFxxxxWAVE")
    os.mkfifo(speech / "cyd" / "odd.wav")
    with pytest.raises(InputError, match="3 of 19 recordings cannot be read") as caught:
        SpeechFolder(speech).prepare(setup)
    told = "\n".join(caught.value.details)
    assert all(name in told for name in ("ada/0.wav", "bea/1.wav", "cyd/odd.wav"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("file,gender\na,b", "no column speaker"),
        ("file,speaker", "has no rows"),
        ("file,speaker\nada/9.wav,ada", "1 bad rows"),
        ("file,speaker\nada/0.wav,", "1 bad rows"),
        ("file,speaker\nada/0.wav,a/da", "1 bad rows"),
        ("file,speaker\nada/0.wav,a\\da", "1 bad rows"),
        ("file,speaker\nada/0.wav,ada\nada/0.wav,bea", "1 bad rows"),
        ("file,speaker,subset\nada/0.wav,ada,dev", "1 bad rows"),
    ],
)
def test_bad_tables_are_refused(setup, speech, text, message):
    table = speech / "bad.csv"
    table.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        SpeechFolder(speech, table).prepare(setup)


def test_folders_that_do_not_serve_are_refused(setup, tmp_path, speech):
    with pytest.raises(InputError, match="no such folder"):
        SpeechFolder(tmp_path / "nowhere").prepare(setup)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no recordings"):
        SceneFolder(tmp_path / "empty").prepare(setup)
    write(speech / "stray.wav", np.zeros(9))
    with pytest.raises(InputError, match=r"stray\.wav: is not in a speaker's folder"):
        SpeechFolder(speech).prepare(setup)
    with pytest.raises(InputError, match="cannot be read"):
        SpeechFolder(speech, tmp_path / "no.csv").prepare(setup)
    with pytest.raises(InputError, match="disjoint or to train"):
        SpeechFolder(speech, val_speakers="both")
