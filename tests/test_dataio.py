"""Mixtures of every variant and task against sums computed independently."""

import json
import os
import resource

import numpy as np
import pytest
import soundfile as sf
import torch
from speechbrain.dataio.dataset import DynamicItemDataset
from torch.utils.data import DataLoader

from custom_modules.dataio import Manifest, MixtureDataset, collate
from custom_modules.errors import InputError
from custom_modules.mmipc import VARIANTS
from polsess_prepare import prepare_polsess
from tests.manifest.tiny_corpus import TinyCorpus

FRAMES = 400

#: What a variant's letters keep beside dry speech; written out, not derived.
KEPT = {
    ("indoor", "SER"): "scene event event_reverb s1_reverb s2_reverb",
    ("indoor", "SR"): "scene s1_reverb s2_reverb",
    ("indoor", "ER"): "event event_reverb s1_reverb s2_reverb",
    ("indoor", "R"): "s1_reverb s2_reverb",
    ("indoor", "C"): "",
    ("outdoor", "SE"): "scene event",
    ("outdoor", "S"): "scene",
    ("outdoor", "E"): "event",
    ("outdoor", "C"): "",
}
COLUMNS = {
    "s1": "speaker1File",
    "s2": "speaker2File",
    "scene": "sceneFile",
    "event": "eventFile",
    "s1_reverb": "reverbForSpeaker1",
    "s2_reverb": "reverbForSpeaker2",
    "event_reverb": "reverbForEvent",
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    corpus = TinyCorpus(tmp_path_factory.mktemp("data") / "Tiny", frames=FRAMES)
    for subset, rows in (("train", 20), ("val", 3), ("test", 3)):
        for row in range(rows):
            environment = "outdoor" if row % 3 == 2 else "indoor"
            corpus.add(subset, f"{subset}_{row}", environment)
    corpus.write_tables()
    corpus.manifests = corpus.root.parent / "manifests"
    prepare_polsess(corpus.root, corpus.manifests, workers=1)
    return corpus


@pytest.fixture(scope="module")
def manifest(corpus):
    return Manifest(corpus.manifests / "train.json", {"data_root": str(corpus.root)})


def layer(corpus, row, name):
    column = COLUMNS[name]
    return corpus.read("train", column, row[column]) / 2**15


def dataset(manifest, variants=VARIANTS, task="SB", seed=42, **options):
    return MixtureDataset(manifest, variants, task, seed, **options)


@pytest.mark.parametrize(("environment", "variant"), KEPT)
@pytest.mark.parametrize("task", ["SB", "EB", "ES"])
def test_a_variant_is_the_sum_of_what_it_keeps(corpus, manifest, environment, variant, task):
    data = dataset(manifest, [variant], task)
    kept = KEPT[environment, variant].split()
    seen = 0
    for row in corpus.rows["train"]:
        stem = row["mixFile"].removesuffix(".wav")
        if manifest[stem]["environment"] != environment:
            continue
        item = data[data.data_ids.index(stem)]
        s1, s2 = layer(corpus, row, "s1"), layer(corpus, row, "s2")
        layers = ["s1", *kept] if task == "ES" else ["s1", "s2", *kept]
        if task == "ES" and "s2_reverb" in layers:
            layers.remove("s2_reverb")
        mixture = sum(layer(corpus, row, name) for name in layers)
        targets = {"SB": [s1, s2], "EB": [s1 + s2], "ES": [s1]}[task]
        assert item["variants"] == (variant,)
        # Exactly: sums of 16-bit samples lose nothing in float32.
        np.testing.assert_array_equal(item["mixtures"][0].numpy(), mixture)
        np.testing.assert_array_equal(item["targets"].numpy(), np.stack(targets, 1))
        seen += 1
    assert seen >= 6


def test_testing_gives_every_variant_of_a_mixture(corpus, manifest):
    every = dataset(manifest, draw=False)
    for item in every:
        assert set(item["variants"]) == set(manifest[item["id"]]["variants"])
        for variant, mixture in zip(item["variants"], item["mixtures"], strict=True):
            alone = dataset(manifest, [variant])
            same = alone[alone.data_ids.index(item["id"])]
            assert torch.equal(same["mixtures"][0], mixture)


def drawn(data, epoch, workers=0):
    data.set_epoch(epoch)
    loader = DataLoader(data, batch_size=3, num_workers=workers, collate_fn=collate)
    return {
        (batch.id[i], batch.variant[i], float(batch.mixture.data[i].sum()))
        for batch in loader
        for i in range(len(batch))
    }


def test_draws_do_not_depend_on_workers_and_change_with_the_epoch(manifest):
    data = dataset(manifest, segment_seconds=0.02)
    first = drawn(data, 1)
    assert drawn(data, 1, workers=1) == first
    assert drawn(data, 1, workers=4) == first
    assert drawn(dataset(manifest, segment_seconds=0.02), 1) == first
    assert drawn(data, 2) != first
    other_seed = dataset(manifest, seed=43, segment_seconds=0.02)
    assert drawn(other_seed, 1) != first


def test_workers_that_live_on_see_the_next_epoch(manifest):
    data = dataset(manifest)
    loader = DataLoader(data, num_workers=1, collate_fn=collate, persistent_workers=True)
    for epoch in (1, 2, 3):
        data.set_epoch(epoch)
        seen = {(batch.id[0], batch.variant[0]) for batch in loader}
        assert seen == {(name, variant) for name, variant, _ in drawn(data, epoch)}


def test_a_worker_without_shared_memory_says_so(manifest):
    """Files of a few bytes are all that its system calls may make."""

    def without_room(worker):
        resource.setrlimit(resource.RLIMIT_FSIZE, (16, 16))

    loader = DataLoader(
        dataset(manifest), num_workers=1, collate_fn=collate, worker_init_fn=without_room
    )
    with pytest.raises(InputError, match=r"no shared memory for a batch \(File too large"):
        next(iter(loader))


def test_mixtures_without_an_allowed_variant_are_left_out(manifest):
    assert {manifest[i]["environment"] for i in dataset(manifest, ["SER"]).data_ids} == {"indoor"}
    assert len(dataset(manifest, ["C"])) == len(manifest)


def test_a_crop_is_a_part_of_the_mixture_and_of_its_targets(manifest):
    whole, data = (dataset(manifest, ["C"]), dataset(manifest, ["C"], segment_seconds=0.01))
    starts = set()
    for epoch in range(5):
        data.set_epoch(epoch)
        crop, full = data[0]["mixtures"][0], whole[0]["mixtures"][0]
        windows = full.unfold(0, 80, 1)
        (start,) = (windows == crop).all(1).nonzero()[0].tolist()
        starts.add(start)
        assert torch.equal(data[0]["targets"], whole[0]["targets"][start : start + 80])
    assert len(starts) > 2
    longer = dataset(manifest, ["C"], segment_seconds=9.0)
    assert torch.equal(longer[0]["mixtures"], whole[0]["mixtures"])


def test_fewer_samples_are_among_more_whatever_the_seed(manifest):
    five = set(dataset(manifest, max_samples=5, seed=1).data_ids)
    nine = set(dataset(manifest, max_samples=9, seed=2).data_ids)
    assert len(five) == 5
    assert five < nine
    assert len(dataset(manifest, max_samples=999)) == len(manifest)


def test_only_the_layers_that_it_must_are_read(manifest, monkeypatch):
    import custom_modules.dataio as dataio

    read = []
    real = dataio.read_layer
    monkeypatch.setattr(dataio, "read_layer", lambda p, **k: read.append(p) or real(p, **k))
    data = dataset(manifest, ["SER"])
    data[0]
    entry = manifest[data.data_ids[0]]
    assert sorted(read) == sorted([entry["mix"], entry["s1"], entry["s2"]])
    read.clear()
    every = dataset(manifest, draw=False, task="ES")
    every[0]
    assert len(read) == len(set(read))


def test_speechbrain_reads_the_manifest_and_the_corpus_may_move(corpus, tmp_path):
    moved = tmp_path / "elsewhere" / "Tiny"
    moved.parent.mkdir()
    corpus.root.rename(moved)
    try:
        replacements = {"data_root": str(moved)}
        path = corpus.manifests / "train.json"
        theirs = DynamicItemDataset.from_json(path, replacements)
        ours = Manifest(path, replacements)
        assert dict(ours) == theirs.data
        assert len(dataset(ours)[0]["mixtures"][0]) == FRAMES
    finally:
        moved.rename(corpus.root)


@pytest.mark.parametrize("indent", [None, 2])
def test_any_json_of_that_shape_is_a_manifest(corpus, tmp_path, indent):
    path = corpus.manifests / "train.json"
    other = tmp_path / "other.json"
    other.write_text(json.dumps(json.loads(path.read_text()), indent=indent))
    replacements = {"data_root": "/x"}
    assert dict(Manifest(other, replacements)) == dict(Manifest(path, replacements))


@pytest.mark.parametrize("content", ["", "{}", "[1, 2]", "no JSON", '{"a": 1', '{"a":' * 10**5])
def test_what_is_no_manifest_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "bad.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"bad\.json: .*polsess_prepare"):
        Manifest(path, {})
    with pytest.raises(InputError, match=r"none\.json.*polsess_prepare"):
        Manifest(tmp_path / "none.json", {})


def by_hand(corpus, path, change):
    """The manifest with its first entry changed, and that entry's id."""
    entries = json.loads((corpus.manifests / "train.json").read_text())
    first = next(iter(entries))
    change(entries[first])
    path.write_text(json.dumps(entries))
    return first


@pytest.mark.parametrize("key", ["mix", "s1", "s2_layers", "variants", "environment", "duration"])
@pytest.mark.parametrize("value", [None, 7, -1.5, True, [1], {"SER": "a"}, float("nan")])
def test_an_entry_by_hand_is_checked(corpus, tmp_path, key, value):
    if key == "duration" and value == 7:
        return
    path = tmp_path / "hand.json"
    first = by_hand(corpus, path, lambda entry: entry.update({key: value}))
    with pytest.raises(InputError, match=rf"hand\.json: '{first}' has .* as its {key}; "):
        Manifest(path, {"data_root": str(corpus.root)})
    by_hand(corpus, path, lambda entry: entry.pop(key))
    with pytest.raises(InputError, match=rf"hand\.json: '{first}' has no {key}; "):
        Manifest(path, {"data_root": str(corpus.root)})


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"sample_rate": 1}, "sample_rate"),
        ({"sample_rate": 16000}, "another sample_rate"),
        ({"variants": {}}, "lacks the variants"),
        ({"ssr_db": "-2,5"}, "ssr_db"),
        ({"gender1": 1}, "gender1"),
        ({"note": "{nobody}"}, "cannot be used"),
        ({"note": "{data_root.nothing}"}, "cannot be used"),
        ({"note": "{"}, "cannot be used"),
        ({"scene_class": "{nobody}"}, "cannot be used"),
    ],
)
def test_what_an_entry_by_hand_may_say(corpus, tmp_path, change, complaint):
    path = tmp_path / "hand.json"
    by_hand(corpus, path, lambda entry: entry.update(change))
    with pytest.raises(InputError, match=rf"hand\.json: .*{complaint}"):
        Manifest(path, {"data_root": str(corpus.root)})


@pytest.mark.parametrize(
    "mixture_id", ["../../x", "/x", "a/b", "a\\b", "", ".", "..", "a\nb", "a\0", "\ud800"]
)
def test_an_id_is_the_name_of_a_file(corpus, tmp_path, mixture_id):
    entries = json.loads((corpus.manifests / "train.json").read_text())
    path = tmp_path / "hand.json"
    path.write_text(json.dumps({mixture_id: next(iter(entries.values()))}))
    with pytest.raises(InputError, match=r"hand\.json: .* cannot be a file's name"):
        Manifest(path, {"data_root": str(corpus.root)})


def test_no_id_occurs_twice(corpus, tmp_path):
    text = (corpus.manifests / "train.json").read_text().strip()
    first = next(iter(json.loads(text)))
    path = tmp_path / "hand.json"
    path.write_text(text[:-1] + "," + text[1:])
    with pytest.raises(InputError, match=rf"hand\.json: '{first}' occurs twice"):
        Manifest(path, {"data_root": str(corpus.root)})


@pytest.mark.parametrize(
    "outside",
    ["{data_root}/../x.wav", "{data_root}/a/../../x.wav", "/etc/x.wav", "../x.wav", "x.wav",
     "{data_root}/{data_root:.0}.{data_root:.0}./x.wav", "{data_root}-other/x.wav"],
)  # fmt: skip
@pytest.mark.parametrize("key", ["mix", "s1", "s2_layers", "variants"])
def test_paths_by_hand_stay_in_the_corpus(corpus, tmp_path, outside, key):
    path = tmp_path / "hand.json"

    def change(entry):
        value = entry[key]
        name = next(iter(value)) if isinstance(value, dict) else None
        entry[key] = {**value, name: [outside]} if name else outside
        entry[key] = [outside] if isinstance(value, list) else entry[key]

    by_hand(corpus, path, change)
    with pytest.raises(InputError, match=r"hand\.json: .*the corpus folder"):
        Manifest(path, {"data_root": str(corpus.root)})


def test_a_corpus_of_links_is_read_from_anywhere(corpus, tmp_path, monkeypatch):
    (tmp_path / "disk").symlink_to(corpus.root)
    monkeypatch.chdir(tmp_path)
    for root in ("disk", "../" + tmp_path.name + "/disk", str(tmp_path / "disk")):
        manifest = Manifest(corpus.manifests / "train.json", {"data_root": root})
        assert len(dataset(manifest)[0]["mixtures"][0]) == FRAMES
    path = tmp_path / "hand.json"
    mix = tmp_path / "disk" / "train" / "mix" / corpus.rows["train"][0]["mixFile"]
    first = by_hand(corpus, path, lambda entry: entry.update(mix=str(mix)))
    assert Manifest(path, {"data_root": "disk"})[first]["mix"] == str(mix)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_manifest_is_a_file(tmp_path, make):
    make(tmp_path / "hand.json")
    with pytest.raises(InputError, match=r"hand\.json: is a (pipe|folder)"):
        Manifest(tmp_path / "hand.json", {})


def test_variants_may_be_a_string(manifest):
    assert dataset(manifest, "SER").variants == ("SER",)
    assert dataset(manifest, "SER,SE").variants == ("SER", "SE")


@pytest.mark.parametrize("variants", [["SER", "X"], [], "SEX", "", None])
def test_unknown_variants_and_tasks_are_refused(manifest, variants):
    with pytest.raises(InputError, match="choose one or more of SER"):
        dataset(manifest, variants)
    with pytest.raises(InputError, match="SB, EB, ES"):
        dataset(manifest, task="XX")


def test_a_file_that_went_away_is_named(corpus, manifest, tmp_path):
    data = dataset(manifest, ["C"])
    victim = manifest[data.data_ids[0]]["s1"]
    backup = tmp_path / "backup.wav"
    with open(victim, "rb") as stream:
        backup.write_bytes(stream.read())
    try:
        with open(victim, "wb") as stream:
            stream.write(b"RIFF")
        for segment_seconds in (None, 0.01):
            data = dataset(manifest, ["C"], segment_seconds=segment_seconds)
            with pytest.raises(InputError, match="speaker1File"):
                data[0]
        with open(victim, "wb") as stream:
            sf.write(stream, np.zeros(FRAMES // 2), 8000, format="WAV")
        with pytest.raises(InputError, match="instead of 400"):
            dataset(manifest, ["C"])[0]
    finally:
        with open(victim, "wb") as stream:
            stream.write(backup.read_bytes())


def test_unequal_lengths_are_padded_and_say_so(manifest):
    items = [dict(dataset(manifest, ["C"])[i]) for i in (0, 1)]
    items[1]["mixtures"] = items[1]["mixtures"][:, :300]
    items[1]["targets"] = items[1]["targets"][:300]
    batch = collate(items)
    assert batch.mixture.lengths.tolist() == [1.0, 0.75]
    assert batch.targets.data[1, 300:].abs().sum() == 0
