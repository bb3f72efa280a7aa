"""The manifest: what an entry says, and that SpeechBrain reads it."""

import json

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from speechbrain.dataio.dataset import DynamicItemDataset

from custom_modules.manifest.entries import escape_braces, manifest_entry, write_entries

LAYERS = ("mix", "s1", "s2", "scene", "event", "s1_reverb", "s2_reverb", "event_reverb")

# Written out from the paper's table: what to take away for each variant.
SCENE, EVENT, EVENT_REVERB = "scene.wav", "event.wav", "event_reverb.wav"
SPEECH_REVERB = ["s1_reverb.wav", "s2_reverb.wav"]
TABLE = {
    "indoor": {
        "SER": [],
        "SR": [EVENT, EVENT_REVERB],
        "ER": [SCENE],
        "R": [SCENE, EVENT, EVENT_REVERB],
        "C": [SCENE, EVENT, EVENT_REVERB, *SPEECH_REVERB],
    },
    "outdoor": {"SE": [], "S": [EVENT], "E": [SCENE], "C": [SCENE, EVENT]},
}


def row_of(environment, **cells):
    row = {layer: f"val/{layer}.wav" for layer in LAYERS}
    if environment == "outdoor":
        row |= {layer: "" for layer in LAYERS if layer.endswith("reverb")}
    return row | {"sample_rate": 16000, "frames": 24000} | cells


def load(tmp_path, *rows):
    write_entries(tmp_path / "m.json", pd.DataFrame(rows))
    replacements = {"data_root": "/new {place}"}
    return DynamicItemDataset.from_json(tmp_path / "m.json", replacements).data


@pytest.mark.parametrize("environment", list(TABLE))
def test_each_variant_cancels_what_the_paper_says(environment):
    entry = manifest_entry(row_of(environment))
    expected = {
        variant: ["{data_root}/val/" + file for file in files]
        for variant, files in TABLE[environment].items()
    }
    assert entry["variants"] == expected
    assert entry["environment"] == environment


def test_what_belongs_to_the_second_speaker():
    indoor = manifest_entry(row_of("indoor"))["s2_layers"]
    outdoor = manifest_entry(row_of("outdoor"))["s2_layers"]
    assert indoor == ["{data_root}/val/s2.wav", "{data_root}/val/s2_reverb.wav"]
    assert outdoor == ["{data_root}/val/s2.wav"]


def test_duration_and_missing_values():
    entry = manifest_entry(row_of("indoor", ssr_db=float("nan"), scene_class=""))
    assert entry["duration"] == 1.5
    assert entry["sample_rate"] == 16000
    assert (entry["ssr_db"], entry["scene_class"], entry["event_class"]) == (None,) * 3
    assert "speaker1" not in entry
    assert manifest_entry(row_of("indoor", ssr_db=-2.0))["ssr_db"] == -2
    assert manifest_entry(row_of("indoor", ssr_db=0.5))["ssr_db"] == 0.5


def test_speechbrain_loads_a_corpus_that_has_moved(tmp_path):
    data = load(tmp_path, row_of("indoor"), row_of("outdoor", mix="test/mix/b.wav"))
    assert list(data) == ["mix", "b"]
    assert data["b"]["mix"] == "/new {place}/test/mix/b.wav"
    assert data["mix"]["variants"]["ER"] == ["/new {place}/val/scene.wav"]
    assert data["mix"].keys() == data["b"].keys()


@given(st.text(min_size=1))
def test_braces_come_back_as_they_were(text):
    assert escape_braces(text).format_map({}) == text


def test_braces_in_file_names_and_classes_survive_speechbrain(tmp_path):
    row = row_of("indoor", mix="val/{a}}.wav", scene="{data_root}", scene_class="{bus}")
    data = load(tmp_path, row | {"speaker1": "{s}", "gender1": ""})
    entry = data["{a}}"]
    assert entry["mix"] == "/new {place}/val/{a}}.wav"
    assert entry["variants"]["ER"] == ["/new {place}/{data_root}"]
    assert entry["scene_class"] == "{bus}"
    assert (entry["speaker1"], entry["gender1"]) == ("{s}", None)


def test_the_file_has_one_line_per_mixture(tmp_path):
    names = ["a", 'zażółć "\n\u2028', "c"]
    rows = pd.DataFrame([row_of("indoor", mix=f"{name}.wav") for name in names])
    write_entries(tmp_path / "m.json", rows)
    first, *lines, last = (tmp_path / "m.json").read_bytes().splitlines()
    assert (first, last) == (b"{", b"}")
    whole = json.loads((tmp_path / "m.json").read_bytes())
    assert list(whole) == names
    streamed = {}
    for line in lines:
        streamed |= json.loads(b"{" + line.removesuffix(b",") + b"}")
    assert streamed == whole
