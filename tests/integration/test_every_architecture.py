"""Every small hparams file: trained, killed, resumed, tested, exported, separated with."""

import signal

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
import torch

from custom_modules.hparams import read_hparams
from custom_modules.inference import PolSESSSeparation
from tests.integration.training import ROOT, TRAIN, WATCHED, assert_same, final_state, run

FILES = sorted((ROOT / "hparams" / "small").glob("*.yaml"))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Mini-PolSESS, 60 mixtures."""
    root = tmp_path_factory.mktemp("data") / "Mini"
    sizes = ["--n_train=44", "--n_val=8", "--n_test=8", "--seconds_per_voice=6", "--duration=2"]
    script, hparams = "recipes/corpus/generate.py", "hparams/corpus/mini_polsess.yaml"
    done = run(script, hparams, f"--output_folder={root}", *sizes, "--workers=1")
    assert done.returncode == 0, done.stderr
    return root


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_trains_survives_a_kill_and_leaves_a_model(file, corpus, tmp_path):
    options = [f"--data_folder={corpus}", "--number_of_epochs=2", "--train_max_samples=12"]
    options += ["--valid_max_samples=2", "--test_max_samples=2", "--segment_seconds=0.5"]
    options += ["--seed=7", "--save_audio=0", "--noprogressbar", "--device=cpu"]
    whole, killed, model = (tmp_path / name for name in ("whole", "killed", "model"))
    done = run(TRAIN, file, f"--output_folder={whole}", *options)
    assert done.returncode == 0, done.stderr
    batches = 12 // read_hparams(file)["batch_size"]
    arguments = [file, f"--output_folder={killed}", *options, "--ckpt_interval_steps=1"]
    assert run(WATCHED, f"step:{batches + 3}", *arguments).returncode == -signal.SIGKILL
    done = run(TRAIN, *arguments)
    assert done.returncode == 0, done.stderr
    assert_same(final_state(killed, epoch=2), final_state(whole, epoch=2))

    scores = pd.read_csv(whole / "test_results.csv")
    assert scores.si_sdr.notna().all()
    assert scores.id.nunique() == 2
    done = run("recipes/separation/export.py", whole, model)
    assert done.returncode == 0, done.stderr
    recording = next((corpus / "test" / "mix").glob("*.wav"))
    done = run("recipes/separation/separate.py", model, recording, f"--output_folder={tmp_path}")
    assert done.returncode == 0, done.stderr
    mixture, _ = sf.read(recording, dtype="float32")
    sources = [sf.read(tmp_path / f"{recording.stem}_s{n}.wav")[0] for n in (1, 2)]
    separator = PolSESSSeparation.from_hparams(model, run_opts={"device": "cpu"})
    expected = separator.separate_file(str(recording))[0].T
    np.testing.assert_allclose(sources, expected, atol=2 / 32768)
    assert torch.isfinite(expected).all() and len(sources[0]) == len(mixture)
