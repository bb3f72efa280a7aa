"""Figures that are kept, and pages that show them."""

import pytest

from custom_modules.errors import InputError
from recipes.benchmark.campaign.page import replace_marked
from recipes.benchmark.kept_figures import (
    check_setting,
    keep_table,
    measure_missing,
    read_figures,
    read_lines,
    reasons,
    record,
    setting_line,
    tables,
    units_of,
    update_page,
)


def test_what_is_known_is_not_measured_again(tmp_path):
    calls = []

    def measure(value):
        calls.append(value)
        if value < 0:
            raise InputError("below zero")
        return {"s": value}

    for unit, value in (("a", 1.5), ("a", 2.5), ("b", -1.0), ("b", 3.5)):
        measure_missing(tmp_path, "part", unit, measure, value)
    assert calls == [1.5, -1.0, 3.5]
    units = units_of(read_figures(tmp_path), "part")
    assert {unit: line.get("figures") for unit, line in units.items()} == {
        "a": {"s": 1.5},
        "b": {"s": 3.5},
    }


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (InputError("no graph"), "no graph"),
        (MemoryError(), "not enough memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "not enough memory"),
    ],
)
def test_what_cannot_be_measured_has_its_reason(tmp_path, error, reason):
    def fail():
        raise error

    measure_missing(tmp_path, "part", "a way", fail)
    assert reasons(units_of(read_figures(tmp_path), "part")) == [f"a way: {reason}"]


def test_a_fault_keeps_its_traceback(tmp_path):
    with pytest.raises(ZeroDivisionError):
        measure_missing(tmp_path, "part", "a", lambda: 1 / 0)
    assert read_figures(tmp_path) == {}


def test_figures_of_two_settings_are_never_mixed(tmp_path):
    check_setting(tmp_path, "a laptop, 2 threads")
    check_setting(tmp_path, "a laptop, 2 threads")
    with pytest.raises(InputError, match="holds figures of a laptop, 2 threads; name another"):
        check_setting(tmp_path, "a laptop, 1 thread")
    assert len(list(read_lines(tmp_path))) == 1


def test_parts_may_each_have_a_setting(tmp_path):
    check_setting(tmp_path, "a laptop", part="small")
    check_setting(tmp_path, "another", part="large")
    with pytest.raises(InputError, match=r"figures of a laptop \(small\); name another --output"):
        check_setting(tmp_path, "another", part="small")
    lines = [setting_line(read_figures(tmp_path), part) for part in ("small", "large")]
    assert ["a laptop;" in lines[0], "another;" in lines[1]] == [True, True]


def test_nor_are_small_ones_with_those_of_a_page(tmp_path):
    check_setting(tmp_path, "a GPU", tiny=True)
    with pytest.raises(InputError, match="of a GPU with --tiny; name another --output"):
        check_setting(tmp_path, "a GPU")


def test_figures_of_two_commits_name_both(tmp_path):
    check_setting(tmp_path, "a laptop")
    for unit, commit in (("a", "111"), ("b", "222"), ("c", "222")):
        record(tmp_path, "part", unit, figures={"s": 1.0}, commit=commit, date="2026-01-01")
    line = setting_line(read_figures(tmp_path))
    assert line == "<sub>a laptop; commit 111, 2026-01-01; commit 222, 2026-01-01</sub>"


def test_whole_tables_are_measured_once_each_with_its_setting(tmp_path):
    def rows(speed):
        yield ["what", "speed"]
        yield ["ours", speed]

    for speed in ("2.00", "3.00"):
        for part, on in (("a", "a laptop"), ("b", "a laptop"), ("c", "another")):
            keep_table(tmp_path, part, on, rows, speed)
    text = tables(tmp_path)
    assert text.count("| ours |  2.00 |") == 3 and "3.00" not in text
    kinds = [line[:2] for line in text.splitlines() if line[:1] in ("*", "<")]
    assert kinds == ["**", "**", "<s", "**", "<s"]  # what is alike is said once


def test_a_study_replaces_its_tables_and_its_page_shows_them(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- begin x -->\n<!-- end x -->\nafter\n")
    for speed in ("2.00", "3.00"):
        update_page(page, "x", "a laptop", {"a": [["what", "speed"], ["ours", speed]]})
    text = page.read_text()
    assert "| ours |  3.00 |" in text and "2.00" not in text and "a laptop; commit" in text
    assert tables(tmp_path / "figures" / "x") in text


def test_only_what_is_between_the_marks_changes(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- begin x -->\nold\n<!-- end x -->\nafter\n")
    replace_marked(page, "x", "| new |")
    replace_marked(page, "x", "| new |")
    expected = "before\n<!-- begin x -->\n\n| new |\n\n<!-- end x -->\nafter\n"
    assert page.read_text() == expected
