"""Trainings in processes of their own."""

import sys
import threading

import pytest

from custom_modules.processes import TrialProcess
from custom_modules.tuning.trainings import Trainings


def python(program):
    return [sys.executable, "-X", "utf8", "-c", f"import os, sys, time; {program}"]


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("print('Killed'); sys.exit(3)", "exit status 3: Killed"),
        ("sys.exit(4)", "exit status 4: "),
        ("print('error: zażółć'); print('bye'); sys.exit(2)", "status 2: error: zażółć"),
        ("raise ValueError('my bug')", "exit status 1: ValueError: my bug"),
    ],
)
def test_a_failure_is_explained_by_this_attempt_s_output(tmp_path, program, reason):
    earlier = "error: of an earlier attempt\n"
    (tmp_path / "output.txt").write_text(earlier)
    process = TrialProcess(python(program), tmp_path, "valid_si_sdr")
    assert process.failure().endswith(reason)
    printed = (tmp_path / "output.txt").read_text()
    assert printed.startswith(earlier)
    assert ("Traceback (most recent call last)" in printed) == ("my bug" in printed)


def test_gpus_are_given_in_turn(tmp_path):
    program = python("print(os.environ['CUDA_VISIBLE_DEVICES'])")
    trainings, both = Trainings(3, gpus=["4", "7"]), threading.Barrier(3)

    def work(number):
        with trainings.run(program, tmp_path / str(number), "x") as process:
            both.wait()  # nobody has given a GPU back yet
            process.failure()  # waits for it
        return (tmp_path / str(number) / "output.txt").read_text().strip()

    assert sorted(trainings.map(work, range(3))) == ["4", "4", "7"]


def test_an_error_in_one_thread_ends_all_trainings_and_is_raised(tmp_path):
    trainings, both, ended = Trainings(2), threading.Barrier(2), []

    def work(fails):
        folder = tmp_path / str(fails)
        with trainings.run(python("time.sleep(999)"), folder, "x") as process:
            both.wait()
            if fails:
                raise ConnectionError("the storage is gone")
            ended.append(process.failure())

    with pytest.raises(ConnectionError, match="the storage is gone"):
        trainings.map(work, [False, True])
    assert ended[0].startswith("exit status -")
    with trainings.run(python("time.sleep(999)"), tmp_path, "x") as late:
        assert late.failure().startswith("exit status -")
