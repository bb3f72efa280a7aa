"""File names in a CSV stay inside the corpus folder."""

import os
import posixpath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from custom_modules.manifest.csv_tables import OutsideError, corpus_path


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
