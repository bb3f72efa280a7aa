"""Tables as MATLAB writes them, those that nobody should write, and speakers."""

import os
import posixpath

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from custom_modules.errors import InputError
from custom_modules.manifest.csv_tables import (
    OutsideError,
    corpus_path,
    find_table,
    mixture_id,
    read_genders,
    read_table,
    with_speakers,
)

HEADER = "mixFile,speaker1File,speaker2File,sceneFile,eventFile"
REVERBS = "reverbForSpeaker1,reverbForSpeaker2,reverbForEvent"


def read(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "table.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
    return read_table(path, "val", tmp_path)


def reasons(table):
    return [(problem.row, problem.file, problem.reason) for problem in table.problems]


@pytest.mark.parametrize("place", ["val/corpus_Own_val_final.csv", "corpus_Own_val_final.csv"])
@pytest.mark.parametrize("others", [[], ["val/corpus_old_val_final.csv"]])
def test_the_table_named_after_the_folder_wins(tmp_path, place, others):
    root = tmp_path / "Own"
    (root / "val").mkdir(parents=True)
    for name in [place, *others]:
        (root / name).touch()
    assert find_table(root, "val") == root / place


@pytest.mark.parametrize("place", ["val/corpus_Own_val_final.csv", "corpus_Own_val_final.csv"])
def test_an_unusual_folder_name_does_not_matter(tmp_path, place):
    root = tmp_path / "my [copy] of it"
    (root / "val").mkdir(parents=True)
    (root / place).touch()
    assert find_table(root, "val") == root / place


def test_a_choice_of_tables_is_refused_and_both_are_named(tmp_path):
    (tmp_path / "val").mkdir()
    for name in ("corpus_a_val_final.csv", "corpus_b_val_final.csv"):
        (tmp_path / "val" / name).touch()
    with pytest.raises(InputError, match=r"corpus_a_val.*corpus_b_val.*keep one"):
        find_table(tmp_path, "val")


def test_no_table_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no readable corpus_\*_val_final.csv"):
        find_table(tmp_path, "val")


def test_line_ends_byte_order_mark_and_quotes(tmp_path):
    lines = [
        f"{HEADER},sceneClass,SSR",
        '"a, ""one"".wav",b.wav,c.wav,d.wav,e.wav,"cafe/restaurant",-2',
    ]
    text = "\ufeff" + "".join(f"{line}\r\n" for line in lines)
    row = read(tmp_path, text).rows.iloc[0]
    assert row["mix"] == 'val/mix/a, "one".wav'
    assert row["event"] == "val/event/e.wav"
    assert row["scene_class"] == "cafe/restaurant"
    assert row["ssr_db"] == -2


@pytest.mark.parametrize("missing", ["", "NaN", "<missing>", "<undefined>", "  ", '""'])
def test_every_missing_value_of_matlab_makes_a_row_outdoor(tmp_path, missing):
    cells = ",".join([missing] * 3)
    table = read(tmp_path, f"{HEADER},{REVERBS}\na,b,c,d,e,{cells}\n")
    assert table.problems == ()
    assert table.rows["s1_reverb"].tolist() == [""]


def test_polish_windows_encoding(tmp_path):
    text = f"{HEADER}\nźdźbło.wav,b,c,d,e\n"
    for encoding in ("utf-8", "cp1250"):
        table = read(tmp_path, text, encoding)
        assert table.rows["mix"].tolist() == ["val/mix/źdźbło.wav"]


def test_rows_are_numbered_as_in_a_spreadsheet(tmp_path):
    lines = [HEADER, "a,b,c,d,e", "", ",,,,", 'f,b,c,"d', 'd",e', "g,,c,d,e"]
    table = read(tmp_path, "\n".join(lines))
    assert table.rows.index.tolist() == [2, 5, 6]
    assert [row for row, *_ in reasons(table)] == [6]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is empty"),
        (f"{HEADER}\n", "has no rows"),
        (f"{HEADER}\n,,,,\n", "has no rows"),
        ("mixFile,sceneFile\na,b\n", "no columns speaker1File, speaker2File, eventFile"),
        (f"{HEADER},reverbForSpeaker1\na,b,c,d,e,f\n", "reverbForSpeaker2"),
        (f"{HEADER}\na,b,c,d,e\na,b,c,d,e,f,g\n", "not a CSV table.*line 3"),
        (f"{HEADER}\na,b,c,d,e,f\na,b,c,d,e,f\n", "not a CSV table"),
        (f'{HEADER}\n"a,b,c,d,e\n', "not a CSV table"),
        (f"{HEADER}, mixFile\na,b,c,d,e,f\n", "two columns mixFile"),
        (b"\x00\x81\x90\xff\n", "neither UTF-8 nor cp1250"),
        (HEADER.replace(",", ";") + "\na;b;c;d;e\n", "comma-separated"),
    ],
)
def test_what_is_no_table_is_refused_in_one_line(tmp_path, text, complaint):
    with pytest.raises(InputError, match=complaint) as caught:
        read(tmp_path, text)
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "table.csv") in str(caught.value)


@pytest.mark.parametrize("make", ["mkdir", None])
def test_a_table_that_cannot_be_opened(tmp_path, make):
    path = tmp_path / "table.csv"
    if make:
        path.mkdir()
    with pytest.raises(InputError, match=r"table\.csv: cannot be read"):
        read_table(path, "val", tmp_path)


def test_a_corpus_without_reverb_columns_is_outdoor_and_says_so(tmp_path):
    table = read(tmp_path, f"{HEADER}\na,b,c,d,e\n")
    assert table.rows["s1_reverb"].tolist() == [""]
    assert "no reverb columns" in table.notes[0]


def test_empty_cells_are_problems_of_their_row(tmp_path):
    text = f"{HEADER},{REVERBS}\na,b,c,d,e,f,,h\ni,,k,l,m,,,\nn,o,p,q,r,,t,\n"
    found = [(row, file) for row, file, _ in reasons(read(tmp_path, text))]
    assert found == [(3, "speaker1File"), (2, "reverbForSpeaker2"), (4, "reverbForSpeaker2")]


def test_rows_without_a_mixture_do_not_collide(tmp_path):
    table = read(tmp_path, f"{HEADER}\n,b,c,d,e\n,f,g,h,i\n")
    assert {file for _, file, _ in reasons(table)} == {"mixFile"}
    assert len(table.problems) == 2


def test_file_names_outside_the_corpus_are_problems_of_their_row(tmp_path):
    text = f"{HEADER}\na,../b,c,d,e\nf,b,c,C:\\d.wav,e\n"
    table = read(tmp_path, text)
    assert [(row, file) for row, file, _ in reasons(table)] == [
        (2, "speaker1File"),
        (3, "sceneFile"),
    ]
    assert table.bad_rows == [2, 3]


def test_mixtures_of_one_name_collide(tmp_path):
    text = f"{HEADER}\na.wav,b,c,d,e\nx.wav,b,c,d,e\nmix/a.flac,b,c,d,e\n"
    assert read(tmp_path, text).bad_rows == [4]


@pytest.mark.parametrize(
    ("path", "stem"), [("a/b.wav", "b"), ("b.x.wav", "b.x"), ("b", "b"), ("a.b/.wav", ".wav")]
)
def test_the_key_of_a_mixture_is_its_stem(path, stem):
    assert mixture_id(path) == stem


def resolve(cell, root="/corpus"):
    return corpus_path(cell, folder="mix", subset="val", root=str(root))


@given(st.text(alphabet=st.sampled_from("ab./\\:C \0"), min_size=1))
def test_whatever_the_cell_the_path_stays_inside(cell):
    try:
        path = resolve(cell)
    except OutsideError:
        return
    absolute = posixpath.normpath(posixpath.join("/corpus", path))
    assert absolute.startswith("/corpus/")
    assert "\0" not in path
    assert "\\" not in path


@pytest.mark.parametrize(
    "cell",
    [
        "..",
        "../a.wav",
        "mix/../../../a.wav",
        r"..\..\a.wav",
        "/etc/passwd",
        "/corpus2/a.wav",
        r"C:\corpus\a.wav",
        "C:a.wav",
        r"\\server\share\a.wav",
        ".",
        "/",
        "a\0b.wav",
    ],
)
def test_names_that_leave_the_corpus_are_refused(cell):
    with pytest.raises(OutsideError):
        resolve(cell)


@pytest.mark.parametrize("cell", ["a.wav", "./a.wav", "a..b.wav", "zażółć {1}.wav"])
def test_a_bare_name_is_in_the_folder_of_its_column(cell):
    assert resolve(cell) == f"val/mix/{cell.removeprefix('./')}"


def test_relative_paths_start_at_the_subset_or_at_the_corpus(tmp_path):
    (tmp_path / "val" / "other").mkdir(parents=True)
    (tmp_path / "val" / "other" / "a.wav").touch()
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "b.wav").touch()
    assert resolve("other/a.wav", tmp_path) == "val/other/a.wav"
    assert resolve(r"other\a.wav", tmp_path) == "val/other/a.wav"
    assert resolve("val/other/a.wav", tmp_path) == "val/other/a.wav"
    assert resolve("shared/b.wav", tmp_path) == "shared/b.wav"
    assert resolve("other/missing.wav", tmp_path) == "val/other/missing.wav"
    assert resolve("val/other/missing.wav", tmp_path) == "val/other/missing.wav"


def test_absolute_paths_inside_the_corpus_are_made_relative(tmp_path):
    link = tmp_path / "link"
    (tmp_path / "corpus").mkdir()
    os.symlink(tmp_path / "corpus", link)
    for root in (tmp_path / "corpus", link):
        assert resolve(f"{root}/val/mix/a.wav", root) == "val/mix/a.wav"
        assert resolve(f"{link.resolve()}/x/a.wav", root) == "x/a.wav"


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
    rows = with_speakers(rows, {"anna": "female", "jan": "male"})
    assert rows["speaker1"].tolist() == ["anna", "anna", ""]
    assert rows["gender1"].tolist() == ["female", "female", ""]
    assert rows["speaker2"].tolist() == ["", "", "jan"]


def test_without_recordings_nobody_is_known():
    rows = pd.DataFrame({"mix": ["a", "b"]})
    rows = with_speakers(rows, {"anna": "female"})
    assert rows["speaker1"].tolist() == ["", ""]
