"""Packing as a command, and a training from a pack."""

import os
from pathlib import Path

import pandas as pd
import pytest

from tests.integration import training
from tests.integration.forked import run_command
from tests.integration.training import assert_same, final_state
from tests.manifest.tiny_corpus import three_subsets

SCRIPT = Path(__file__).parents[2] / "polsess_prepare.py"


def run(tmp_path, *arguments, **variables):
    environment = {k: v for k, v in os.environ.items() if k != "POLSESS_DATA_ROOT"}
    return run_command([SCRIPT, *arguments], environment | variables, cwd=tmp_path)


def test_it_packs_checks_and_prepares_from_the_pack(tmp_path):
    three_subsets(tmp_path / "Tiny")
    done = run(tmp_path, "--data_folder=Tiny", "--pack=packed", "--check=full")
    assert done.returncode == 0, done.stderr
    assert "the samples of all files have the sum that they had" in done.stdout
    assert "packed: 63 files in 1 Arrow files" in done.stdout
    assert sorted(os.listdir(tmp_path / "packed")) == [
        *("data-00000.arrow", "dataset_info.json", "index.npy", "polsess_pack.json"),
        *("state.json", "test", "train", "val"),
    ]
    assert not (tmp_path / "results").exists()
    again = run(tmp_path, "--data_folder=Tiny", "--pack=packed")
    assert "packed: is up to date" in again.stdout
    done = run(tmp_path, "--data_folder=packed", "--save_folder=out", "--check=full")
    assert done.returncode == 0, done.stderr
    os.truncate(tmp_path / "packed" / "data-00000.arrow", 5000)
    done = run(tmp_path, "--data_folder=packed", "--save_folder=out", "--check=full")
    assert done.returncode == 2
    assert "data-00000.arrow: is cut off, 5000 bytes instead of" in training.error_line(done)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--data_folder=nowhere", "--pack=packed"], "nowhere: no such folder"),
        (["--data_folder=Tiny", "--pack=Tiny"], "Tiny: holds test, and is no pack"),
        (["--data_folder=Tiny", "--pack="], "pack is empty"),
        (["--data_folder=Tiny", "--pack=packed", "--subsets=tset"], "tset; choose from"),
    ],
)
def test_mistakes_are_a_line(tmp_path, arguments, complaint):
    three_subsets(tmp_path / "Tiny")
    done = run(tmp_path, *arguments)
    assert done.returncode == 2
    assert complaint in training.error_line(done)
    assert not (tmp_path / "packed").exists()


def test_without_pyarrow_it_is_a_line_and_packs_are_read(tmp_path):
    three_subsets(tmp_path / "Tiny")
    assert not run(tmp_path, "--data_folder=Tiny", "--pack=packed").returncode
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "pyarrow.py").write_text("raise ImportError('none here')")
    command = ["-m", "polsess_prepare"]
    environment = os.environ | {"PYTHONPATH": f"{tmp_path / 'without'}:{SCRIPT.parent}"}
    done = run_command([*command, "--data_folder=Tiny", "--pack=other"], environment, tmp_path)
    assert done.returncode == 2
    assert "needs the package pyarrow; run `pip install pyarrow`" in training.error_line(done)
    assert not (tmp_path / "other").exists()
    options = ["--data_folder=packed", "--save_folder=out", "--check=full", "--workers=1"]
    assert not run_command([*command, *options], environment, tmp_path).returncode


def test_a_training_from_a_pack_is_that_from_the_files(tmp_path):
    corpus = training.tiny_corpus(tmp_path, train=4, valid=3, test=1)
    assert not run(tmp_path, "--data_folder=Tiny", "--pack=packed").returncode
    ends = []
    for root in (corpus, tmp_path / "packed"):
        options = ["--number_of_epochs=1", "--segment_seconds=0.05", "--test_metrics=[sdr]"]
        arguments = training.arguments(root, tmp_path / f"of_{root.name}", *options)
        done = training.run(training.TRAIN, *arguments)
        assert done.returncode == 0, done.stderr
        folder = tmp_path / f"of_{root.name}"
        scores = pd.read_csv(folder / "test_results.csv", keep_default_na=False)
        ends.append(final_state(folder, epoch=1) | {"scores": scores.to_dict("list")})
    assert_same(*ends)
