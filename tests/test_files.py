"""What is no file is told from one before it is opened."""

import os
import socket
from pathlib import Path

import pytest

from custom_modules.errors import InputError
from custom_modules.files import atomic_path, check_output, regular_file


@pytest.fixture(params=["pipe", "folder", "socket", "device"])
def no_file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / request.param
    if request.param == "pipe":
        os.mkfifo(path)
    elif request.param == "folder":
        path.mkdir()
    elif request.param == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    else:
        return Path("/dev/null")
    return path


def test_what_is_no_file_is_named(no_file: Path) -> None:
    kind = {"null": "device"}.get(no_file.name, no_file.name)
    with pytest.raises(InputError, match=f"{no_file}: is a {kind}; name a file"):
        regular_file(no_file)


def test_what_is_no_file_is_never_replaced_by_one(no_file: Path) -> None:
    before = os.stat(no_file)
    with (
        pytest.raises(InputError, match=f"{no_file}: cannot be written"),
        atomic_path(no_file) as path,
    ):
        path.write_text("new")
    assert os.stat(no_file).st_mode == before.st_mode
    assert os.stat(no_file).st_ino == before.st_ino


@pytest.mark.parametrize("name", ["missing", "file/below", "null\0byte", "n" * 300])
def test_what_cannot_be_read_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be read"):
        regular_file(tmp_path / name)


def test_a_file_of_at_most_so_many_bytes(tmp_path: Path) -> None:
    path = tmp_path / "ten"
    path.write_text("x" * 10)
    assert regular_file(path, most_bytes=10) == path
    with pytest.raises(InputError, match="has 10 bytes; at most 9 are read"):
        regular_file(path, most_bytes=9)


def test_an_output_may_be_new_or_a_file(tmp_path: Path) -> None:
    check_output(tmp_path / "new" / "file")
    (tmp_path / "file").touch()
    check_output(tmp_path / "file")
