"""Tables and records that are read again, perhaps after something happened to them."""

import os

import pandas as pd
import pytest

from custom_modules.errors import InputError
from custom_modules.tabular import read_record, read_table, write_record, write_table

TABLE = pd.DataFrame({"id": ["NA", "007", "ż,ó"], "n": [1, 2, 3], "score": [0.5, None, -1e-9]})


@pytest.fixture
def path(tmp_path):
    write_table(TABLE, tmp_path / "a.csv")
    return tmp_path / "a.csv"


def read(path):
    return read_table(path, ("id", "n", "score"), ("id",), "make it again")


@pytest.mark.parametrize("change", [("\n", "\r\n"), ("id,", "\ufeffid,")])
def test_a_table_comes_back_as_it_was(path, change):
    pd.testing.assert_frame_equal(read(path), TABLE)
    text = path.read_text(encoding="utf-8").replace(*change)
    path.write_bytes(text.encode())
    pd.testing.assert_frame_equal(read(path), TABLE)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("0.5", '"0,5"', "column score"),
        ("0.5", "half", "column score"),
        ("0.5", "0,5", "row 2 has 4 of 3 cells"),
        (",0.5", "", "row 2 has 2 of 3 cells"),
        ("score", "scores", "has no column score"),
        ("n,", "n,n,", "has two columns"),
        ("007", '"007', "cannot be read"),
    ],
)
def test_a_table_that_was_changed_is_named(path, old, new, message):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(InputError, match=rf"a\.csv: .*{message}.*; make it again") as caught:
        read(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("reader", [read, lambda path: read_record(path, "make it again")])
@pytest.mark.parametrize(
    "make",
    [
        lambda path: None,
        os.mkdir,
        os.mkfifo,
        lambda path: path.touch(),
        lambda path: path.write_bytes(b"id,n,score\n"),
        lambda path: path.write_bytes(b"\xff\xfe\x00"),
        lambda path: path.write_text("[" * 100_000),
        lambda path: path.write_text("[1, 2]"),
        lambda path: path.write_text('{"seed": []'),
    ],
)
def test_what_is_no_table_and_no_record_is_named(tmp_path, reader, make):
    make(tmp_path / "a")
    with pytest.raises(InputError, match=f"^{tmp_path}/a: .*; make it again$") as caught:
        reader(tmp_path / "a")
    assert "\n" not in str(caught.value)


def test_a_record_comes_back_as_it_was(tmp_path):
    record = {"name": "zażółć", "seeds": [1, 2], "none": None}
    write_record(record, tmp_path / "a.json")
    assert read_record(tmp_path / "a.json") == record
