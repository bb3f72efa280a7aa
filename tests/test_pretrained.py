"""Exported folders that are not whole, and a hub, for which a folder stands in."""

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from speechbrain.inference.interfaces import foreign_class
from speechbrain.utils.fetching import FetchConfig

from custom_modules.errors import InputError
from custom_modules.hub.card import CardFacts
from custom_modules.hub.folder import write_folder
from custom_modules.hub.recipe import ModelRecipe
from custom_modules.inference import PolSESSSeparation

ROOT = Path(__file__).parents[1]
SIZES = {"N": 16, "B": 8, "H": 16, "X": 2, "R": 1, "data_folder": "none"}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "convtasnet"
    recipe = ModelRecipe(str(ROOT / "hparams" / "convtasnet.yaml"), SIZES)
    write_folder(folder, recipe, recipe.make_separator(), CardFacts({}))
    return folder


@pytest.fixture
def model(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "model")


@pytest.fixture(autouse=True)
def nobody_is_asked(monkeypatch):
    def refuse(host, *args):
        pytest.fail(f"asks {host}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def load(source, **options):
    return PolSESSSeparation.from_hparams(source, run_opts={"device": "cpu"}, **options)


def save(path, change):
    state = torch.load(path, weights_only=True)
    torch.save(change(state) or state, path)


MISFITS = {
    "shape": lambda state: state.update({next(iter(state)): torch.zeros(3, 3)}),
    "missing": lambda state: state.pop(next(iter(state))) is None,
    "renamed": lambda state: {f"other.{name}": value for name, value in state.items()},
    "nothing": lambda state: state.clear(),
    "more": lambda state: state.update(more=torch.zeros(1)),
}


@pytest.mark.parametrize("misfit", MISFITS)
@pytest.mark.parametrize("name", ["encoder", "masknet", "decoder"])
def test_weights_fit_or_nothing_is_loaded(model, name, misfit):
    save(model / f"{name}.ckpt", MISFITS[misfit])
    with pytest.raises(InputError, match=rf"{model}/{name}\.ckpt: parameter "):
        load(model)
    options = {"pymodule_file": "custom_interface.py", "classname": "PolSESSSeparation"}
    with pytest.raises(RuntimeError, match="loading state_dict"):  # SpeechBrain's own way
        foreign_class(str(model), **options, run_opts={"device": "cpu"})


def change(name, old, new):
    def damage(model):
        text, count = re.subn(old, new, (model / name).read_text(), count=1, flags=re.M | re.S)
        assert count
        (model / name).write_text(text)

    return damage


def replace(name, make):
    def damage(model):
        (model / name).unlink()
        make(model / name)

    return damage


YAML, CODE = "hyperparams.yaml", "custom_interface.py"
BOMB = "".join(f"a{i + 1}: &a{i + 1} [{','.join([f'*a{i}'] * 9)}]\n" for i in range(9))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (replace(YAML, lambda path: None), "cannot be read"),
        (replace(YAML, Path.touch), "holds no keys"),
        (replace(YAML, Path.mkdir), "is a folder"),
        (replace(YAML, os.mkfifo), "is a pipe"),
        (replace(YAML, lambda path: path.write_text("- a")), "holds no keys"),
        (replace(YAML, lambda path: path.write_bytes(b"\xff")), "not UTF-8"),
        (replace(YAML, lambda path: path.write_text("a: " + "[" * 5000)), "not valid YAML"),
        (change(YAML, r"\Z", f"a0: &a0 [x]\n{BOMB}"), "not valid YAML .its aliases"),
        (change(YAML, "8000", "fast"), "sample_rate=fast: must be a whole number"),
        (change(YAML, "8000", ".nan"), "sample_rate=nan: must be a whole number"),
        (change(YAML, "8000", "0"), "sample_rate=0"),
        (change(YAML, "num_spks: 2", "num_spks: 3"), r"num_spks is 3"),
        (change(YAML, "num_spks: 2", ""), "has no num_spks"),
        (change(YAML, "N: 16", "NN: 16"), "Invalid argument to class"),
        (change(YAML, "MaskNet", "Mask"), "no such class"),
        (change(YAML, "conv_tasnet", "conv_net"), "no such class"),
        (change(YAML, "^modules:.*?\n\n", "modules: 3\n\n"), "modules is no dict"),
        (change(YAML, "^modules:.*?\n\n", "modules: {masknet: 3}\n\n"), "masknet is no module"),
        (change(YAML, "^pretrainer.*", ""), "has no pretrainer"),
        (change(YAML, "^    masknet: !ref <masknet>\n", ""), "leaves out"),
        (change(CODE, "^import sys", "import sys ("), "is damaged"),
        (replace(CODE, lambda path: path.write_bytes(b"\0")), "is damaged"),
        (replace(CODE, os.mkfifo), "is a pipe"),
        (replace("encoder.ckpt", os.mkfifo), "is a pipe"),
        (replace("encoder.ckpt", lambda path: None), "cannot be read"),
        (replace("encoder.ckpt", lambda path: path.write_text("hello")), "no checkpoint"),
    ],
)
def test_what_is_damaged_is_named(model, damage, message):
    damage(model)
    with pytest.raises(InputError, match=message) as caught:
        load(model)
    assert str(model) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", ["owner/name", "exported/dprn", "https://host/x", ""])
def test_what_is_not_said_to_be_on_a_hub_is_a_folder(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exported").mkdir()
    if source:
        with pytest.raises(InputError, match=f"^{source}: no such folder; "):
            load(source, trust=True)
    with pytest.raises(InputError, match=r"^hf:owner/name: .* --trust"):
        load("hf:owner/name")


@pytest.fixture
def cache(exported, tmp_path):
    """What huggingface_hub keeps of two models of one owner; their code leaves a trace."""
    for name in ("first", "second"):
        folder = tmp_path / "cache" / f"models--owner--{name}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text("0" * 40)
        shutil.copytree(exported, folder / "snapshots" / ("0" * 40))
        code = folder / "snapshots" / ("0" * 40) / CODE
        trace = f"open({str(tmp_path / 'ran')!r}, 'w')\n"
        code.write_text(code.read_text().replace("import sys\n", f"import sys\n{trace}", 1))
    encoder = folder / "snapshots" / ("0" * 40) / "encoder.ckpt"
    save(encoder, lambda state: {name: 2 * value for name, value in state.items()})
    return tmp_path / "cache"


def test_code_of_a_hub_runs_only_if_it_is_trusted(cache, exported, tmp_path):
    options = {"savedir": cache, "fetch_config": FetchConfig(allow_network=False)}
    with pytest.raises(InputError, match=r"hf:owner/first: .* would be run .* trust=True"):
        load("hf:owner/first", **options)
    assert not (tmp_path / "ran").exists()
    mixture = torch.randn(1, 500)
    first = load("hf:owner/first", trust=True, **options).estimate(mixture)
    assert (tmp_path / "ran").exists()
    assert torch.equal(first, load(exported).estimate(mixture))
    # One savedir, two models: each has its own weights.
    second = load("hf:owner/second", trust=True, **options).estimate(mixture)
    assert not torch.equal(first, second)
    with pytest.raises(InputError, match="hf:owner/third: cannot be fetched"):
        load("hf:owner/third", trust=True, **options)


@pytest.mark.parametrize("trust", [True, False])
def test_the_command_asks_for_trust(cache, tmp_path, trust):
    sf.write(tmp_path / "a.wav", 0.1 * np.random.default_rng(0).normal(size=4000), 8000)
    command = [ROOT / "recipes/separation/separate.py", "hf:owner/first", tmp_path / "a.wav"]
    command += ["--output_folder", tmp_path / "out", *(["--trust"] if trust else [])]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(cache)}
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == (0 if trust else 2), done.stderr
    assert (tmp_path / "out" / "a_s2.wav").exists() == trust
    assert (tmp_path / "ran").exists() == trust
    assert trust or done.stderr.strip().endswith("(in Python trust=True)")
