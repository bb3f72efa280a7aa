"""What is no file is told from one; locks of folders, between real processes."""

import fcntl
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from custom_modules.errors import InputError
from custom_modules.files import atomic_path, check_output, lock, regular_file


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


HOLD = """
import os, sys
from custom_modules.files import lock
with lock(sys.argv[1], wait="wait" in sys.argv, beside="beside" in sys.argv):
    if "fork" in sys.argv and os.fork() == 0:
        print("held", flush=True)
        sys.stdin.read()  # a worker that outlives its parent
        os._exit(0)
    if "fork" not in sys.argv:
        print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(folder: Path, *options: str) -> Iterator[subprocess.Popen]:
    """Another process that holds the folder until its input ends."""
    command = [sys.executable, "-c", HOLD, str(folder), *options]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
    assert process.stdin is not None and process.stdout is not None
    try:
        if "wait" not in options:
            assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.stdin.close()
        process.wait()


@pytest.mark.parametrize("options", [(), ("beside",)])
def test_a_second_process_is_refused_and_nothing_is_left_at_the_end(tmp_path, options):
    folder = tmp_path / "a" / "run"
    with holder(folder, *options):
        refusal = pytest.raises(InputError, match=f"{folder}: another command")
        with refusal, lock(folder, beside=bool(options)):
            pass
        assert folder.exists() == (not options)
        with lock(tmp_path / "a" / "other"):
            pass
    assert not any(tmp_path.iterdir())


def test_a_folder_that_is_used_stays_without_its_lock(tmp_path):
    with lock(tmp_path / "run"):
        (tmp_path / "run" / "result").touch()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["result"]


def test_a_killed_holder_leaves_no_obstacle_even_with_a_worker_of_its_own(tmp_path):
    with holder(tmp_path, "fork") as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        with lock(tmp_path):  # the worker is still there: it has the holder's input
            pass


def test_who_waits_gets_the_folder_in_the_end(tmp_path):
    with ExitStack() as stack:
        with lock(tmp_path / "run"):
            process = stack.enter_context(holder(tmp_path / "run", "wait"))
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"


def test_only_the_first_process_of_torchrun_takes_it(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with holder(tmp_path), lock(tmp_path):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="cannot be written"), lock(tmp_path / "run"):
        pass


def test_a_file_in_the_folders_place_is_one_line(tmp_path):
    (tmp_path / "run").touch()
    with pytest.raises(InputError, match="cannot be written"), lock(tmp_path / "run"):
        pass


def test_a_file_system_without_locks_is_a_warning(tmp_path, monkeypatch, caplog):
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with lock(tmp_path):
        assert "cannot be locked (Operation not supported)" in caplog.text


def test_who_holds_a_folder_may_lock_it_again(tmp_path):
    with lock(tmp_path), lock(tmp_path, wait=True):
        assert (tmp_path / ".lock").exists()
    assert not (tmp_path / ".lock").exists()
