"""Pages say what their sources say, and a digit that is changed is found."""

import re
import shutil

import pytest
import yaml

from custom_modules.errors import InputError
from recipes.benchmark import check_pages
from tests.integration.training import ROOT, run

STATED = yaml.safe_load((ROOT / check_pages.STATED).read_text("utf-8"))
PAGES = {*STATED, "docs/training.md"}
FIGURES = ("docs", "recipes/benchmark", "recipes/separation", "recipes/conversation")


@pytest.fixture
def copy(tmp_path):
    """The pages and their sources, in a folder of their own."""
    for page in PAGES:
        (tmp_path / page).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / page, tmp_path / page)
    for folder in FIGURES:
        shutil.copytree(ROOT / folder / "figures", tmp_path / folder / "figures")
    shutil.copyfile(ROOT / check_pages.STATED, tmp_path / check_pages.STATED)
    return tmp_path


def check(root, capsys):
    status = check_pages.main([f"--root={root}"])
    return status, capsys.readouterr().out


def test_the_pages_are_as_committed():
    done = run("recipes/benchmark/check_pages.py")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("page", "name"),
    [
        ("README.md", "gpu"),
        ("README.md", "demo"),
        ("recipes/separation/README.md", "small"),
        ("recipes/conversation/evaluation.md", "conversations"),
        ("recipes/benchmark/README.md", "onnx"),
        ("recipes/benchmark/README.md", "laptop"),
    ],
)
def test_a_changed_digit_is_named(copy, capsys, page, name):
    assert check(copy, capsys)[0] == 0
    text = (copy / page).read_text()
    start = text.index(f"<!-- begin {name} -->")
    digit = re.compile(r"(?<=\d\.)\d(?=\d* )").search(text, text.index("\n| ", start))
    changed = str((int(digit[0]) + 1) % 10)
    (copy / page).write_text(text[: digit.start()] + changed + text[digit.end() :])
    status, said = check(copy, capsys)
    line = text[: digit.start()].count("\n") + 1
    (fault,) = [x for x in said.splitlines() if "in its source" in x]
    assert status == 1 and fault.startswith(f"{page}:{line}: ")
    figure = re.search(r"[\d.]+$", text[: digit.start()])[0]
    assert f": {figure}{changed}" in fault and f"is {figure}{digit[0]}" in fault


def test_a_digit_that_changes_in_running_text_is_named(copy, capsys):
    """In each page the first digit of the last measurement."""
    for page, measurements in STATED.items():
        words = measurements[-1]["says"][-1]
        place = re.search(
            r"\s+".join(map(re.escape, words.split())), text := (copy / page).read_text()
        )
        digit = place.start() + re.search(r"\d", place[0]).start()
        changed = str((int(text[digit]) + 1) % 10)
        (copy / page).write_text(text[:digit] + changed + text[digit + 1 :])
        status, said = check(copy, capsys)
        assert status == 1 and f"{page}: does not say {words!r}" in said
        (copy / page).write_text(text)


def test_each_measurement_says_what_made_it_where():
    for measurement in (x for measurements in STATED.values() for x in measurements):
        assert measurement.keys() == {"made_by", "where", "says"}
        assert all(re.search(r"\d", words) for words in measurement["says"])


def test_a_row_too_few_is_named(copy, capsys):
    page = copy / "recipes/separation/README.md"
    text = page.read_text()
    page.write_text(re.sub(r"\| dprnn .*\n", "", text, count=1))
    status, said = check(copy, capsys)
    assert status == 1 and "recipes/separation/figures/small" in said


def test_a_block_without_its_source_is_listed(copy, capsys):
    page = copy / "README.md"
    page.write_text(page.read_text() + "\n<!-- begin x -->\n\n| a |\n\n<!-- end x -->\n")
    status, said = check(copy, capsys)
    assert status == 0 and ": x: its source is not committed" in said
    page.write_text(page.read_text().replace("<!-- end x -->", ""))
    with pytest.raises(InputError, match="without its other"):
        check(copy, capsys)
