"""The hparams files: what they say, what they are based on, what is wrong with one."""

import pydoc
import re
import traceback
from collections import Counter, OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from soundfile import write as save

from custom_modules.corpus.folders import SpeechFolder
from custom_modules.errors import InputError
from custom_modules.hparams import (
    RUN_OPTIONS,
    load_experiment,
    load_hparams,
    read_hparams,
    read_yaml,
    resolve,
    split_base,
    tag_of,
    write_hparams,
)
from custom_modules.steps import StoppingEpochCounter

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


def code_of(*folders):
    return "".join(p.read_text() for f in folders for p in (ROOT / f).rglob("*.py"))


FOLDERS = ("hparams", "hparams/corpus", "hparams/recognition")
HPARAMS = [p for f in FOLDERS for p in (ROOT / f).glob("*.yaml")]


@pytest.mark.parametrize("path", sorted(HPARAMS), ids=lambda path: path.stem)
def test_every_key_is_used(path):
    """By a reference in the file, by the code, or by SpeechBrain's Brain."""
    base, changes = split_base(path)
    code = code_of("custom_modules", "recipes")
    text = Path(base).read_text()
    assert set(changes) <= set(read_yaml(base))
    keys = [line.split(":")[0] for line in text.splitlines() if line[:1].isalpha()]
    templates = {
        f"{split}_{key}"
        for split in ("train", "valid", "test")
        for key in ("manifest", "max_samples")
    } | {"n_train", "n_val", "n_test"}
    unused = [
        key
        for key in set(keys) - RUN_OPTIONS - templates
        if not re.search(rf"<{key}[]\[>]", text)
        and not re.search(rf'hparams(\.|\["|\.get\("){key}\b|"{key}"', code)
    ]
    assert not unused


def test_what_the_baselines_share_does_not_drift_apart():
    """Each file is whole, for people to read; so the same lines stand in all."""
    trees = [read_yaml(f"{ROOT}/hparams/{name}.yaml") for name in [*BASELINES, "spmamba"]]
    of_a_model = {"model_name", "number_of_epochs", "batch_size", "lr", "lr_scheduler"}
    of_a_model |= {
        "curriculum",
        "early_stopping_patience",
        "precision",
        "opt_class",
        "encoder",
        "masknet",
        "separator",
    }
    of_a_model |= {
        "lr_factor",
        "lr_patience",
        "num_layers",
        "N",
        "stride",
        "kernel_size",
        "chunk_size",
    }
    shared = set.intersection(*map(set, trees)) - of_a_model
    assert {"train_variants", "checkpointer", "test_metrics"} <= shared
    for key in shared:
        assert len({str(tree[key]) for tree in trees}) == 1, key


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("task", ["EB", "ES"])
def test_sizes_and_task_can_be_overridden(load, name, task):
    hparams = load(name, task=task, N=16, **({"nhead": 2} if name == "sepformer" else {}))
    with torch.no_grad():
        assert hparams["separator"](torch.randn(1, 500)).shape == (1, 500, 1)
    assert hparams["separator"].encoder.conv1d.out_channels == 16


def test_a_base_is_found_from_a_linked_folder(tmp_path):
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "near").symlink_to(tmp_path / "far" / "away")
    (tmp_path / "far" / "base.yaml").write_text("lr: 1.0\n")
    (tmp_path / "near" / "best.yaml").write_text("base: ../base.yaml\nlr: 2.0\n")
    assert read_hparams(str(tmp_path / "near" / "best.yaml"))["lr"] == 2.0


@pytest.mark.parametrize("content", ["a: [1", "- 1", "", "a: !new:no.such.Thing {}"])
def test_what_is_no_hparams_file_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    with pytest.raises(InputError, match=r"bad\.yaml") as caught:
        load_experiment([str(path)])
    assert "\n" not in str(caught.value)


PUBLISHED = {
    "convtasnet": (4.57e-4, 1.70e-6, 4.49, 0.327, 3),
    "dprnn": (1.25e-3, 2.1e-5, 2.76, 0.863, 3),
    "sepformer": (2.79e-4, 7.02e-6, 4.87, 0.912, 3),
    "spmamba": (7.05e-4, 4.89e-6, 8.45, 0.718, 2),
}


@pytest.mark.parametrize(("name", "settings"), PUBLISHED.items())
def test_tuned_files_change_what_was_found_and_nothing_else(load, name, settings):
    hparams, base = load(f"tuned/{name}"), load(name)
    scheduler = hparams["lr_scheduler"]
    found = tuple(hparams[k] for k in ("lr", "weight_decay", "max_grad_norm"))
    assert (*found, scheduler.factor, scheduler.patience) == settings
    assert hparams["opt_class"].keywords["lr"] == settings[0]
    kinds = int | float | str | list | None
    plain = {k: v for k, v in base.items() if isinstance(v, kinds)}
    changed = {k for k, v in plain.items() if hparams[k] != v}
    scheduled = {"lr_factor", "lr_patience"}
    assert hparams["early_stopping_patience"] == 15
    assert "C" not in hparams["curriculum"][-1]["variants"]
    # The search's own set-up: its epochs, and ConvTasNet's batch.
    setup = {"curriculum", "number_of_epochs", "batch_size"}
    setup |= {"early_stopping_patience", "early_stopping_warmup"}
    found = {"model_name", "lr", "weight_decay", "max_grad_norm"}
    assert changed <= scheduled | setup | found


def derived(folder, name, text):
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return str(path)


def test_a_base_may_have_a_base_and_the_command_line_wins(tmp_path):
    derived(tmp_path, "a", "data_folder: x\nlr: 1.0\nseed: 1\nb: {c: 1, d: 2}\ne: !ref <lr>")
    derived(tmp_path, "b", "base: a.yaml\nlr: 2.0\nseed: 2\n")
    last = derived(tmp_path, "c", "base: b.yaml\nlr: 3.0\nb: {c: 5}\n")
    assert load_hparams(last, {}) == {
        "data_folder": "x",
        "lr": 3.0,
        "seed": 2,
        "b": {"c": 5, "d": 2},
        "e": 3.0,
    }
    assert load_hparams(last, {"lr": 4.0})["e"] == 4.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: a.yaml\nlearning_rate: 1", "a.yaml has no key 'learning_rate'"),
        ("base: none.yaml", "none.yaml does not exist"),
        ("base: b.yaml", "is its own base"),
    ],
)
def test_a_base_that_does_not_fit_is_refused_in_one_line(tmp_path, text, message):
    derived(tmp_path, "a", "lr: 1.0\n")
    path = derived(tmp_path, "b", text)
    with pytest.raises(InputError, match=message) as caught:
        load_hparams(path, {})
    assert "\n" not in str(caught.value)


def test_what_is_written_beside_results_has_the_values_and_takes_others(tmp_path):
    """With its references resolved, --lr would silently reach no optimiser."""
    tuned, left = ROOT / "hparams/tuned/dprnn.yaml", tmp_path / "hyperparams.yaml"
    changes = {"data_folder": "x", "output_folder": str(tmp_path), "lr": 1e-5}
    changes["lr_scheduler"] = {"dont_halve_until_epoch": 7}
    write_hparams(tuned, changes, left)
    first, *_ = left.read_text().splitlines()
    origin = f"{tuned}, based on {ROOT / 'hparams/dprnn.yaml'}"
    assert first.startswith(f"# From {origin}, 20")
    assert yaml.safe_load(re.search(r"(?m)^lr: .*$", left.read_text())[0])["lr"] == 1e-5
    trained, again = load_hparams(tuned, changes), load_hparams(left, {})
    kinds = bool | int | float | str | list | None
    assert {k: v for k, v in trained.items() if isinstance(v, kinds)} == {
        k: v for k, v in again.items() if isinstance(v, kinds)
    }
    assert again["opt_class"].keywords["lr"] == 1e-5
    assert again["lr_scheduler"].dont_halve_until_epoch == 7
    other = load_hparams(left, {"lr": 2e-4, "batch_size": 3, "hidden_size": 8})
    assert other["opt_class"].keywords["lr"] == 2e-4
    assert other["train_loader_opts"]["batch_size"] == 3
    assert other["rnn"].keywords["hidden_channels"] == 8


@pytest.mark.parametrize(
    ("old", "kind"),
    [
        ("custom_modules.training.stopping.StoppingEpochCounter", StoppingEpochCounter),
        ("custom_modules.corpus.speech_folder.SpeechFolder", SpeechFolder),
    ],
)
def test_files_made_before_a_class_was_moved_are_read(tmp_path, old, kind):
    arguments = {StoppingEpochCounter: "limit: 3", SpeechFolder: f"folder: {tmp_path}"}
    (tmp_path / "a" / "a.wav").parent.mkdir()
    save(tmp_path / "a" / "a.wav", np.ones(8000), 8000)
    path = derived(tmp_path, "old", f"thing: !new:{old}\n  {arguments[kind]}\n")
    assert isinstance(load_hparams(path, {})["thing"], kind)
    assert tag_of(read_yaml(path)["thing"]).endswith(f".{kind.__name__}")
    for tree in (resolve(path, {}), read_hparams(path)):
        assert old not in tag_of(tree["thing"])
    write_hparams(path, {}, tmp_path / "new.yaml")
    assert old not in (tmp_path / "new.yaml").read_text()


BROKEN = """
class Broken:
    def __init__(self, size=1):
        self.share = 1 / (size - 1)

def broken(value):
    raise ValueError("a bug")
"""


@pytest.mark.parametrize(
    ("thing", "error"),
    [
        ("!new:broken_model.Broken", ZeroDivisionError),
        ("!new:broken_model.Broken {size: a}", TypeError),
        ("!apply:broken_model.broken [1]", ValueError),
        ("!new:broken_module.Model", pydoc.ErrorDuringImport),
    ],
)
def test_what_an_object_raises_keeps_its_traceback(tmp_path, thing, error):
    (tmp_path / "broken_model.py").write_text(BROKEN)
    (tmp_path / "broken_module.py").write_text("import no_such_package\n")
    path = derived(tmp_path, "mine", f"separator: {thing}\n")
    with pytest.raises(error) as caught:
        load_hparams(path, {})
    shown = "".join(traceback.format_exception(caught.value))
    assert re.search(r'broken_mod(el|ule).py", line \d', shown)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: !new:no.such.Thing", "no.such.Thing"),
        ("a: !new:collections.OrderedDict.fromkeys", "should be a class"),
        ("a: !new:torch.nn.Linear {inputs: 1}", "unexpected keyword argument 'inputs'"),
        ("a: !ref <b>", 'reference "b" is not valid'),
        ("a: !PLACEHOLDER", "set --a=A"),
        ("a: !apply:datetime.date.today {b: 1}", "takes no keyword arguments"),
    ],
)
def test_what_the_file_itself_gets_wrong_is_one_line(tmp_path, text, message):
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        load_hparams(derived(tmp_path, "mine", text), {})
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("convtasnet", {"kernel_size": 0}),
        ("convtasnet", {"N": 1.5}),
        ("convtasnet", {"R": "two"}),
        ("convtasnet", {"seed": -1}),
        ("dprnn", {"hidden_size": 0}),
        ("dprnn", {"rnn_type": "RRR"}),
        ("sepformer", {"nhead": 3}),
        ("sepformer", {"N": 9, "nhead": 3}),
        ("sepformer", {"dropout": 2}),
        ("spmamba", {"emb_dim": 0}),
        ("spmamba", {"stride": 256}),
        ("spmamba", {"scan_backend": "cuda"}),
        ("convtasnet", {"lr": {"a": 1}}),
    ],
)
def test_values_that_make_no_model_are_refused_by_their_option(load, name, changes):
    with pytest.raises(InputError, match=f"--{'|--'.join(changes)}") as caught:
        load(name, **changes)
    assert "\n" not in str(caught.value)


def test_a_derived_file_exchanges_an_object_with_all_its_arguments(tmp_path):
    derived(tmp_path, "a", "data_folder: x\nb: !new:collections.Counter {d: 2}\nc: 1")
    last = derived(tmp_path, "b", "base: a.yaml\nb: !new:collections.OrderedDict\n  e: !ref <c>\n")
    thing = load_hparams(last, {"c": 5})["b"]
    assert (type(thing), dict(thing)) == (OrderedDict, {"e": 5})


def test_a_module_beside_the_file_is_found_and_goes_with_the_results(tmp_path):
    (tmp_path / "losses_of_mine.py").write_text("def loss(*args):\n    return 7\n")
    text = f"base: {ROOT}/hparams/demo.yaml\nloss: !name:losses_of_mine.loss\n"
    path = derived(tmp_path, "mine", text)
    assert load_hparams(path, {"data_folder": "x"})["loss"]() == 7
    results = tmp_path / "results" / "hyperparams.yaml"
    write_hparams(path, {"data_folder": "x"}, results)
    assert (results.parent / "losses_of_mine.py").is_file()
    assert sorted(p.name for p in results.parent.iterdir()) == [
        "hyperparams.yaml",
        "losses_of_mine.py",
    ]
    assert load_hparams(results, {})["loss"]() == 7


def test_what_ten_of_the_architectures_can_be_told_the_eleventh_can_too():
    files = [p for p in (ROOT / "hparams").glob("*.yaml") if p.stem != "demo"]
    keys = {file.name: set(read_yaml(file)) for file in files}
    counts = Counter(key for each in keys.values() for key in each)
    common = {key for key, count in counts.items() if count == len(files)}
    assert {"warmup_steps", "average_checkpoints", "weight_decay", "loss"} <= common
    assert not [key for key, count in counts.items() if count == len(files) - 1]
