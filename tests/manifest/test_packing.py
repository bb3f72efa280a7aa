"""A packed corpus is the corpus, to the bit, and stays so when the corpus changes."""

import json
import logging
import shutil
import tracemalloc

import numpy as np
import pyarrow as pa
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from custom_modules import audio, packs
from custom_modules.dataio import collate
from custom_modules.errors import InputError
from custom_modules.evaluation import record
from custom_modules.manifest import packing
from tests.manifest.packed import FRAMES, contents, dataset, manifests, pack, written
from tests.manifest.tiny_corpus import FOLDERS, three_subsets

pytestmark = pytest.mark.usefixtures("small_files")


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
