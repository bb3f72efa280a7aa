"""The prepare step as a command."""

import os
import shutil
from pathlib import Path

import pytest

from tests.integration.forked import run_command
from tests.manifest.tiny_corpus import three_subsets

SCRIPT = Path(__file__).parents[2] / "polsess_prepare.py"


@pytest.fixture
def corpus(tmp_path):
    return three_subsets(tmp_path / "Tiny")


def run(tmp_path, *arguments, **variables):
    environment = {k: v for k, v in os.environ.items() if k != "POLSESS_DATA_ROOT"}
    return run_command([SCRIPT, *arguments], environment | variables, cwd=tmp_path)


def assert_refused(finished, complaint):
    assert finished.returncode == 2
    assert "Traceback" not in finished.stderr
    errors = [x for x in finished.stderr.splitlines() if x.startswith("error: ")]
    assert len(errors) == 1
    assert complaint in errors[0]


def test_it_prints_the_table_and_writes_the_manifests(corpus, tmp_path):
    first = run(tmp_path, "--data_folder", "Tiny", "--save_folder=out", "--check=full")
    assert first.returncode == 0, first.stderr
    assert "mixtures per variant" in first.stdout
    assert sorted(os.listdir(tmp_path / "out")) == [
        *("prepare_record.json", "prepare_report.txt"),
        *("test.json", "train.json", "val.json"),
    ]
    again = run(tmp_path, "--data_folder=Tiny", "--save_folder", "out", "--check", "full")
    assert again.returncode == 0
    assert "Skipping preparation" in again.stdout


def test_the_environment_names_the_corpus(corpus, tmp_path):
    assert run(tmp_path, POLSESS_DATA_ROOT="Tiny").returncode == 0
    assert (tmp_path / "results" / "manifests" / "train.json").exists()


def test_bad_rows_end_it_with_a_line_each(corpus, tmp_path):
    shutil.rmtree(corpus.root / "val" / "event")
    arguments = ["--data_folder=Tiny", "--save_folder=out"]
    finished = run(tmp_path, *arguments)
    assert_refused(finished, "3 of 9 rows are bad")
    assert len(finished.stderr.splitlines()) == 4
    assert not (tmp_path / "out").exists()
    assert_refused(run(tmp_path, *arguments, "--skip_bad_rows"), "every row is bad")
    arguments += ["--subsets", "train,test", "--skip_bad_rows=True"]
    assert run(tmp_path, *arguments).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "POLSESS_DATA_ROOT"),
        (["--data_folder", "nowhere"], "nowhere: no such folder"),
        (["--data_folder=Tiny", "--chekc=full"], "--chekc=full"),
        (["--data_folder=Tiny", "--check=most"], "most"),
        (["--data_folder=Tiny", "--workers=two"], "two"),
        (["--data_folder=Tiny", "--skip_bad_rows=maybe"], "maybe"),
        (["--data_folder=Tiny", "--subsets=train,tset"], "tset"),
    ],
)
def test_bad_arguments_end_it_with_one_line(corpus, tmp_path, arguments, complaint):
    assert_refused(run(tmp_path, *arguments), complaint)
    assert os.listdir(tmp_path) == ["Tiny"]


def test_help_names_every_option(tmp_path):
    finished = run(tmp_path, "--help")
    assert finished.returncode == 0
    for option in ("data_folder", "save_folder", "check", "skip_bad_rows", "workers"):
        assert f"--{option}" in finished.stdout
