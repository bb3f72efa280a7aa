"""Remixed examples: their sums, and the laws of their draws."""

import csv
import math
from collections import Counter

import numpy as np
import pytest
import soundfile as sf
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.signal import resample_poly
from scipy.stats import ks_2samp, kstest
from torch.utils.data import DataLoader

from custom_modules.dataio import MixtureDataset, collate
from custom_modules.errors import InputError
from custom_modules.manifest.reading import Manifest, open_manifest
from custom_modules.mmipc import VARIANTS
from custom_modules.remixing import Remix, Remixer, Row, _Group, remix_of, silence_of, speeds_of
from polsess_prepare import prepare_polsess
from tests.manifest.tiny_corpus import TinyCorpus

FRAMES = 400
VOICES = {f"voice{i}": "fm"[i % 2] for i in range(8)}


def make_corpus(root, rows=30, voices=VOICES, named=True, subsets=("train",)):
    """A corpus of known talkers, whose tables say at what levels it is mixed."""
    corpus, rng = TinyCorpus(root, frames=FRAMES), np.random.default_rng(len(voices))
    for subset in subsets:
        for row in range(rows):
            pair = [*voices][row % len(voices)], [*voices][(row + 3) % len(voices)]
            cells = {
                f"speech{n}OryginalPath": rf"D:\mls\{name}\{row}.wav"
                for n, name in enumerate(pair, start=1)
            }
            cells |= {
                "SSR": str(rng.integers(-5, 6)),
                "sceneOffsetDB": f"{rng.uniform(-14, 0):.2f}",
            }
            corpus.add(subset, f"{subset}_{row}", "outdoor" if row % 3 == 2 else "indoor", **cells)
    corpus.write_tables()
    if named:
        with open(root / "speakers.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerows([("speaker", "gender"), *voices.items()])
    folder = root.parent / f"{root.name}_manifests"
    prepare_polsess(root, folder, subsets=subsets, workers=1)
    return Manifest(folder / f"{subsets[0]}.json", {"data_root": str(root)})


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("data") / "Tiny")


def dataset(manifest, task="SB", variants=VARIANTS, seed=42, draw=True, segment=None, **remixing):
    remixing = remixing or {"remix": True}
    return MixtureDataset(
        manifest, variants, task, seed, segment_seconds=segment, draw=draw, remixing=remixing
    )


def added_up(recipe, frames=FRAMES):
    """The sum of a recipe's layers, by the description in its docstring alone."""
    total, roles = np.zeros(frames), {}
    for part in recipe:
        samples, _ = sf.read(part.path)
        if part.speed != 1:
            samples = resample_poly(samples, 100, round(100 * part.speed))
        samples = np.pad(samples[:frames], (0, max(0, frames - len(samples)))) * part.gain
        total += samples
        roles[part.layer] = samples
    return total, roles


@pytest.mark.parametrize("task", ["SB", "EB", "ES"])
@pytest.mark.parametrize(
    "remixing",
    [
        {"remix": True},
        {"remix": {"probability": 0.5}, "speed": [0.8, 1.3]},
        {"remix": True, "silent_talker": {"share": 0.6, "both": 0.4, "from_epoch": 1}},
        {"speed": [0.9, 0.9]},
        {"silent_talker": {"share": 1, "from_epoch": 1}},
    ],
)
def test_recipes_add_up_to_mixtures_and_targets(manifest, task, remixing):
    data = dataset(manifest, task, **remixing)
    silent = np.zeros(FRAMES)
    for epoch in (1, 2):
        data.set_epoch(epoch)
        for item in data:
            total, roles = added_up(item["recipe"])
            np.testing.assert_allclose(item["mixtures"][0].numpy(), total, atol=1e-6)
            assert np.abs(total).max() < 1
            if "mix" in roles:
                continue
            s1, s2 = roles.get("s1", silent), roles.get("s2", silent)
            targets = {"SB": [s1, s2], "EB": [s1 + s2], "ES": [s1]}[task]
            np.testing.assert_allclose(item["targets"].numpy(), np.stack(targets, 1), atol=1e-6)


def test_a_crop_is_a_part_of_the_whole(manifest):
    whole = dataset(manifest, speed=[0.8, 1.25], remix=True)
    crops = dataset(manifest, segment=0.02, speed=[0.8, 1.25], remix=True)
    for data in (whole, crops):
        data.set_epoch(3)
    for i in range(len(whole)):
        full, part = whole[i]["mixtures"][0], crops[i]["mixtures"][0]
        start, frames = crops.segment(whole[i]["id"], FRAMES / 8000, 8000)
        # What reaches full scale is scaled by the peak of what is heard.
        scale = full[start : start + frames] @ part / (part @ part)
        torch.testing.assert_close(part * scale, full[start : start + frames], atol=1e-5, rtol=1e-4)


def test_layers_of_one_example_belong_together(manifest):
    """Two talkers, all in one environment; each reverberation with its own dry layer."""
    data = dataset(manifest, variants=["SER", "SE"])
    kinds = Counter()
    for epoch in range(1, 6):
        data.set_epoch(epoch)
        for item in data:
            names = {part.layer: part.path.rsplit("/", 1)[1] for part in item["recipe"]}
            rows = {layer: manifest["_".join(x.split("_")[:2])] for layer, x in names.items()}
            assert {row["environment"] for row in rows.values()} == {item["environment"]}
            talkers = [
                rows[layer][f"speaker{names[layer][-9]}"]  # train_7_speaker1File.wav
                for layer in ("s1", "s2")
            ]
            assert talkers[0] != talkers[1]
            if item["environment"] == "indoor":
                for role in ("s1", "s2"):
                    row, _, talker = names[role].removesuffix("File.wav").rpartition("speaker")
                    assert names[f"{role}_reverb"] == f"{row}reverbForSpeaker{talker}.wav"
                dry = names["event_reverb"].replace("reverbForEvent", "eventFile")
                assert names["event"] == dry
            own = {name.split("_")[1] for name in names.values()}
            kinds[len(own)] += 1
    assert max(kinds, key=kinds.get) == 4  # s1, s2, scene and event of as many rows


def test_every_epoch_has_other_mixtures_and_hears_every_layer(manifest):
    data, recipes = dataset(manifest, variants=["SER", "SE"]), []
    for epoch in range(1, 5):
        data.set_epoch(epoch)
        items = list(data)
        recipes += [tuple(item["recipe"]) for item in items]
        scenes = Counter(p.path for item in items for p in item["recipe"] if p.layer == "scene")
        assert len(scenes) > 0.75 * len(items)  # an order of its own, but for pairs that clash
    assert len(set(recipes)) == len(recipes)


def test_ratios_follow_the_corpus(manifest):
    stored = [manifest[name]["ssr_db"] for name in manifest]
    scenes = [manifest[name]["scene_db"] for name in manifest]
    data = dataset(manifest, variants=["S", "ER", "SER"])
    ratios, levels, epoch = [], [], 0
    while len(ratios) < 2000:
        epoch += 1
        for name in manifest:
            sketch = data.remixer.sketch(name, manifest[name]["environment"], epoch)
            ratios.append(sketch.ssr_db)
            levels.append(sketch.scene_db)
    assert ks_2samp(ratios, stored).pvalue > 0.01
    assert ks_2samp(levels, scenes).pvalue > 0.01
    data.set_epoch(1)
    for item in data:
        _, roles = added_up(item["recipe"])
        level = 10 * math.log10(np.mean(roles["s1"] ** 2) / np.mean(roles["s2"] ** 2))
        sketch = data.remixer.sketch(item["id"], item["environment"], 1)
        assert level == pytest.approx(sketch.ssr_db, abs=1e-3)
        if "scene" in roles:
            speech = np.mean((roles["s1"] + roles["s2"]) ** 2)
            level = 10 * math.log10(np.mean(roles["scene"] ** 2) / speech)
            assert level == pytest.approx(sketch.scene_db, abs=1e-3)


def test_levels_that_no_table_holds_are_the_published_ones():
    rows = [
        (f"m{i}", {"environment": "outdoor", "speaker1": f"a{i}", "speaker2": f"b{i}"})
        for i in range(500)
    ]
    remixer = Remixer(rows, 1, Remix())
    sketches = [remixer.sketch(name, "outdoor", 1) for name, _ in rows]
    assert {sketch.ssr_db for sketch in sketches} == set(range(-5, 6))
    assert kstest([s.scene_db for s in sketches], "uniform", (-14, 14)).pvalue > 0.001


def drawn(data, epoch, workers=0):
    data.set_epoch(epoch)
    loader = DataLoader(data, batch_size=3, num_workers=workers, collate_fn=collate)
    return {
        (batch.id[i], batch.variant[i], tuple(map(tuple, batch.recipe[i])))
        for batch in loader
        for i in range(len(batch))
    }


@pytest.mark.filterwarnings("ignore:This DataLoader")
def test_draws_do_not_depend_on_workers(manifest):
    options = {"remix": {"talkers": "same_gender"}, "speed": [0.9, 1.1], "segment": 0.02}
    data = dataset(manifest, silent_talker=0.2, **options)
    first = drawn(data, 7)
    assert drawn(data, 7, workers=1) == first == drawn(data, 7, workers=4)
    assert drawn(dataset(manifest, silent_talker=0.2, **options), 7) == first
    assert not drawn(data, 8) & first
    assert not drawn(dataset(manifest, seed=43, silent_talker=0.2, **options), 7) & first


def test_pairs_of_one_gender(manifest):
    def share(**options):
        data, same, total = dataset(manifest, remix={"talkers": "same_gender", **options}), 0, 0
        for epoch in range(1, 12):
            for name in manifest:
                sketch = data.remixer.sketch(name, manifest[name]["environment"], epoch)
                pair = [sketch.donors[role] for role in ("s1", "s2")]
                genders = [manifest[row][f"gender{layer[1]}"] for row, layer in pair]
                same, total = same + (genders[0] == genders[1]), total + 1
        return same / total

    assert share() == 1
    assert 0.5 < share(talkers_share=0.3) < 0.7  # 0.3, and chance among the rest


def test_shares_of_silence_and_speeds_are_those_asked_for():
    remixer = Remixer([], 3, speeds=(0.85, 1.16), silence=silence_of({"share": 0.3, "both": 0.5}))
    sketches = [remixer.sketch(f"m{i}", "indoor", 5) for i in range(4000)]
    counts = Counter(len(sketch.silent) for sketch in sketches)
    assert counts[0] == pytest.approx(2800, abs=150)
    assert counts[1] == pytest.approx(600, abs=120)
    alone = Counter(x for s in sketches if len(s.silent) == 1 for x in s.silent)
    assert alone["s1"] == pytest.approx(alone["s2"], abs=110)
    assert not any(remixer.sketch(f"m{i}", "indoor", 4).silent for i in range(100))
    speeds = [s.speeds["s1"] for s in sketches]
    assert min(speeds) == 0.85 and max(speeds) == 1.16
    logs = np.log(speeds) + np.random.default_rng(1).uniform(-0.005, 0.005, 4000)
    bounds = math.log(0.85), math.log(1.16 / 0.85)
    assert kstest(logs, "uniform", bounds).pvalue > 0.001
    assert Counter(s.speeds["s1"] == s.speeds["s2"] for s in sketches)[True] < 400


def test_validation_and_test_stay_as_they_are_stored(manifest):
    plain = MixtureDataset(manifest, VARIANTS, "SB", 42, draw=False)
    assert plain.remixer is None
    for item in plain:
        assert "recipe" not in item


@pytest.mark.parametrize("named", [True, False])
def test_talkers_are_known_by_table_or_by_path(tmp_path, named):
    manifest = make_corpus(tmp_path / "Corpus", rows=12, named=named)
    keys = ("speaker1", "speaker2") if named else ("source1", "source2")
    assert {manifest[name][key] for name in manifest for key in keys} == set(VOICES)
    data = dataset(manifest)
    for name in manifest:
        sketch = data.remixer.sketch(name, manifest[name]["environment"], 1)
        pair = [sketch.donors[role] for role in ("s1", "s2")]
        first, second = (manifest[row][f"{keys[0][:-1]}{layer[1]}"] for row, layer in pair)
        assert first != second


def test_without_talkers_two_are_of_two_rows():
    rows = [(f"m{i}", {"environment": "clean"}) for i in range(20)]
    remixer = Remixer(rows, 1, Remix())
    for name, _ in rows:
        donors = remixer.sketch(name, "clean", 1).donors
        assert donors["s1"][0] == name != donors["s2"][0]
        assert set(donors) == {"s1", "s2"}


def test_two_mixtures_will_do_and_one_talker_is_refused(tmp_path):
    two = make_corpus(tmp_path / "Two", rows=2, voices={"anna": "f", "jan": "m"}, named=True)
    assert len(list(dataset(two, variants=["SER"]))) == 2
    alone = make_corpus(tmp_path / "One", rows=4, voices={"anna": "f"})
    with pytest.raises(InputError, match="indoor training speech has one talker alone"):
        dataset(alone)
    with pytest.raises(InputError, match="no second talker of the gender of anna"):
        dataset(two, remix={"talkers": "same_gender"})


def test_one_name_of_two_people_hides_no_lone_gender():
    rows = [Row(("1", "2"), ("f", "m"), None, None), Row(("1", "3"), ("m", "m"), None, None)]
    with pytest.raises(InputError, match="no second talker of the gender of 1"):
        _Group("speech", ["a", "b"], rows).check("same_gender")


def test_pairs_of_several_corpora_stay_apart_unless_asked(tmp_path):
    for name in ("real", "made"):
        make_corpus(tmp_path / name / "Mini", rows=9)
    folders = [str(tmp_path / name / "Mini") for name in ("real", "made")]
    for label, folder in zip(("Mini", "Mini-2"), folders, strict=True):
        prepare_polsess(folder, tmp_path / "m" / label, subsets=["train"], workers=1)
    joined = open_manifest(tmp_path / "m" / "train.json", folders)
    assert len(joined) == 18
    for across in (False, True):
        data = dataset(joined, remix={"across_corpora": across})
        data.set_epoch(1)
        met = [len({part.path.split("/Mini/")[0] for part in item["recipe"]}) for item in data]
        assert (max(met) == 2) == across


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
)


@given(values)
def test_bad_values_name_their_key(value):
    for key, reader in (("remix", remix_of), ("speed", speeds_of), ("silent_talker", silence_of)):
        try:
            reader(value)
        except InputError as error:
            assert str(error).startswith(f"--{key}")


@pytest.mark.parametrize(
    ("reader", "value", "words"),
    [
        (remix_of, {"probability": 2}, "--remix, probability=2: must be a number from 0 up to 1"),
        (
            remix_of,
            {"talker": "any"},
            "--remix: no option is called talker; it has probability, talkers",
        ),
        (remix_of, "yes", "--remix=yes: neither a mapping"),
        (speeds_of, [1.1, 0.9], "the slowest comes first"),
        (speeds_of, 1.1, "must be null or"),
        (silence_of, 1.5, "--silent_talker, share=1.5"),
        (silence_of, {"from_epoch": 0}, "from_epoch=0: must be a whole number"),
    ],
)
def test_what_is_wrong_with_a_value_is_said(reader, value, words):
    with pytest.raises(InputError, match=words):
        reader(value)
