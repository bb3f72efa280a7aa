"""The optional list of speakers."""

import pandas as pd
import pytest

from custom_modules.errors import InputError
from custom_modules.manifest.csv_tables import add_speakers, read_genders


def test_no_list_is_no_fault(tmp_path):
    assert read_genders(tmp_path) is None


def test_genders_are_read_and_may_be_missing(tmp_path):
    path = tmp_path / "speakers.csv"
    path.write_text("speaker,gender,subset\nanna,female,train\njan,,val\n")
    assert read_genders(tmp_path) == {"anna": "female", "jan": ""}
    path.write_text("speaker\nanna\n")
    assert read_genders(tmp_path) == {"anna": ""}


@pytest.mark.parametrize("text", ["", "name\nanna\n", "speaker\n"])
def test_a_list_without_speakers_is_refused(tmp_path, text):
    (tmp_path / "speakers.csv").write_text(text)
    with pytest.raises(InputError, match=r"speakers\.csv"):
        read_genders(tmp_path)


def test_the_outermost_known_folder_is_the_speaker():
    rows = pd.DataFrame(
        {
            "recording1": ["pl/anna/jan/1.wav", r"C:\anna\session\2.wav", "x/anna.wav"],
            "recording2": ["jan", "", "jan/anna"],
        }
    )
    add_speakers(rows, {"anna": "female", "jan": "male"})
    assert rows["speaker1"].tolist() == ["anna", "anna", ""]
    assert rows["gender1"].tolist() == ["female", "female", ""]
    assert rows["speaker2"].tolist() == ["", "", "jan"]


def test_without_recordings_nobody_is_known():
    rows = pd.DataFrame({"mix": ["a", "b"]})
    add_speakers(rows, {"anna": "female"})
    assert rows["speaker1"].tolist() == ["", ""]
