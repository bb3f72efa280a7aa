"""The hparams files, and how a command line changes them."""

from pathlib import Path

import pytest
import torch

from custom_modules.errors import InputError
from custom_modules.hparams import (
    load_experiment,
    load_hparams,
    read_yaml,
    split_arguments,
)

ROOT = Path(__file__).parents[1]
BASELINES = {"convtasnet": 8_708_672, "dprnn": 2_609_793, "sepformer": 25_679_361}


@pytest.fixture
def load(tmp_path, monkeypatch):
    monkeypatch.delenv("POLSESS_DATA_ROOT", raising=False)

    def load(name, **overrides):
        folders = {"data_folder": "corpus", "output_folder": str(tmp_path)}
        return load_hparams(f"{ROOT}/hparams/{name}.yaml", folders | overrides)

    return load


@pytest.mark.parametrize(("name", "parameters"), BASELINES.items())
def test_baselines_have_the_published_sizes(load, name, parameters):
    hparams = load(name)
    assert sum(p.numel() for p in hparams["separator"].parameters()) == parameters


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("convtasnet", (1e-3, 8, 100, 0.5, 2)),
        ("dprnn", (1.5e-4, 16, 100, 0.98, 2)),
        ("sepformer", (1.5e-4, 2, 50, 0.5, 3)),
    ],
)
def test_baselines_have_the_published_settings(load, name, settings):
    hparams = load(name)
    scheduler = hparams["lr_scheduler"]
    numbers = (hparams["lr"], hparams["batch_size"], hparams["number_of_epochs"])
    assert (*numbers, scheduler.factor, scheduler.patience) == settings
    assert hparams["weight_decay"] == 0
    assert hparams["max_grad_norm"] == 5
    assert hparams["precision"] == "fp16"
    assert hparams["valid_variants"] == ["SER", "SE"]
    # SpeechBrain's own default would leave the rate alone for 65 epochs.
    assert scheduler.dont_halve_until_epoch == 0


@pytest.mark.parametrize("name", [*BASELINES, "spmamba", "demo"])
def test_every_key_is_used(name):
    """By a reference in the file, or by the code."""
    text = (ROOT / f"hparams/{name}.yaml").read_text()
    code = "".join(p.read_text() for p in (ROOT / "custom_modules").glob("*.py"))
    code += (ROOT / "recipes/separation/train.py").read_text()
    keys = [line.split(":")[0] for line in text.splitlines() if line[:1].isalpha()]
    # SpeechBrain's Brain looks for these among the hparams itself.
    brain = {
        "precision",
        "nonfinite_patience",
        "ckpt_interval_minutes",
        "max_grad_norm",
    }
    templates = [
        f"{s}_{k}"
        for s in ("train", "valid", "test")
        for k in ("manifest", "variants", "max_samples")
    ]
    for key in set(keys) - brain - set(templates):
        assert f"<{key}>" in text or f'"{key}"' in code or f"hparams.{key}" in code, key


def test_what_the_baselines_share_does_not_drift_apart():
    """Each file is whole, for people to read; so the same lines stand in all."""
    trees = [
        read_yaml(f"{ROOT}/hparams/{name}.yaml") for name in [*BASELINES, "spmamba"]
    ]
    of_a_model = {"model_name", "number_of_epochs", "batch_size", "lr", "lr_scheduler"}
    of_a_model |= {"precision", "opt_class", "encoder", "masknet", "separator"}
    of_a_model |= {"num_layers", "N", "stride", "kernel_size", "chunk_size"}
    shared = set.intersection(*map(set, trees)) - of_a_model
    assert {"train_variants", "checkpointer", "test_metrics"} <= shared
    for key in shared:
        assert len({str(tree[key]) for tree in trees}) == 1, key


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("task", ["EB", "ES"])
def test_sizes_and_task_can_be_overridden(load, name, task):
    hparams = load(
        name, task=task, N=16, **({"nhead": 2} if name == "sepformer" else {})
    )
    with torch.no_grad():
        assert hparams["separator"](torch.randn(1, 500)).shape == (1, 500, 1)
    assert hparams["separator"].encoder.conv1d.out_channels == 16


def test_values_with_equals_signs_and_numbers_survive():
    _, run_arguments, overrides = split_arguments(
        ["a.yaml", "--output_folder=results/lr=0.1", "--lr", "1e-4", "--device", "cpu"]
    )
    assert overrides == {"output_folder": "results/lr=0.1", "lr": 1e-4}
    assert run_arguments == ["a.yaml", "--device", "cpu"]


def test_fp16_is_taken_where_it_can_be_and_refused_where_it_was_asked_for(tmp_path):
    arguments = [f"{ROOT}/hparams/dprnn.yaml", "--data_folder=x", "--device=cpu"]
    arguments.append(f"--output_folder={tmp_path}")
    _, hparams, _, _ = load_experiment(arguments)
    assert hparams["precision"] == "fp32"
    with pytest.raises(InputError, match="bf16 or fp32"):
        load_experiment([*arguments, "--precision=fp16"])


def test_debug_writes_into_a_folder_of_its_own(tmp_path):
    arguments = [f"{ROOT}/hparams/dprnn.yaml", "--data_folder=x", "--debug"]
    _, hparams, _, _ = load_experiment([*arguments, f"--output_folder={tmp_path}/a"])
    assert hparams["output_folder"] == f"{tmp_path}/a/debug"
    assert hparams["save_folder"] == f"{tmp_path}/a/debug/save"
    # The baseline's batch of 16 mixtures of 4 s would take 30 GB.
    assert (hparams["batch_size"], hparams["segment_seconds"]) == (2, 1.0)
    _, hparams, _, _ = load_experiment([*arguments, "--batch_size=3"])
    assert hparams["batch_size"] == 3


@pytest.mark.parametrize("content", ["a: [1", "- 1", "", "a: !new:no.such.Thing {}"])
def test_what_is_no_hparams_file_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    with pytest.raises(InputError, match=r"bad\.yaml") as caught:
        load_experiment([str(path)])
    assert "\n" not in str(caught.value)
