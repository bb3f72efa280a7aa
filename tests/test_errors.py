"""How bad input ends, and files that are written whole."""

import pickle
from pathlib import Path

import pytest
import torch

from custom_modules.errors import InputError, OptionParser, check_number, exit_cleanly
from custom_modules.files import atomic_path


def test_details_are_told_first_also_by_another_process(capsys):
    error = InputError("2 bad rows; use --skip_bad_rows", ["row 3: a", "row 9: b"])
    again = pickle.loads(pickle.dumps(error))
    with pytest.raises(SystemExit) as left, exit_cleanly():
        raise again
    assert left.value.code == 2
    expected = "row 3: a\nrow 9: b\nerror: 2 bad rows; use --skip_bad_rows\n"
    assert capsys.readouterr().err == expected


def test_a_gpu_without_room_for_a_model_is_one_line(capsys):
    with pytest.raises(SystemExit) as left, exit_cleanly():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB. GPU 0")
    assert left.value.code == 2
    expected = "error: CUDA out of memory; use a smaller model, or --device=cpu\n"
    assert capsys.readouterr().err == expected


def test_a_bug_is_not_taken_for_a_gpu_without_room():
    with pytest.raises(RuntimeError, match="out of memory"), exit_cleanly():
        raise RuntimeError("out of memory")


def test_an_option_that_does_not_exist_is_one_line():
    with pytest.raises(InputError, match="unrecognized arguments: --what; see --help"):
        OptionParser(add_help=False).parse_args(["--what"])


@pytest.mark.parametrize("value", [1.5, 0, "2", True, None])
def test_numbers_are_refused_by_their_option(value):
    with pytest.raises(InputError, match=f"--size={value}: must be a whole number fro"):
        check_number("--size", value, least=1, whole=True)
    check_number("--size", 2, least=1, whole=True)


def test_a_file_is_there_when_it_is_whole(tmp_path):
    target = tmp_path / "new" / "a.txt"
    with pytest.raises(ZeroDivisionError), atomic_path(target) as path:
        path.write_text(str(1 / 0))
    with atomic_path(target) as path:
        path.write_text("whole")
        assert not target.exists()
    assert target.read_text() == "whole"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("name", ["n" * 300, f"{'n' * 5000}/file"])
def test_a_name_that_no_disk_can_hold_is_no_bug(name, capsys):
    with pytest.raises(SystemExit) as caught, exit_cleanly():
        Path(name).is_file()
    assert caught.value.code == 2
    assert capsys.readouterr().err == f"error: {name}: File name too long\n"
