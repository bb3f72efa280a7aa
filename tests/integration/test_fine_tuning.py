"""train.py from the weights of another training, and losses by their names."""

import shutil
from pathlib import Path

import pytest
import torch

from tests.integration.forked import run_two
from tests.integration.training import (
    ROOT,
    TRAIN,
    arguments,
    error_line,
    final_state,
    run,
    tiny_corpus,
)

FEW = ["--batch_size=4", "--test_after_training=False", "--curriculum=null"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny_corpus(tmp_path_factory.mktemp("data"), train=4, valid=2)


def train(corpus, folder, *more, hparams="convtasnet"):
    return run(TRAIN, *arguments(corpus, folder, *FEW, *more, hparams=hparams))


@pytest.fixture(scope="module")
def trained(corpus, tmp_path_factory):
    """A results folder, and what was exported of it."""
    folder = tmp_path_factory.mktemp("trained")
    results, exported = folder / "results", folder / "exported"
    done = train(corpus, results, "--number_of_epochs=1", "--loss=multi")
    assert done.returncode == 0, done.stderr
    done = run("recipes/separation/export.py", results / "hyperparams.yaml", exported)
    assert done.returncode == 0, done.stderr
    return results, exported


def weights(folder, epoch):
    return final_state(folder, epoch)["separator.ckpt"]


def test_a_run_starts_from_a_results_folder_and_goes_on_from_its_own(corpus, trained, tmp_path):
    source = shutil.copytree(trained[0], tmp_path / "source")
    folder, frozen = tmp_path / "tuned", "--freeze=[encoder.*, decoder.*]"
    options = [f"--pretrained={source}", frozen, "--loss=sa_sdr", "--weight_decay=0.1"]
    options += ["--average_checkpoints=3", "--save_all_checkpoints=True"]
    done = train(corpus, folder, *options, "--number_of_epochs=2")
    assert done.returncode == 0, done.stderr
    log = (folder / "log.txt").read_text()
    assert f"--pretrained={source}: epoch 1" in log
    assert "2 parameters stay as they are" in log
    shutil.rmtree(source)
    done = train(corpus, folder, *options, "--number_of_epochs=3")
    assert done.returncode == 0, done.stderr
    assert f"not read; the run goes on from its own, {folder}/save" in done.stdout + done.stderr
    before, after = weights(trained[0], 1), weights(folder, 3)
    for name, value in before.items():
        assert torch.equal(value, after[name]) == name.startswith(("encoder", "decoder")), name
    done = run("recipes/separation/export.py", folder / "hyperparams.yaml", tmp_path / "exported")
    assert done.returncode == 0, done.stderr
    ours, theirs = (torch.load(x / "decoder.ckpt") for x in (tmp_path / "exported", trained[1]))
    assert torch.equal(ours["weight"], theirs["weight"])


def test_two_processes_start_from_an_exported_folder_of_another_task(corpus, trained, tmp_path):
    options = [f"--pretrained={trained[1]}", "--task=ES", "--lr=0", "--number_of_epochs=1"]
    command = arguments(corpus, tmp_path / "tuned", *FEW, *options)
    environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = run_two([TRAIN, *command, "--distributed_backend=gloo"], environment)
    assert done.returncode == 0, done.stderr
    log = (tmp_path / "tuned" / "log.txt").read_text()
    assert "was trained with {'task': 'SB', 'sample_rate': 8000}, here {'task': 'ES'" in log
    assert "[16, 8, 1] there, [8, 8, 1] here" in log
    before, after = weights(trained[0], 1), weights(tmp_path / "tuned", 1)
    assert before.keys() == after.keys()
    for name, value in before.items():
        if value.shape == after[name].shape:
            torch.testing.assert_close(value, after[name])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--pretrained={exported}"], "none of its"),
        (["--pretrained=nowhere"], "--pretrained=nowhere: no such folder"),
        (["--freeze=lstm.*"], "--freeze=lstm.*: matches no parameter of the separator"),
        (["--freeze=.*"], "leaves nothing to train"),
        (["--freeze=enc("], "takes a regular expression"),
        (["--silent_talker=0.1"], "--silent_talker=0.1: the loss learns nothing from silence"),
        (["--loss=sa_sd"], "--loss=sa_sd: choose one of si_sdr, clamped_si_sdr, sa_sdr"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    corpus, trained, tmp_path, options, message
):
    options = [option.format(exported=trained[1]) for option in options]
    done = train(corpus, tmp_path / "out", *options, hparams="spmamba")
    assert done.returncode == 2
    assert message in error_line(done)
    assert not Path(tmp_path / "out").exists()
