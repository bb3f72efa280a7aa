"""Checkpoints of the predecessor; outputs recorded there."""

import os
import sys
from contextlib import nullcontext
from pathlib import Path

import pandas as pd
import pytest
import torch
from speechbrain.inference.separation import SepformerSeparation

from custom_modules.errors import InputError
from custom_modules.hub.folder import write_folder
from custom_modules.hub.predecessor import known_architectures, read_checkpoint
from custom_modules.hub.recipe import import_old, new_results_folder, write_results_folder
from custom_modules.inference import PolSESSSeparation
from tests.hub.scans import without_numba
from tests.integration.training import load_script, tiny_corpus

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data" / "checkpoints"
CPU = {"run_opts": {"device": "cpu"}}


def load(name):
    return torch.load(DATA / f"{name}.pt", weights_only=True)


def import_into(folder, path):
    old = read_checkpoint(path)
    recipe, separator, facts = import_old(old, ROOT / "hparams" / f"{old.model_type}.yaml", path)
    write_folder(folder, recipe, separator, facts)
    return old


@pytest.mark.parametrize(
    ("name", "recorded"),
    [
        ("convtasnet_SB_best", "convtasnet_io"),
        ("dprnn_SB_best", "dprnn_io"),
        ("sepformer_SB_best", "sepformer_io"),
        ("sepformer_SB_legacy_nopos", "sepformer_legacy_nopos_io"),
        ("spmamba_SB_best", "spmamba_io"),
        ("spmamba_SB_legacy_sample_rate", "spmamba_io"),
        ("mossformer2_SB_best", "mossformer2_io"),
        ("resepformer_SB_best", "resepformer_io"),
        ("mamba_tasnet_SB_best", "mamba_tasnet_io"),
        ("dpmamba_SB_best", "dpmamba_io"),
    ],
)
def test_recorded_outputs(tmp_path, name, recorded):
    with nullcontext() if name == "spmamba_SB_best" else without_numba():
        old = import_into(tmp_path / name, DATA / f"{name}.pt")
    model = PolSESSSeparation.from_hparams(tmp_path / name, **CPU)
    expected = load(recorded)["output"].transpose(1, 2)
    found = model.separate_batch(load(recorded)["input"])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert (old.epoch, old.overrides["seed"], old.overrides["lr"]) == (1, 42, 1e-3)
    # There the two mixtures of RE-SepFormer's batch see each other; here they do not.
    if "input_odd" in load(recorded) and old.model_type != "resepformer":
        expected = load(recorded)["output_odd"].mT
        found = model.separate_batch(load(recorded)["input_odd"])
        torch.testing.assert_close(found[:, : expected.shape[1]], expected, atol=1e-5, rtol=0)
        assert not found[:, expected.shape[1] :].any()


def test_every_architecture_has_its_hparams_and_its_checkpoint():
    for name in known_architectures():
        assert (ROOT / "hparams" / f"{name}.yaml").is_file()
        assert read_checkpoint(DATA / f"{name}_SB_best.pt").model_type == name
    sources = "".join(path.read_text() for path in (ROOT / "custom_modules/hub").glob("*.py"))
    assert not [name for name in known_architectures() if f'"{name}"' in sources]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny_corpus(tmp_path_factory.mktemp("data"), train=2, valid=1, test=1)


@pytest.mark.parametrize(
    "name", ["convtasnet", "dpmamba", "mamba_tasnet", "mossformer2", "resepformer"]
)
def test_training_goes_on_from_results(tmp_path, monkeypatch, corpus, name):
    old = read_checkpoint(DATA / f"{name}_SB_best.pt")
    write_results_folder(old, ROOT / "hparams" / f"{name}.yaml", tmp_path)
    script = load_script("train")
    monkeypatch.setattr(script, "plot_training", lambda *args: None)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    options = ["--number_of_epochs=2", "--test_after_training=False", "--device=cpu"]
    options += ["--curriculum=null", "--num_workers=0", "--noprogressbar", "--precision=fp32"]
    script.main([str(tmp_path), f"--data_folder={corpus}", *options])
    (row,) = pd.read_csv(tmp_path / "history.csv").to_dict("records")
    assert (row["epoch"], row["skipped"]) == (2, 0)
    falls = "CosineDecay" in (tmp_path / "hyperparams.yaml").read_text()
    assert row["lr"] < 1e-3 if falls else row["lr"] == 1e-3


def drop(*keys):
    def change(saved):
        section = saved["config"]["model"][saved["config"]["model"]["model_type"]]
        for key in keys:
            del section[key]

    return change


def add_tables(saved):
    tables = torch.zeros(1, 100, 8)
    for name in ("seg_model.0", "seg_model.1", "mem_model.0"):
        saved["model_state_dict"][f"masknet.model.{name}.pos_enc.pe"] = tables


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("mamba_tasnet", drop("residual_in_fp32")),
        ("dpmamba", drop("residual_in_fp32")),
        ("mossformer2", drop("attn_dropout")),
        ("resepformer", add_tables),
    ],
)
def test_what_other_versions_wrote_does_not_matter(tmp_path, name, change):
    saved = load(f"{name}_SB_best")
    change(saved)
    torch.save(saved, tmp_path / "old.pt")
    ours, other = read_checkpoint(DATA / f"{name}_SB_best.pt"), read_checkpoint(tmp_path / "old.pt")
    assert other.overrides == ours.overrides
    assert other.state_dict.keys() == ours.state_dict.keys()


@pytest.mark.parametrize("interface", [PolSESSSeparation, SepformerSeparation])
def test_epsilon_of_mixed_precision(tmp_path, interface):
    saved, recorded = load("convtasnet_SB_best"), load("convtasnet_io")
    saved["config"]["training"] |= {"use_amp": True, "amp_eps": 1e-4}
    torch.save(saved, tmp_path / "amp.pt")
    old = import_into(tmp_path / "folder", tmp_path / "amp.pt")
    assert old.overrides["norm_eps"] == 1e-4
    model = interface.from_hparams(str(tmp_path / "folder"), **CPU)
    expected = recorded["output_eps1e4"].transpose(1, 2)
    assert (expected - recorded["output"].transpose(1, 2)).abs().max() > 1e-4
    found = model.separate_batch(recorded["input"])
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("name", ["convtasnet", "dprnn", "sepformer", "spmamba"])
def test_what_a_model_was_wrapped_in_does_not_matter(tmp_path, name, prefix):
    saved = load(f"{name}_SB_best")
    state = saved["model_state_dict"]
    saved["model_state_dict"] = {prefix + key: value for key, value in state.items()}
    torch.save(saved, tmp_path / "wrapped.pt")
    wrapped = read_checkpoint(tmp_path / "wrapped.pt").state_dict
    bare = read_checkpoint(DATA / f"{name}_SB_best.pt").state_dict
    assert wrapped.keys() == bare.keys()
    assert all(torch.equal(wrapped[key], bare[key]) for key in bare)


@pytest.mark.parametrize(("chunk", "hop"), [(50, 13), (125, 62), (125, 63), (125, None)])
def test_the_hop_that_was_never_used(tmp_path, chunk, hop):
    saved = load("sepformer_SB_best")
    saved["config"]["model"]["sepformer"] |= {"chunk_size": chunk, "hop_size": hop}
    torch.save(saved, tmp_path / "old.pt")
    assert read_checkpoint(tmp_path / "old.pt").overrides["chunk_size"] == chunk


def remove_key(saved):
    del saved["model_state_dict"]["decoder.weight"]


def add_key(saved):
    saved["model_state_dict"]["extra"] = torch.zeros(1)


def other_model(saved):
    saved["config"]["model"]["model_type"] = "wavenet"


def other_size(saved):
    saved["config"]["model"]["dprnn"]["hidden_size"] = 8


def no_section(saved):
    saved["config"]["model"]["dprnn"] = None


def two_layers(saved):
    saved["config"]["model"]["dprnn"]["num_rnn_layers"] = 2


def other_task(saved):
    saved["config"]["data"]["task"] = "ES"


def no_config(saved):
    del saved["config"]


SIZES = ("config", "model", "dprnn")


def put(value, *keys):
    def change(saved):
        *folders, last = keys
        for key in folders:
            saved = saved[key]
        saved[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put([3], "model_state_dict"), "model_state_dict must be a dict, and is a list"),
        (put(torch.nan, "model_state_dict", "decoder.weight"), "is no parameter"),
        (put(torch.full([16, 1, 16], torch.nan), "model_state_dict", "decoder.weight"), "finite"),
        (put(7, "config"), r"has no config\.model;"),
        (put("many", "config", "model"), r"has no config\.model\.model_type;"),
        (put([1], "config", "model", "model_type"), "must be a number or a text"),
        (put([1], "config", "data", "task"), "must be a number or a text"),
        (put("many", *SIZES, "hidden_size"), "hidden_size"),
        (put(10**9, *SIZES, "chunk_size"), "chunk_size"),
        (put(99_999, *SIZES, "hidden_size"), r"parameter masknet\S+ and "),
        (put(10**6, *SIZES, "num_layers"), "num_layers"),
        (put(99_999, *SIZES, "num_layers"), "num_layers is 99999, more than it has weights"),
        (put(1, *SIZES, "bidirectional"), "bidirectional must not be 1"),
        (put("ABC", *SIZES, "rnn_type"), "rnn_type"),
        (put(0, *SIZES, "kernel_size"), "kernel_size"),
        (put(float("nan"), "val_sisdr"), "val_sisdr=nan: must be a number"),
        (put("first", "epoch"), "epoch=first: must be a whole number"),
        (put([3], "optimizer_state_dict", "param_groups"), "has no lr;"),
        (put(-1, "config", "training", "num_epochs"), "number_of_epochs=-1"),
        (put("x" * 10**6, "config", "training", "seed"), "training.seed must be a number"),
        (remove_key, r"old.pt: parameter decoder.weight: missing there, \["),
        (add_key, r"old.pt: parameter extra: \[1\] there, not known here;"),
        (other_model, r"'wavenet' is none of .* convtasnet, dpmamba, dprnn, mamba_tasnet"),
        (other_size, r"parameter masknet\S+ and \d+ more: \[.*\] there, \["),
        (no_section, r"has no config.model.dprnn;"),
        (two_layers, r"config.model.dprnn.num_rnn_layers is 2; only 1 can be"),
        (other_task, r"task 'ES' and 2 sources do not belong together"),
        (no_config, r"has no config; is it a checkpoint of the predecessor"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, change, message):
    saved = load("dprnn_SB_best")
    change(saved)
    torch.save(saved, tmp_path / "old.pt")
    with pytest.raises(InputError, match=message) as caught:
        import_into(tmp_path / "folder", tmp_path / "old.pt")
    assert str(caught.value).startswith(f"{tmp_path}/old.pt: ")
    assert len(str(caught.value)) < 500
    assert not (tmp_path / "folder").exists()


def test_one_import_at_a_time_takes_a_results_folder(tmp_path):
    results = tmp_path / "results" / "dprnn"
    with (
        new_results_folder(results, tmp_path / "exported"),
        pytest.raises(InputError, match="another command writes into it"),
        new_results_folder(results, tmp_path / "other"),
    ):
        pass
    assert not list(tmp_path.iterdir())  # nothing is left of what was not written
    for exported, message in ((results, "is FOLDER"), (tmp_path / "exported", "is not empty")):
        results.mkdir(parents=True, exist_ok=True)
        (results / "notes.txt").touch()
        with pytest.raises(InputError, match=message), new_results_folder(results, exported):
            pass
    assert [path.name for path in results.iterdir()] == ["notes.txt"]


class Dangerous:
    def __reduce__(self):
        return Path.touch, (Path("touched"),)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: torch.save({"model_state_dict": Dangerous()}, path),
        lambda path: path.write_text("text"),
        lambda path: path.write_bytes((DATA / "dprnn_SB_best.pt").read_bytes()[:9000]),
        lambda path: path.write_bytes(b""),
        lambda path: torch.save([1, 2], path),
        lambda path: path.mkdir(),
        lambda path: os.mkfifo(path),
        lambda path: None,
    ],
)
def test_what_is_no_checkpoint(tmp_path, monkeypatch, write):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "old.pt")
    with pytest.raises(InputError) as caught:
        read_checkpoint(tmp_path / "old.pt")
    assert str(caught.value).startswith(f"{tmp_path}/old.pt: ")
    assert "\n" not in str(caught.value)
    assert not Path("touched").exists()
