"""Tables as MATLAB writes them, those that nobody should write, and speakers."""

import csv
import io
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
        (HEADER.replace(",", "|") + "\na|b|c|d|e\n", "names no known column"),
        (f"{HEADER},SSR\na,b,c,d,e,-2,5\n", "row 2, line 2, has 7 cells"),
        (f"{HEADER},sceneClass,SSR\na,b,c,d,e,park,1\nf,g,h,i,j,pa", "row 3 is cut off"),
        (f'{HEADER}\n"a"x,b,c,d,e\n', "not a CSV table"),
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
    with pytest.raises(InputError, match=r"table\.csv: (is a folder|cannot be read)"):
        read_table(path, "val", tmp_path)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "table.csv")
    with pytest.raises(InputError, match=r"table\.csv: is a pipe"):
        read_table(tmp_path / "table.csv", "val", tmp_path)


NUMBERS = ("SSR", "speech1Start", "speech1End")


def with_numbers(*rows):
    """A table whose mixtures a, b, … have the numbers; each is a text."""
    names = [",".join(["speech1OryginalPath", HEADER, *NUMBERS])]
    cells = [",".join([f"r/{k}.wav", f"{k},s,t,u,v", *row]) for k, row in enumerate(rows)]
    return "\n".join([*names, *cells]) + "\n"


@pytest.mark.parametrize(
    ("separator", "encoding", "line"),
    [
        (";", "utf-8-sig", "\r\n"),
        ("\t", "utf-8", "\n"),
        (";", "cp1250", "\r\n"),
        (",", "utf-8", "\n"),
    ],
)
@pytest.mark.parametrize("comma", [False, True])
def test_a_table_through_a_spreadsheet_is_the_same(tmp_path, separator, encoding, line, comma):
    text = with_numbers(("-2", "1.385", "5.385"), ("0.5", "0", "4"), ("", "", ""))
    want = read(tmp_path, text)
    rows = [row.split(",") for row in text.splitlines()]
    if comma:
        rows[1:] = [[*row[:6], *(x.replace(".", ",") for x in row[6:])] for row in rows[1:]]
    written = io.StringIO(newline="")
    csv.writer(written, delimiter=separator, lineterminator=line).writerows(rows)
    table = read(tmp_path, written.getvalue(), encoding)
    assert table.problems == ()
    pd.testing.assert_frame_equal(table.rows, want.rows)


@pytest.mark.parametrize(
    "cell",
    ["NA", "n/a", "#N/A", "#N/D!", "#ADR!", "###", "inf", "-inf", "1_000", "1 234,5", "1.234,5",
     "1,234,5", "1e999", "two", "?", "-", "2 s", "null", "1.maj", "0x10", "٣"],
)  # fmt: skip
@pytest.mark.parametrize("place", [0, 1])
def test_a_cell_that_is_no_number_is_a_problem_of_its_row(tmp_path, cell, place):
    row = ["-2", "0.5", "4.5"]
    row[place] = f'"{cell}"'
    found = reasons(read(tmp_path, with_numbers(("-2", "0", "4"), row)))
    assert {(number, column) for number, column, _ in found} == {(3, NUMBERS[place])}
    assert all(repr(cell) in reason for *_, reason in found)


@pytest.mark.parametrize(("start", "end"), [("4.5", "0.5"), ("2", "2"), ("-1", "3")])
def test_a_stretch_that_ends_before_it_starts(tmp_path, start, end):
    found = reasons(read(tmp_path, with_numbers(("1", "0", "4"), ("", start, end))))
    assert [(number, column) for number, column, _ in found] == [(3, "speech1Start")]


def test_a_comma_that_may_separate_thousands_is_a_question(tmp_path):
    alone = read(tmp_path, with_numbers(("1", "0", '"32,000"')))
    assert [file for _, file, _ in reasons(alone)] == ["speech1End"]
    # Beside a certain decimal comma, it is one.
    table = read(tmp_path, with_numbers(("1", '"1,25"', '"32,000"')))
    assert table.problems == ()
    assert table.rows["end1"].tolist() == [32.0]


@pytest.mark.parametrize("cell", ["NA", "#N/A", "#REF!", "none", "?"])
@pytest.mark.parametrize("column", ["speech1OryginalPath", "sceneClass", "reverbForEvent"])
def test_what_stands_for_an_unknown_value_is_a_problem(tmp_path, cell, column):
    head = f"speech1OryginalPath,{HEADER},sceneClass,{REVERBS}"
    cells = dict(
        zip(
            head.split(","),
            ["r/1.wav", "a", "b", "c", "d", "e", "park", "f", "g", "h"],
            strict=True,
        )
    )
    table = read(tmp_path, f"{head}\n{','.join((cells | {column: cell}).values())}\n")
    assert [(number, file) for number, file, _ in reasons(table)] == [(2, column)]


def test_columns_are_found_whatever_their_case(tmp_path):
    table = read(tmp_path, f"{HEADER.upper()},ssr\na,b,c,d,e,-2\n")
    assert table.rows["ssr_db"].tolist() == [-2]
    with pytest.raises(InputError, match="two columns SSR"):
        read(tmp_path, f"{HEADER},SSR,ssr\na,b,c,d,e,-2,7\n")


def test_empty_cells_at_the_end_may_be_left_out_or_added(tmp_path):
    table = read(tmp_path, f"{HEADER},SSR,,\na,b,c,d,e\nf,g,h,i,j,2,,,,\n")
    assert table.rows["ssr_db"].fillna(0).tolist() == [0, 2]


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


@pytest.mark.parametrize(
    "text",
    ["", "name\nanna\n", "speaker\n", "speaker,gender\n,male\n", "speaker,gender\na,#N/A\n",
     "speaker,gender\na,male\na,female\n"],
)  # fmt: skip
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
