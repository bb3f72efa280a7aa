"""The commands on a GPU: steps, resumes, tests, separates, and runs out of memory."""

import sys

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
import torch

from custom_modules.brain import Separation
from custom_modules.errors import InputError
from tests.integration.training import (
    ROOT,
    TRAIN,
    TWO_PROCESSES,
    arguments,
    load_script,
    run,
    tiny_corpus,
)

PLAIN = ["--curriculum=null", "--test_after_training=False"]
OLD = ROOT / "tests/data/checkpoints/dprnn_SB_best.pt"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny_corpus(tmp_path_factory.mktemp("data"), train=6, valid=2, test=2)


@pytest.fixture
def train(corpus, device, monkeypatch):
    """train.py in this process, without its pictures; returns the last weights."""
    script = load_script("train")
    monkeypatch.setattr(script, "plot_training", lambda *args: None)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)

    def train(folder, *more):
        options = [f"--device={device}", "--batch_size=2", *PLAIN]
        script.main(arguments(corpus, folder, *options, *more))
        return last_weights(folder)

    return train


def last_weights(folder):
    """Of the newest checkpoint."""
    newest = max(folder.rglob("separator.ckpt"), key=lambda path: path.stat().st_mtime)
    return torch.load(newest, weights_only=True, map_location="cpu")


def at_call(number, change):
    """Separation.compute_objectives, changed the n-th time that it trains."""
    real, calls = Separation.compute_objectives, iter(range(1, 10_000))

    def compute_objectives(self, predictions, batch, stage):
        loss = real(self, predictions, batch, stage)
        is_training = stage.name == "TRAIN"
        return change(self, loss) if is_training and next(calls) == number else loss

    return compute_objectives


def test_a_resumed_training_has_the_same_bits(train, tmp_path, monkeypatch):
    torch.use_deterministic_algorithms(True, warn_only=True)
    options = ["--precision=bf16", "--number_of_epochs=2", "--ckpt_interval_steps=1"]
    try:
        whole = train(tmp_path / "whole", *options)

        def interrupt(brain, loss):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Separation, "compute_objectives", at_call(5, interrupt))
            train(tmp_path / "killed", *options)
        resumed = train(tmp_path / "killed", *options)
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())


def test_the_scaler_leaves_out_a_step(train, device, tmp_path, monkeypatch):
    """A CPU has no scaler, and drops the step by our own hand."""
    precision = "fp16" if device == "cuda" else "bf16"

    def too_large(brain, loss):
        return loss * 1e37  # finite; what the backward pass makes of it is not

    steps = at_call(2, too_large)
    monkeypatch.setattr(Separation, "compute_objectives", steps)
    weights = train(tmp_path, f"--precision={precision}", "--number_of_epochs=1")
    history = pd.read_csv(tmp_path / "history.csv").iloc[0]
    assert history.skipped >= 1
    assert np.isfinite(history.train_si_sdr)
    assert all(torch.isfinite(value).all() for value in weights.values())


def test_out_of_memory_says_what_to_lower(train, device, tmp_path, monkeypatch):
    def exhaust(brain, loss):
        return loss + torch.empty(1 << 60, dtype=torch.uint8, device=brain.device)[0]

    monkeypatch.setattr(Separation, "compute_objectives", at_call(2, exhaust))
    with pytest.raises(InputError, match=r"out of memory .*--batch_size=1 ") as caught:
        train(tmp_path, "--number_of_epochs=1")
    assert "\n" not in str(caught.value)


@pytest.mark.gpu
@pytest.mark.parametrize("device", ["cuda"])
def test_a_small_card_says_what_to_lower(train, tmp_path):
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    in_use = torch.cuda.memory_reserved()
    # Room for 5 million weights, their gradients and Adam's state, and little more.
    torch.cuda.set_per_process_memory_fraction((in_use + (160 << 20)) / total)
    wide = ["--N=512", "--B=128", "--H=512", "--X=8", "--R=3"]
    try:
        with pytest.raises(InputError, match="out of memory with batch_size 2"):
            train(tmp_path, "--number_of_epochs=1", *wide)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.gpu  # tests/integration has two processes on a CPU
@pytest.mark.parametrize("device", ["cuda"])
def test_two_processes_on_one_gpu_are_one_with_twice_the_batch(corpus, train, tmp_path):
    gloo = ["--distributed_backend=gloo", "--device=cuda:0", "--batch_size=1"]
    command = arguments(corpus, tmp_path / "two", *gloo, *PLAIN, "--number_of_epochs=1")
    done = run(*TWO_PROCESSES, TRAIN, *command)
    assert done.returncode == 0, done.stderr
    train(tmp_path / "one", "--number_of_epochs=1")
    one, two = (pd.read_csv(tmp_path / name / "history.csv") for name in ("one", "two"))
    for column in one.filter(regex="_si_sdri?$"):
        # A GPU's float32 convolutions keep 10 binary places (TF32).
        assert two[column].tolist() == pytest.approx(one[column].tolist(), abs=0.05)


def test_a_test_does_not_depend_on_its_batches(corpus, train, device, tmp_path):
    train(tmp_path, "--number_of_epochs=1")
    tables = []
    for size in (1, 8):
        folder = tmp_path / f"by {size}"
        options = [f"--output_folder={folder}", f"--save_folder={tmp_path / 'save'}"]
        options += [f"--batch_size={size}", "--workers=0", f"--device={device}"]
        options += ["--no_pesq", "--no_stoi", "--no_sdr", "--noprogressbar"]
        load_script("evaluate").main([str(tmp_path / "hyperparams.yaml"), *options])
        tables.append(pd.read_csv(folder / "test_results.csv"))
    assert tables[0].si_sdr.notna().all()
    for column in ("si_sdr", "si_sdri"):
        np.testing.assert_allclose(tables[1][column], tables[0][column], atol=1e-3)


def test_recordings_are_separated_as_on_a_cpu(device, tmp_path):
    load_script("import_checkpoint").main([str(OLD), str(tmp_path / "model")])
    noise = 0.1 * np.random.default_rng(0).normal(size=20_000)
    sf.write(tmp_path / "noise.wav", noise, 8000, subtype="FLOAT")
    separated = []
    for where in ("cpu", device):
        folder = tmp_path / f"on {where} {len(separated)}"
        inputs = [str(tmp_path / "model"), str(tmp_path / "noise.wav")]
        options = ["--output_folder", str(folder), "--device", where]
        assert load_script("separate").main([*inputs, *options]) == 0
        files = sorted(folder.glob("*.wav"))
        separated.append(np.stack([sf.read(file)[0] for file in files]))
    error = np.linalg.norm(separated[1] - separated[0])
    assert error < 0.01 * np.linalg.norm(separated[0])  # TF32
