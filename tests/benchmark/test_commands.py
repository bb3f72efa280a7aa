"""Benchmarks as commands: measured once, shown again."""

import pytest

from tests.integration.training import run

COMMANDS = {
    "data": ["--only", "loading", "memory", "--mixtures=40", "--manifest_rows=16"],
    "selective_scan": ["--shapes=2x4x8", "--repeats=1"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_it_measures_what_is_not_known(name, tmp_path):
    command = f"recipes/benchmark/{name}.py", *COMMANDS[name], f"--output={tmp_path}"
    first, second = run(*command), run(*command)
    assert first.returncode == second.returncode == 0, first.stdout + first.stderr
    assert "<sub>" in first.stdout and first.stdout == second.stdout
    assert "…" in first.stderr and "…" not in second.stderr
