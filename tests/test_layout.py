"""What generator and preparation must agree upon."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from custom_modules import layout
from custom_modules.layout import ENDINGS

# Few names, so that a folder often has that of another speaker.
NAMES = st.sampled_from(["6892", "10179", "anna", "jan"])
FOLDERS = st.lists(NAMES, max_size=4).map(lambda names: [*names, "7.wav"])


@given(FOLDERS, NAMES, st.sets(NAMES), st.sets(NAMES))
def test_a_path_with_its_speaker_tells_the_speaker(folders, speaker, others, left_out):
    path = "/".join(folders)
    named = layout.with_speaker(path, speaker, others | {speaker})
    assert named in (path, f"{speaker}/{path}")
    # A list of speakers may lack those whose recordings no subset has.
    listed = (others - left_out) | {speaker}
    assert layout.speaker_of(named, listed) == speaker
    assert layout.speaker_of(named.replace("/", "\\"), listed) == speaker
    assert layout.speaker_of(f"{named};jan/anna/8.wav", listed) == speaker


def test_every_layer_has_a_column_and_a_name_of_its_own():
    assert set(ENDINGS) == set(layout.LAYERS)
    assert {layer.column for layer in layout.LAYERS.values()} < set(layout.COLUMNS)
    assert set(layout.DRY_LAYERS) | set(layout.REVERB_LAYERS) == set(layout.LAYERS)
    assert len(set(ENDINGS.values())) == len(ENDINGS)
    assert list(ENDINGS)[-1] == "mix"
    assert len(layout.COLUMNS) == len(set(layout.COLUMNS)) == 34


@given(st.floats(-1e6, 1e6), st.sampled_from(["", " dB", "dB"]), st.booleans(), st.booleans())
def test_a_number_is_read_however_a_spreadsheet_writes_it(value, unit, comma, typographic):
    text = repr(value)
    text = text.replace(".", ",") if comma else text
    text = text.replace("-", "−") if typographic else text
    assert layout.read_number(text + unit) == value


@given(st.text(max_size=8))
def test_a_cell_is_a_finite_number_or_refused(text):
    try:
        value = layout.read_number(text)
    except ValueError as error:
        assert repr(text) in str(error)
    else:
        assert math.isfinite(value) or not text


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1250"])
def test_rows_are_read_back_through_a_spreadsheet(tmp_path, separator, encoding):
    rows = [{"a": "ż;1", "b": ""}, {"a": 'x,"y"', "b": "0.5"}]
    path = tmp_path / "t.csv"
    layout.write_rows(path, ["a", "b"], rows)
    assert layout.read_rows(path) == rows
    lines = [separator.join(['"' + c.replace('"', '""') + '"' for c in r.values()]) for r in rows]
    path.write_bytes("\r\n".join([separator.join("ab"), *lines, ""]).encode(encoding))
    assert layout.read_rows(path) == rows


def test_no_corpus_is_lost_whatever_they_are_named():
    folders = ["real/PolSESS", "mini/PolSESS", "x/PolSESS-2"]
    assert [*layout.corpora(folders).values()] == folders
