"""The prepare step as a function."""

import json
import logging
import os
import shutil

import pytest
from speechbrain.dataio.dataset import DynamicItemDataset

from custom_modules.errors import InputError
from polsess_prepare import prepare_polsess
from tests.manifest.tiny_corpus import TinyCorpus, three_subsets


@pytest.fixture
def corpus(tmp_path):
    return three_subsets(tmp_path / "Tiny")


@pytest.fixture
def prepare(corpus, tmp_path):
    def call(**options):
        return prepare_polsess(corpus.root, tmp_path / "manifests", **options)

    return call


def snapshot(folder):
    """Everything in a folder: what must not change when something is refused."""
    return {
        path: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def refused(prepare, tmp_path, match, **options):
    before = snapshot(tmp_path)
    with pytest.raises(InputError, match=match) as caught:
        prepare(**options)
    assert snapshot(tmp_path) == before
    return caught.value


def ids(tmp_path, subset):
    return list(json.loads((tmp_path / "manifests" / f"{subset}.json").read_text()))


def test_three_manifests_and_a_report(prepare, tmp_path):
    report = prepare(check="full")
    for subset in ("train", "val", "test"):
        assert ids(tmp_path, subset) == [f"{subset}_{n}" for n in (1, 2, 3)]
        numbers = report.subsets[subset]
        assert (numbers["rows"], numbers["indoor"], numbers["outdoor"]) == (3, 2, 1)
        assert [numbers[v] for v in ("SER", "SR", "ER", "R")] == [2] * 4
        assert [numbers[v] for v in ("SE", "S", "E", "C")] == [1, 1, 1, 3]
        assert numbers["hours"] * 3600 == pytest.approx(3 * 80 / 8000)
    text = (tmp_path / "manifests" / "prepare_report.txt").read_text()
    assert text == str(report)
    assert "no duplicates" in text
    assert "8000 Hz" in text


def test_the_manifest_works_after_the_corpus_has_moved(prepare, corpus, tmp_path):
    prepare()
    moved = shutil.move(corpus.root, tmp_path / "elsewhere")
    path = tmp_path / "manifests" / "test.json"
    data = DynamicItemDataset.from_json(path, {"data_root": str(moved)}).data
    for entry in data.values():
        layers = [file for files in entry["variants"].values() for file in files]
        for file in [entry["mix"], entry["s1"], entry["s2"], *layers]:
            with open(file, "rb") as audio:
                assert audio.read(4) == b"RIFF"


def test_skip_prep_does_nothing(prepare, tmp_path):
    assert prepare(skip_prep=True) is None
    assert not (tmp_path / "manifests").exists()


def test_a_second_run_does_nothing_and_reports_the_same(prepare, tmp_path, caplog):
    first = prepare()
    before = snapshot(tmp_path)
    with caplog.at_level(logging.INFO):
        assert prepare() == first
    assert snapshot(tmp_path) == before
    assert "Skipping preparation" in caplog.text


def add_a_row(corpus, manifests):
    corpus.add("test", "new")
    corpus.write_tables()


def touch_a_table(corpus, manifests):
    os.utime(corpus.table("val"), ns=(0, 0))


def add_speakers(corpus, manifests):
    (corpus.root / "speakers.csv").write_text("speaker\nx\n")


def lose_a_manifest(corpus, manifests):
    (manifests / "test.json").unlink()


def spoil_a_manifest(corpus, manifests):
    path = manifests / "test.json"
    path.write_text(path.read_text().replace("test_2", "test_7"))


def spoil_the_record(corpus, manifests):
    (manifests / "prepare_record.json").write_text("{")


def lose_the_record(corpus, manifests):
    (manifests / "prepare_record.json").unlink()


CHANGES = [
    *(add_a_row, touch_a_table, add_speakers, lose_a_manifest),
    *(spoil_a_manifest, spoil_the_record, lose_the_record),
]


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_changes_it_is_prepared_again(prepare, corpus, tmp_path, change, caplog):
    prepare()
    change(corpus, tmp_path / "manifests")
    with caplog.at_level(logging.INFO):
        report = prepare()
    assert "Skipping" not in caplog.text
    assert ids(tmp_path, "test") == [r["mixFile"][:-4] for r in corpus.rows["test"]]
    assert report.subsets["test"]["rows"] == len(corpus.rows["test"])


def test_other_options_prepare_again(prepare):
    prepare()
    assert prepare(check="full").check == "full"


def test_workers_change_nothing(tmp_path):
    corpus = TinyCorpus(tmp_path / "Many", frames=4)
    for number in range(150):
        corpus.add("train", f"a{number}")
    corpus.write_tables()
    (corpus.path("train", "sceneFile", "a140_sceneFile.wav")).unlink()
    saved = []
    for workers in (1, 2):
        folder = tmp_path / f"by_{workers}"
        options = {"subsets": ["train"], "skip_bad_rows": True, "workers": workers}
        prepare_polsess(corpus.root, folder, **options)
        names = ("train.json", "prepare_report.txt")
        saved.append([(folder / name).read_bytes() for name in names])
    assert saved[0] == saved[1]


def spoil_three_rows(corpus):
    for subset, stem in (("train", "train_1"), ("train", "train_3"), ("test", "test_2")):
        corpus.path(subset, "sceneFile", f"{stem}_sceneFile.wav").unlink()


def test_all_bad_rows_are_listed_before_it_stops(prepare, corpus, tmp_path):
    prepare()
    spoil_three_rows(corpus)
    error = refused(prepare, tmp_path, "3 of 9 rows are bad", check="full")
    assert "--skip_bad_rows" in str(error)
    assert "\n" not in str(error)
    assert [line.split(": ")[0] for line in error.details] == [
        f"{corpus.table('train')}, row 2, train/scene/train_1_sceneFile.wav",
        f"{corpus.table('train')}, row 4, train/scene/train_3_sceneFile.wav",
        f"{corpus.table('test')}, row 3, test/scene/test_2_sceneFile.wav",
    ]


def test_bad_rows_are_left_out_and_counted(prepare, corpus, tmp_path):
    spoil_three_rows(corpus)
    report = prepare(skip_bad_rows=True)
    assert ids(tmp_path, "train") == ["train_2"]
    assert ids(tmp_path, "test") == ["test_1", "test_3"]
    bad = {subset: numbers["bad_rows"] for subset, numbers in report.subsets.items()}
    assert bad == {"train": 2, "val": 0, "test": 1}
    assert "left out 3 bad rows of 9:" in str(report)


def test_nothing_but_bad_rows_is_refused(prepare, corpus, tmp_path):
    shutil.rmtree(corpus.root / "val" / "scene")
    refused(prepare, tmp_path, "every row is bad", skip_bad_rows=True)


def test_the_rate_of_most_rows_is_the_corpus_rate(prepare, corpus, tmp_path):
    other = TinyCorpus(corpus.root, rate=16000)
    other.add("val", "fast")
    corpus.rows["val"] += other.rows["val"]
    corpus.write_tables()
    error = refused(prepare, tmp_path, "1 of 10 rows")
    assert "row 5, val/mix/fast.wav: 16000 Hz, the corpus 8000 Hz" in error.details[0]
    assert prepare(skip_bad_rows=True).sample_rate == 8000


def test_unreadable_mixtures_have_no_say_in_the_rate(prepare, corpus, tmp_path):
    for subset in ("train", "val"):
        for number in (1, 2, 3):
            corpus.path(subset, "mixFile", f"{subset}_{number}.wav").unlink()
    error = refused(prepare, tmp_path, "6 of 9 rows")
    assert len(error.details) == 6
    assert all("no such file" in line for line in error.details)


def test_mixtures_that_no_row_names_are_told(prepare, corpus):
    for stem in ("val_2", "val_3"):  # a table that lost its end
        corpus.rows["val"] = [r for r in corpus.rows["val"] if r["mixFile"] != f"{stem}.wav"]
    corpus.write_tables()
    (note,) = prepare().notes
    assert note == f"{corpus.table('val')}: 2 files in val/mix are in no row, such as val_2.wav"


def test_leakage_is_refused_unless_allowed(prepare, corpus, tmp_path, caplog):
    corpus.add("test", "new", speech2OryginalPath=r"D:\train\train_2\1.wav")
    corpus.write_tables()
    error = refused(prepare, tmp_path, "train and test share speech")
    assert "--allow_leakage" in str(error)
    assert "row 5 and row 3 of train" in error.details[1]
    report = prepare(allow_leakage=True)
    assert len(ids(tmp_path, "test")) == 4
    assert "LEAKAGE: rows of test" in str(report)
    assert "LEAKAGE" in caplog.text


def test_duplicates_in_a_subset_are_a_warning_each_time(prepare, corpus, caplog):
    row = dict(corpus.rows["train"][0], mixFile="again.wav")
    shutil.copy(
        corpus.path("train", "mixFile", "train_1.wav"), corpus.path("train", "mixFile", "again.wav")
    )
    corpus.rows["train"].append(row)
    corpus.write_tables()
    for _ in range(2):
        caplog.clear()
        report = prepare()
        warnings = [r.message for r in caplog.records if r.levelname == "WARNING"]
        assert "DUPLICATES: rows of train that repeat a mixture: 1" in warnings
        assert report.subsets["train"]["duplicates"] == 1


def test_speakers_are_in_every_entry_if_there_is_a_list(prepare, corpus, tmp_path):
    (corpus.root / "speakers.csv").write_text(
        "speaker,gender,subset,source\nval_1,female,val,own\n"
    )
    prepare()
    entries = json.loads((tmp_path / "manifests" / "val.json").read_text())
    first, second, _ = entries.values()
    assert (first["speaker1"], first["gender1"]) == ("val_1", "female")
    assert (second["speaker1"], second["gender1"]) == (None, None)
    assert len({tuple(entry) for entry in entries.values()}) == 1


def test_only_the_needed_columns_are_needed(prepare, corpus, tmp_path):
    extra = set(corpus.rows["train"][0]) - {
        *("mixFile", "speaker1File", "speaker2File", "sceneFile", "eventFile"),
        *("reverbForSpeaker1", "reverbForSpeaker2", "reverbForEvent"),
    }
    corpus.write_tables(drop=extra)
    prepare(check="full")
    entries = json.loads((tmp_path / "manifests" / "val.json").read_text())
    assert {entry["ssr_db"] for entry in entries.values()} == {None}


def test_a_part_of_the_subsets(prepare, corpus, tmp_path):
    shutil.rmtree(corpus.root / "train")
    assert list(prepare(subsets=["test", "val"]).subsets) == ["val", "test"]
    assert not (tmp_path / "manifests" / "train.json").exists()
    refused(prepare, tmp_path, "no readable corpus_")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"subsets": ["tset"]}, "tset; choose from train"),
        ({"subsets": []}, "none; choose from"),
        ({"check": "fully"}, "fully; choose from"),
        ({"workers": 0}, "--workers=0: must be a whole number from 1"),
    ],
)
def test_options_that_make_no_sense(prepare, tmp_path, options, complaint):
    refused(prepare, tmp_path, complaint, **options)


def test_a_corpus_that_is_not_there(tmp_path):
    (tmp_path / "file").touch()
    for name in ("missing", "file"):
        with pytest.raises(InputError, match="no such folder"):
            prepare_polsess(tmp_path / name, tmp_path / "manifests")


@pytest.mark.parametrize("name", ["val.json", "prepare_report.txt", "prepare_record.json"])
def test_a_folder_where_a_file_should_go(prepare, tmp_path, name):
    (tmp_path / "manifests" / name).mkdir(parents=True)
    refused(prepare, tmp_path, rf"{name}: .*is a folder")


def test_a_file_where_the_save_folder_should_be(prepare, tmp_path):
    (tmp_path / "manifests").touch()
    refused(prepare, tmp_path, "cannot be written")


def test_a_failure_while_writing_leaves_the_old_manifests(prepare, corpus, monkeypatch):
    prepare()
    corpus.add("val", "new")
    corpus.write_tables()

    def no_space(path, rows):
        if "val.json" in path.name:
            raise OSError(28, "No space left on device")
        path.write_text("new")

    monkeypatch.setattr("polsess_prepare.write_entries", no_space)
    refused(prepare, corpus.root.parent, r"val\.json: cannot be written \(No space")
