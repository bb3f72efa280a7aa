"""Figures that are kept, and pages that show them."""

import json

import pytest

from custom_modules.errors import InputError
from recipes.benchmark.marked import Kept, replace_marked


def test_what_is_known_is_not_measured_again(tmp_path):
    path, calls = tmp_path / "deep" / "figures.json", []

    def measure(value):
        calls.append(value)
        return [value, None]

    assert Kept(path).measure("a", measure, 1.5) == [1.5, None]
    assert Kept(path).measure("a", measure, 2.5) == [1.5, None]
    assert Kept(path).measure("b", measure, 3.5) == [3.5, None]
    assert calls == [1.5, 3.5]
    assert json.loads(path.read_text()) == {"a": [1.5, None], "b": [3.5, None]}


def test_a_file_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "notes").write_text("my notes")
    with pytest.raises(InputError, match="notes: is no JSON"):
        Kept(tmp_path / "notes")
    assert (tmp_path / "notes").read_text() == "my notes"


def test_only_what_is_between_the_marks_changes(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- begin x -->\nold\n<!-- end x -->\nafter\n")
    replace_marked(page, "x", "| new |")
    replace_marked(page, "x", "| new |")
    expected = "before\n<!-- begin x -->\n\n| new |\n\n<!-- end x -->\nafter\n"
    assert page.read_text() == expected
