"""A training in a process of its own."""

import sys

import pytest

from custom_modules.processes import TrialProcess


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("print('Killed'); sys.exit(3)", "exit status 3: Killed"),
        ("sys.exit(4)", "exit status 4: "),
        (
            "print('error: zażółć'); print('bye'); sys.exit(2)",
            "status 2: error: zażółć",
        ),
    ],
)
def test_a_failure_is_explained_by_this_attempt_s_output(tmp_path, program, reason):
    earlier = "error: of an earlier attempt\n"
    (tmp_path / "output.txt").write_text(earlier)
    command = [sys.executable, "-X", "utf8", "-c", f"import sys; {program}"]
    process = TrialProcess(command, tmp_path, "valid_si_sdr")
    assert process.failure().endswith(reason)
    assert (tmp_path / "output.txt").read_text().startswith(earlier)
