"""What a file of a few bytes may stand for, and what is no file, ends in a line."""

import os

import pytest

from custom_modules.errors import InputError
from custom_modules.yaml_trees import parse_yaml, read_yaml

ALIASES = ["a: &a [x, x, x, x, x, x, x, x, x]"]
ALIASES += [
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
]


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(ALIASES),
        "a: " + "[" * 5000,
        "a: " + "[" * 5000 + "]" * 5000,
        "a: " + "{a: " * 3000 + "1" + "}" * 3000,
        "a: " + "9" * 5000,
        "a: !!int x",
        "a: !!float x",
        "a: !!timestamp x",
        "a: 2024-13-45",
        "? [a, b]\n: c",
        "1: 2",
        "a: 1\na: 2",
        "\0",
        "# " + "x" * 1_000_001,
    ],
    ids=lambda text: text[:12],
)
def test_a_file_that_cannot_be_read_in_bounds_is_refused_in_one_line(tmp_path, text):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=r"bad\.yaml") as caught:
        read_yaml(path)
    assert "\n" not in str(caught.value)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(InputError, match=r"pipe\.yaml: is a pipe"):
        read_yaml(tmp_path / "pipe.yaml")


def test_aliases_within_bounds_are_read():
    assert parse_yaml("a: &a [1, 2]\nb: [*a, *a]") == {"a": [1, 2], "b": [[1, 2], [1, 2]]}
