"""What the pages show is what is there, and runs."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from torch.distributed.run import parse_args

from custom_modules.hparams import check_overrides, split_arguments
from custom_modules.limits import check_values

ROOT = Path(__file__).parents[1]


def executable(path, text):
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_the_slurm_script_starts_torchrun_on_every_machine(tmp_path):
    executable(tmp_path / "scontrol", 'echo "node7"; echo "node8"')
    executable(tmp_path / "srun", '[ "$1" = --kill-on-bad-exit=1 ] && shift && "$@"')
    python = executable(tmp_path / "python", 'printf "%s\\n" "$@"')
    job = {"SLURM_JOB_NODELIST": "node[7-8]", "SLURM_JOB_ID": "99"}
    job |= {"SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "4", "PYTHON": python}
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "docs/train.slurm", "hparams/dprnn.yaml", "--task=ES"],
        cwd=ROOT,
        env=os.environ | job | {"PATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    module, name, *arguments = done.stdout.splitlines()
    assert (module, name) == ("-m", "torch.distributed.run")
    options = parse_args(arguments)  # torchrun's own
    assert (options.nnodes, options.nproc_per_node) == ("2", "4")
    assert (options.rdzv_endpoint, options.rdzv_id) == ("node7:10099", "99")
    assert (ROOT / options.training_script).is_file()
    assert options.training_script_args == ["hparams/dprnn.yaml", "--task=ES"]


def test_the_training_page_shows_the_slurm_script():
    page = (ROOT / "docs/training.md").read_text()
    assert (ROOT / "docs/train.slurm").read_text().rstrip() in page


@pytest.mark.parametrize("page", ["training", "fine_tuning"])
def test_pages_show_files_that_are_there(page):
    page = (ROOT / f"docs/{page}.md").read_text()
    named = set(re.findall(r"(?:hparams|recipes|docs)/[\w/]+\.(?:yaml|py|slurm)", page))
    assert named
    assert [path for path in sorted(named) if not (ROOT / path).is_file()] == []


def test_the_commands_of_the_fine_tuning_page_have_options_that_there_are():
    block = (ROOT / "docs/fine_tuning.md").read_text().split("```")[1]
    commands = [shlex.split(line) for line in block.replace("\\\n", " ").strip().splitlines()]
    known = [command for command in commands if command[2].startswith("hparams/")]
    assert len(known) == 2  # generate.py and train.py
    for _, script, *arguments in known:
        path, _, overrides = split_arguments([f"{ROOT}/{arguments[0]}", *arguments[1:]])
        assert overrides == check_overrides(path, overrides), script
        check_values(overrides)


def test_the_page_of_words_names_all_arms_kinds_and_columns():
    from custom_modules.evaluation.words import _COLUMNS, ARMS
    from custom_modules.recognition.recognisers import KINDS

    page = (ROOT / "docs/words.md").read_text()
    assert [arm for arm in ARMS if f"| `{arm}` |" not in page] == []
    assert [kind for kind in KINDS if f"| `{kind}:FOLDER" not in page] == []
    assert ", ".join(_COLUMNS) in page
