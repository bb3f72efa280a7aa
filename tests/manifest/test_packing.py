"""A packed corpus is the corpus, to the bit; what is wrong with one is told."""

import json
import logging
import os
import resource
import shutil
import signal
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from custom_modules import audio, packs
from custom_modules.dataio import Manifest, MixtureDataset, collate
from custom_modules.errors import InputError
from custom_modules.evaluation import record
from custom_modules.files import lock
from custom_modules.layout import SUBSETS
from custom_modules.manifest import arrow_files, packing
from custom_modules.mmipc import VARIANTS
from polsess_prepare import prepare_polsess
from tests.manifest.tiny_corpus import FOLDERS, TinyCorpus, three_subsets

FRAMES = 400


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    """Several Arrow files, and several batches in each."""
    monkeypatch.setattr(packing, "SHARD_BYTES", 10 * (2 * FRAMES + 44))
    monkeypatch.setattr(arrow_files, "BATCH_BYTES", 3 * (2 * FRAMES + 44))
    packs.forget()


def make_corpus(root, rows=(8, 3, 3)):
    corpus = TinyCorpus(root, frames=FRAMES)
    for subset, count in zip(SUBSETS, rows, strict=True):
        for row in range(count):
            corpus.add(subset, f"{subset}_{row}", "outdoor" if row % 3 == 2 else "indoor")
    (root / "speakers.csv").write_text("speaker,gender\nval_1,female\n")
    return corpus.write_tables()


@pytest.fixture
def corpus(tmp_path):
    return make_corpus(tmp_path / "Tiny")


@pytest.fixture
def target(tmp_path):
    return tmp_path / "packed"


def pack(corpus, target, **options):
    packing.pack_corpus(corpus.root, target, SUBSETS, **options)


def contents(folder):
    """Path → bytes of all files but those that say when or where."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def written(folder):
    """Which Arrow file was written when."""
    return {(path.name, path.stat().st_mtime_ns) for path in folder.glob("data-*.arrow")}


def manifests(root, folder, **options):
    report = prepare_polsess(root, folder, workers=1, **options)
    return [(folder / f"{s}.json").read_bytes() for s in SUBSETS], report


def dataset(folder, root, subset="train", **options):
    manifest = Manifest(folder / f"{subset}.json", {"data_root": str(root)})
    return MixtureDataset(manifest, VARIANTS, **({"task": "SB", "seed": 42} | options))


def assert_same_items(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert (a["id"], a["variants"]) == (b["id"], b["variants"])
        for key in ("mixtures", "targets"):
            assert a[key].dtype == b[key].dtype
            assert a[key].numpy().tobytes() == b[key].numpy().tobytes()


@pytest.mark.parametrize("check", ["none", "header", "full"])
def test_the_manifests_are_those_of_the_files(corpus, target, tmp_path, check):
    pack(corpus, target, workers=2)
    assert len(list(target.glob("data-*.arrow"))) > 5
    ours, theirs = (manifests(x, tmp_path / x.name, check=check) for x in (corpus.root, target))
    assert ours == theirs


def test_items_of_every_task_and_variant_are_those_of_the_files(corpus, target, tmp_path):
    pack(corpus, target)
    manifests(corpus.root, tmp_path / "m")
    for options in (
        *({"task": task, "draw": False} for task in ("SB", "EB", "ES")),
        {"segment_seconds": 0.02},
        {"segment_seconds": 0.02, "task": "ES", "seed": 7},
    ):
        ours, theirs = (dataset(tmp_path / "m", x, **options) for x in (corpus.root, target))
        for epoch in (1, 2):
            ours.set_epoch(epoch), theirs.set_epoch(epoch)
            assert_same_items(ours, theirs)


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_workers_read_what_one_process_reads(corpus, target, tmp_path, workers):
    pack(corpus, target)
    manifests(corpus.root, tmp_path / "m")
    batches = [
        [(x.id, x.variant, x.mixture.data.numpy().tobytes()) for x in loader]
        for loader in (
            DataLoader(dataset(tmp_path / "m", corpus.root), 3, collate_fn=collate),
            DataLoader(dataset(tmp_path / "m", target), 3, collate_fn=collate, num_workers=workers),
        )
    ]
    assert batches[0] == batches[1]


KINDS = {
    **{kind: ("wav", kind) for kind in ("PCM_16", "PCM_24", "PCM_U8", "FLOAT", "DOUBLE")},
    **{"flac": ("flac", "PCM_16"), "flac 24": ("flac", "PCM_24"), "aiff": ("aiff", "PCM_16")},
}


def rows_of_files(root, kinds, frames):
    """A table whose rows name files of all kinds, of noise; returns their paths."""
    random = np.random.default_rng(len(kinds))
    paths, rows = [], []
    columns = list(FOLDERS)[:5]
    for number in range(0, len(kinds), 5):
        row = dict.fromkeys(FOLDERS, "")
        for column, kind in zip(columns, kinds[number : number + 5], strict=True):
            suffix, subtype = KINDS[kind]
            row[column] = f"{number}_{column}.{suffix}"
            path = root / "train" / FOLDERS[column] / row[column]
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, random.uniform(-1, 1, frames), 8000, subtype)
            paths.append(path)
        rows.append(",".join(row.values()))
    table = root / "train" / "corpus_x_train_final.csv"
    table.write_text("\n".join([",".join(FOLDERS), *rows, ""]))
    return paths


@settings(max_examples=12, deadline=None)
@given(
    kinds=st.lists(st.sampled_from(list(KINDS)), min_size=5, max_size=25),
    frames=st.integers(1, 300),
    shard=st.integers(1, 20_000),
    data=st.data(),
)
def test_any_stretch_of_any_kind_of_file(tmp_path_factory, kinds, frames, shard, data):
    root = tmp_path_factory.mktemp("kinds")
    paths = rows_of_files(root / "x", kinds[: len(kinds) // 5 * 5], frames)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "SHARD_BYTES", shard)
        packing.pack_corpus(root / "x", root / "packed", ["train"])
    for path in paths:
        start = data.draw(st.integers(0, frames - 1))
        length = data.draw(st.integers(1, frames - start))
        packed = root / "packed" / path.relative_to(root / "x")
        expected, _ = soundfile.read(path, length, start, dtype="float32")
        for place in (path, packed):
            assert audio.read_layer(place, start, length).tobytes() == expected.tobytes()
            with pytest.raises(InputError, match="not as it was prepared"):
                audio.read_layer(place, start, frames - start + 1)
        kept = packs.find_packed(packed)
        assert kept.is_samples == (soundfile.info(path).subtype == "PCM_16")
        assert packed.exists() is False
        if not kept.is_samples:
            assert packs.content_of(str(packed)) == path.read_bytes()


def test_datasets_reads_it(corpus, target):
    datasets = pytest.importorskip("datasets")
    soundfile.write(
        corpus.path("val", "eventFile", "val_0_eventFile.wav"), np.zeros(FRAMES), 8000, "FLOAT"
    )
    pack(corpus, target)
    rows = datasets.load_from_disk(str(target))
    assert len(rows) == 8 * 14 - 3 * 4
    for row in rows:
        samples, rate = soundfile.read(corpus.root / row["path"], dtype="int16")
        assert row["sample_rate"] == rate
        if row["samples"] is None:
            assert row["file"] == (corpus.root / row["path"]).read_bytes()
        else:
            assert (row["samples"], row["sum"]) == (samples.tolist(), samples.astype(int).sum())
    assert sum(row["samples"] is None for row in rows) == 1


def test_arrow_maps_it_and_finds_the_samples_where_the_index_says(corpus, target):
    pack(corpus, target)
    for number, path in enumerate(sorted(target.glob("data-*.arrow"))):
        with pa.memory_map(str(path)) as file:
            table = pa.ipc.open_stream(file).read_all()
        for name, samples in zip(table["path"], table["samples"], strict=True):
            packed = packs.find_packed(target / str(name))
            assert packed.shard == number
            assert packed.samples().tolist() == samples.as_py()


def in_a_child(work):
    """Runs work in a fork; how it ended."""
    if not (child := os.fork()):
        try:
            work()
        except InputError as error:
            Path(os.environ["CHILD_SAYS"]).write_text(str(error))
            os._exit(2)
        finally:
            os._exit(0)
    return os.waitpid(child, 0)[1]


@pytest.mark.parametrize("after", [0, 1, 3, 4, 7, 20])
def test_killed_at_any_time_it_goes_on(corpus, tmp_path, monkeypatch, after):
    pack(corpus, tmp_path / "whole")
    target = tmp_path / "killed"
    calls = []

    def write_batch(rows, real=arrow_files._batch):
        calls.append(rows)
        if len(calls) > after:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(rows)

    with monkeypatch.context() as patch:
        patch.setattr(arrow_files, "_batch", write_batch)
        assert in_a_child(lambda: pack(corpus, target)) == signal.SIGKILL
    with pytest.raises(InputError, match="its packing did not end"):
        prepare_polsess(target, tmp_path / "m", workers=1)
    done = written(target)
    assert len(list(target.glob("*.partial"))) == 1
    pack(corpus, target)
    assert done <= written(target)
    assert contents(target) == contents(tmp_path / "whole")


def test_a_full_disk_is_a_line_and_the_rest_comes_later(corpus, tmp_path, target, monkeypatch):
    pack(corpus, tmp_path / "whole")
    monkeypatch.setenv("CHILD_SAYS", str(tmp_path / "says"))
    (tmp_path / "says").touch()

    def with_little_room():
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
        pack(corpus, target)

    assert os.waitstatus_to_exitcode(in_a_child(with_little_room)) == 2
    line = (tmp_path / "says").read_text()
    assert "data-00000.arrow: cannot be written (" in line
    pack(corpus, target)
    assert contents(target) == contents(tmp_path / "whole")


@pytest.mark.parametrize("name", ["data-00002.arrow", packs.INDEX_FILE, packs.PACK_FILE])
@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_a_truncated_pack_is_named_and_packed_again(corpus, target, tmp_path, name, share):
    pack(corpus, target)
    manifests(target, tmp_path / "m")
    before = contents(target)
    os.truncate(target / name, int(share * (target / name).stat().st_size))
    packs.forget()
    with pytest.raises(InputError, match=name.replace(".", r"\.")):
        prepare_polsess(target, tmp_path / "m", workers=1)
    with pytest.raises(InputError, match=name.replace(".", r"\.")):
        dataset(tmp_path / "m", target)[0]
    if name != packs.PACK_FILE:
        pack(corpus, target)
        assert contents(target) == before


def test_a_pack_that_is_cut_off_while_it_is_read(corpus, target, tmp_path):
    pack(corpus, target)
    manifests(target, tmp_path / "m")
    data = dataset(tmp_path / "m", target)
    data[0]
    os.truncate(target / "data-00000.arrow", 900)
    with pytest.raises(InputError, match=r"data-00000\.arrow: is cut off, 900 bytes instead of"):
        data[0]


def test_arrow_files_of_two_packs_are_not_mixed(corpus, target, tmp_path):
    pack(corpus, target)
    manifests(corpus.root, tmp_path / "m")
    os.utime(corpus.path("train", "mixFile", "train_0.wav"), ns=(1, 1))
    pack(corpus, tmp_path / "later")
    shutil.copy(tmp_path / "later" / "data-00000.arrow", target)
    packs.forget()
    with pytest.raises(InputError, match=r"data-00000\.arrow: is of another pack"):
        list(dataset(tmp_path / "m", target))


def test_a_full_check_compares_the_sums(corpus, target, tmp_path):
    pack(corpus, target, verify=True)
    packed = packs.find_packed(target / "val/clean/val_1_speaker2File.wav")
    path = target / f"data-{packed.shard:05}.arrow"
    whole = bytearray(path.read_bytes())
    whole[packed.start + 8] ^= 64
    path.write_bytes(whole)
    prepare_polsess(target, tmp_path / "m", workers=1)
    with pytest.raises(InputError, match="1 of 14 rows are bad") as caught:
        prepare_polsess(target, tmp_path / "m", check="full", workers=1)
    assert "val/clean/val_1_speaker2File.wav: its samples in" in caught.value.details[0]
    with pytest.raises(InputError, match="1 files are not as they were packed") as caught:
        pack(corpus, target, verify=True)
    assert f"{path}: val/clean/val_1_speaker2File.wav: " in caught.value.details[0]


def lose_a_row(corpus):
    corpus.rows["val"].pop()
    corpus.write_tables()


def change_a_file(corpus):
    corpus.write("val", "sceneFile", "val_1_sceneFile.wav", np.full(FRAMES, 7))


def add_a_row(corpus):
    corpus.add("test", "new")
    corpus.write_tables()


def lose_the_speakers(corpus):
    (corpus.root / "speakers.csv").unlink()


@pytest.mark.parametrize(
    ("change", "complaint", "kept"),
    [
        (lose_a_row, "changed files: 0, new: 0, gone: 5", 7),
        (change_a_file, "changed files: 1, new: 0, gone: 0, such as val/scene/val_1_scene", 9),
        (add_a_row, "changed files: 0, new: 8, gone: 0, such as test/mix/new.wav", 10),
        (lose_the_speakers, "", 10),
    ],
)
def test_what_changed_is_told_and_packed_again(
    corpus, target, tmp_path, change, complaint, kept, caplog
):
    pack(corpus, target)
    first = written(target)
    with caplog.at_level(logging.INFO):
        pack(corpus, target)
        assert f"{target}: is up to date" in caplog.text
        assert written(target) == first
        change(corpus)
        caplog.clear()
        pack(corpus, target)
    assert complaint in caplog.text
    assert "up to date" not in caplog.text
    assert len(first & written(target)) == kept
    pack(corpus, tmp_path / "fresh")
    assert contents(target) == contents(tmp_path / "fresh")


def test_what_cannot_be_read_is_listed(corpus, target):
    corpus.path("train", "sceneFile", "train_1_sceneFile.wav").unlink()
    with pytest.raises(InputError, match="1 files cannot be packed, as listed") as caught:
        pack(corpus, target)
    assert "train/scene/train_1_sceneFile.wav: no such file" in caught.value.details[0]
    corpus.write("train", "sceneFile", "train_1_sceneFile.wav", np.zeros(FRAMES))
    corpus.path("val", "eventFile", "val_1_eventFile.wav").write_bytes(b"no sound")
    corpus.path("test", "eventFile", "test_1_eventFile.wav").write_bytes(b"")
    with pytest.raises(InputError, match="2 files cannot be packed") as caught:
        pack(corpus, target, skip_bad_rows=False)
    assert [line.split(": ")[0] for line in caught.value.details] == [
        *("val/event/val_1_eventFile.wav", "test/event/test_1_eventFile.wav")
    ]
    with pytest.raises(InputError, match="its packing did not end"):
        packs.open_pack(str(target))


def test_bad_rows_stay_bad_rows(corpus, target, tmp_path):
    corpus.path("train", "sceneFile", "train_1_sceneFile.wav").unlink()
    corpus.path("val", "eventFile", "val_1_eventFile.wav").write_bytes(b"no sound")
    pack(corpus, target, skip_bad_rows=True)
    ours, theirs = (
        manifests(root, tmp_path / root.name, skip_bad_rows=True) for root in (corpus.root, target)
    )
    assert ours[0] == theirs[0]
    assert {s: x["bad_rows"] for s, x in theirs[1].subsets.items()} == {
        **{"train": 1, "val": 1, "test": 0}
    }


def test_other_folders_are_refused_and_left_alone(corpus, target, tmp_path):
    pack(corpus, target)
    other = make_corpus(tmp_path / "Other", (1, 1, 1))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").touch()
    (tmp_path / "file").touch()
    before = contents(tmp_path)
    for name, complaint in (
        ("full", "holds letter.txt, and is no pack"),
        ("packed", "is a pack of .*Tiny; name another"),
        ("Other", "is no pack"),
        ("file", "cannot be written"),
    ):
        with pytest.raises(InputError, match=complaint):
            pack(other, tmp_path / name)
    with pytest.raises(InputError, match="packed: is a pack already"):
        packing.pack_corpus(target, tmp_path / "twice", SUBSETS)
    with lock(target), pytest.raises(InputError, match="another command writes into it"):
        pack(corpus, target)
    assert contents(tmp_path) == before


def test_an_absolute_path_in_a_table_is_refused(corpus, target):
    path = corpus.path("train", "mixFile", "train_1.wav")
    corpus.rows["train"][1]["mixFile"] = str(path)
    corpus.write_tables()
    with pytest.raises(InputError, match="row 3, mixFile: an absolute path"):
        pack(corpus, target)
    assert not target.exists()


def test_a_table_may_name_files_from_the_subset_or_from_the_corpus(corpus, target, tmp_path):
    rows = corpus.rows["train"]
    rows[0]["mixFile"] = f"mix/{rows[0]['mixFile']}"
    rows[1]["mixFile"] = rf"train\mix\{rows[1]['mixFile']}"
    rows[2]["sceneFile"] = f"val/scene/{corpus.rows['val'][0]['sceneFile']}"
    corpus.write_tables()
    pack(corpus, target)
    assert manifests(corpus.root, tmp_path / "a") == manifests(target, tmp_path / "b")


def test_a_pack_may_move_and_be_linked(corpus, target, tmp_path, monkeypatch):
    pack(corpus, target)
    manifests(corpus.root, tmp_path / "m")
    moved = tmp_path / "elsewhere" / "pack"
    shutil.copytree(target, moved)
    shutil.rmtree(target)
    (tmp_path / "link").symlink_to(moved)
    monkeypatch.chdir(tmp_path)
    for root in (moved, tmp_path / "link", "elsewhere/pack", "./elsewhere/../link"):
        assert_same_items(dataset(tmp_path / "m", corpus.root), dataset(tmp_path / "m", root))


def test_duplicates_and_leakage_are_found_in_a_pack(tmp_path):
    corpus = three_subsets(tmp_path / "Tiny")
    for subset, name in (("train", "train_2"), ("test", "test_1")):
        shutil.copy(
            corpus.path("train", "mixFile", "train_1.wav"),
            corpus.path(subset, "mixFile", f"{name}.wav"),
        )
    pack(corpus, tmp_path / "packed")
    ours, theirs = (
        manifests(root, tmp_path / f"m{root.name}", allow_leakage=True)[1]
        for root in (corpus.root, tmp_path / "packed")
    )
    assert "LEAKAGE" in str(ours)
    assert ours == theirs
    with pytest.raises(InputError, match="share speech or mixtures"):
        manifests(tmp_path / "packed", tmp_path / "m")


def test_scores_of_the_files_and_of_the_pack_have_the_same_state(corpus, target):
    pack(corpus, target)
    path = "train/mix/train_0.wav"
    assert record._state(f"{target}/{path}") == record._state(f"{corpus.root}/{path}")
    assert record._state(f"{target}/train/mix/none.wav") == b"missing"


def test_a_million_files_are_found_without_being_read(target):
    """The index of many is mapped, not parsed: made here without the files."""
    target.mkdir()
    count = 1_000_000
    random = np.random.default_rng(0)
    index = random.integers(-(2**62), 2**62, (len(packs.INDEX_ROWS), count))
    wanted = {place: f"train/mix/{place}.wav" for place in range(0, count, 99_999)}
    for place, path in wanted.items():
        index[:2, place] = packs.digest_of_path(path)
        index[2:, place] = place
    np.save(target / packs.INDEX_FILE, index[:, np.lexsort(index[1::-1])])
    facts = {"format": 1, "complete": True, "corpus": "x", "files": count}
    (target / packs.PACK_FILE).write_text(json.dumps(facts | {"tables": [], "shards": []}))
    tracemalloc.start()  # which counts what is allocated, and not what is mapped
    opened = packs.Pack(str(target))
    for place, path in wanted.items():
        found = opened.find(path)
        assert (found.shard, found.length, found.mtime) == (place, place, place)
    assert opened.find("train/mix/7.wav") is None
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000
