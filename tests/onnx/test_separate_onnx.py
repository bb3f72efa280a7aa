"""Exported folders without PyTorch: the runtime, and the script that lies in them."""

import os
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch

from custom_modules.errors import InputError
from custom_modules.hub.card import CardFacts
from custom_modules.hub.folder import SCRIPT, write_folder
from custom_modules.hub.recipe import ModelRecipe
from custom_modules.inference import PolSESSSeparation
from custom_modules.onnx.graphs import relative, write_graph
from custom_modules.recordings.jobs import Recording, describe_settings
from custom_modules.recordings.streams import separate_recording
from custom_modules.recordings.work import load_model
from tests.longform.conversations import converse
from tests.models.contract import HPARAMS
from tests.onnx.bands import RATE, Bands

pytest.importorskip("onnxruntime")
ROOT = Path(__file__).parents[2]
#: What a machine has that has no more than the script needs.
ALONE = """
import importlib.abc, runpy, sys
class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocked())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
BLOCKED = {"torch", "torchaudio", "speechbrain", "scipy", "pandas", "custom_modules", "onnx"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder as ``export.py --onnx --quantize int8`` writes it."""
    torch.manual_seed(0)
    overrides = {"data_folder": "none", "N": 16, "num_layers": 2, "hidden_size": 8}
    recipe = ModelRecipe(str(HPARAMS / "dprnn.yaml"), {**overrides, "chunk_size": 20})
    path = tmp_path_factory.mktemp("exported") / "dprnn"
    facts = CardFacts({}, source="owner/dprnn")
    write_folder(path, recipe, recipe.make_separator(), facts, graphs=("onnx", "onnx-int8"))
    return path


@pytest.fixture(scope="module")
def bands(tmp_path_factory):
    """A folder whose model changes order and sign, and separates."""
    path = tmp_path_factory.mktemp("bands")
    facts = {"model_name": "bands", "sample_rate": RATE, "num_spks": 2}
    write_graph(Bands(), path / "model.onnx", facts, "Bands")
    (path / SCRIPT).write_bytes((ROOT / "custom_modules/onnx" / SCRIPT).read_bytes())
    return path


def talk(path, rate, subtype="PCM_16", seconds=100):
    """Turns and pauses of two voices, of which each chunk holds both bands."""
    mixture = converse(3, seconds, 6.0).sum(1).numpy()
    rng = np.random.default_rng(0)
    mixture += 0.05 * np.diff(rng.normal(size=len(mixture) + 1)) * (np.abs(mixture) > 0)
    sf.write(path, 0.5 * np.repeat(mixture, rate // RATE), rate, subtype)


def run_script(folder, *arguments, python=sys.executable, alone=True):
    blocking = ["-c", ALONE.format(blocked=BLOCKED)] if alone else []
    line = [python, *blocking, str(folder / SCRIPT), *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, cwd=folder)


def test_a_folder_holds_graphs_the_script_and_how_to_use_it(folder):
    assert {"model.onnx", "model_int8.onnx", SCRIPT} <= {p.name for p in folder.iterdir()}
    card = (folder / "README.md").read_text()
    assert f"python {SCRIPT} talk.wav" in card and "--graph model_int8.onnx" in card
    assert len((folder / SCRIPT).read_text().splitlines()) < 150


def test_a_graph_separates_like_the_model(folder):
    ours, graph, int8 = (
        load_model(str(folder), runtime=name, chunk_seconds=4.0)
        for name in ("torch", "onnx", "onnx-int8")
    )
    mixtures = 0.1 * torch.randn(2, 10 * RATE)
    expected = ours.separate_batch(mixtures)
    assert relative(graph.separate_batch(mixtures), expected) < 1e-4
    assert 1e-4 < relative(int8.separate_batch(mixtures), expected) < 0.3
    assert graph.hparams.model_name == ours.hparams.model_name
    # Reruns of separate.py must tell what each of them made.
    settings = {describe_settings(m, "mix", "mixture") for m in (ours, graph, int8)}
    assert len(settings) == 3


@pytest.mark.parametrize(
    "options, reason",
    [
        ({"run_opts": {"device": "cuda"}}, "cannot use device cuda"),
        ({"run_opts": {"precision": "bf16"}}, "cannot use precision bf16"),
        ({"runtime": "tvm"}, "runtime=tvm: is unknown"),
    ],
)
def test_what_a_graph_cannot_do_is_refused(folder, options, reason):
    with pytest.raises(InputError, match=reason):
        PolSESSSeparation.from_hparams(folder, **{"runtime": "onnx", **options})


def test_a_folder_without_a_graph_says_how_to_make_one(tmp_path):
    with pytest.raises(InputError, match=r"model_int8\.onnx: no such file; .*--quantize int8"):
        PolSESSSeparation.from_hparams(tmp_path, runtime="onnx-int8")


@pytest.mark.parametrize("rate, subtype", [(RATE, "PCM_16"), (16_000, "PCM_24"), (48_000, "FLOAT")])
def test_the_script_alone_separates_like_separate_py(bands, tmp_path, rate, subtype):
    path = tmp_path / "talk.wav"
    talk(path, rate, subtype)
    done = run_script(bands, path, "--output_folder", tmp_path / "alone")
    assert done.returncode == 0, done.stderr
    recording = Recording(path, tmp_path / "ours" / "talk")
    recording.stem.parent.mkdir()
    model = PolSESSSeparation.from_hparams(bands, runtime="onnx")
    separate_recording(model, path, recording.outputs(2))
    for output in recording.outputs(2):
        alone = tmp_path / "alone" / output.name
        assert sf.info(alone).subtype == sf.info(output).subtype == subtype
        found, expected = sf.read(alone)[0], sf.read(output)[0]
        assert len(found) == len(expected)
        assert np.corrcoef(found, expected)[0, 1] > 0.9999
    assert {p.suffix for p in (tmp_path / "alone").iterdir()} == {".wav"}


def test_the_script_takes_short_stereo_and_another_graph(folder, tmp_path):
    path = tmp_path / "short.flac"
    sf.write(path, np.random.default_rng(0).normal(0, 0.1, (500, 2)), 44_100)
    options = ("--graph", "model_int8.onnx", "--output_folder", tmp_path)
    done = run_script(folder, path, *options)
    assert done.returncode == 0, done.stderr
    assert sf.info(tmp_path / "short_s2.wav").frames == 500


def test_the_script_names_what_it_cannot_read(bands, tmp_path):
    (tmp_path / "talk.wav").write_text("no audio")
    done = run_script(bands, tmp_path / "talk.wav", "--output_folder", tmp_path)
    assert done.returncode == 1
    assert "talk.wav" in done.stderr and "Traceback" not in done.stderr


def test_the_script_loses_nothing_and_goes_on(bands, tmp_path):
    noise, out = np.random.default_rng(0).normal(0, 0.1, 9000), tmp_path / "out"
    signals = {"good": noise, "nan": np.r_[noise, np.nan, noise], "empty": noise[:0]}
    for name, signal in signals.items():
        sf.write(tmp_path / f"{name}.wav", signal, RATE, "FLOAT")
    (tmp_path / "text.wav").write_text("no audio")
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "again").mkdir()
    sf.write(tmp_path / "again/good.wav", noise, RATE)
    names = ("nan", "empty", "text", "pipe", "missing", "good", "again/good")
    recordings = [tmp_path / f"{name}.wav" for name in names]
    done = run_script(bands, *recordings, "--output_folder", out)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    told = [line.split(":")[1].strip() for line in done.stderr.splitlines()]
    assert told == [str(path) for path in recordings if path != tmp_path / "good.wav"]
    assert {path.name for path in out.iterdir()} == {"good_s1.wav", "good_s2.wav"}
    before = (out / "good_s1.wav").read_bytes()
    assert run_script(bands, tmp_path / "good.wav", "--output_folder", out).returncode == 1
    assert (out / "good_s1.wav").read_bytes() == before


@pytest.mark.parametrize(
    "option", ["--graph=none.onnx", "--chunk_seconds=0", "--chunk_seconds=nan"]
)
def test_the_script_refuses_what_cannot_be(bands, tmp_path, option):
    done = run_script(bands, tmp_path / "talk.wav", "--output_folder", tmp_path, option)
    assert done.returncode == 2
    assert option.split("=")[1] in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_clean_environment_separates(bands, tmp_path):
    venv.create(tmp_path / "venv", with_pip=True)
    python = str(tmp_path / "venv/bin/python")
    packages = ["onnxruntime", "soundfile", "numpy"]
    installed = subprocess.run([python, "-m", "pip", "install", "-q", *packages])
    if installed.returncode:
        pytest.skip("no package index")
    talk(tmp_path / "talk.wav", 16_000, seconds=40)
    options = (tmp_path / "talk.wav", "--output_folder", tmp_path)
    assert run_script(bands, *options, python=python, alone=False).returncode == 0
    clean = [sf.read(tmp_path / f"talk_s{i}.wav")[0] for i in (1, 2)]
    options = (tmp_path / "talk.wav", "--output_folder", tmp_path / "here")
    assert run_script(bands, *options).returncode == 0
    for number, expected in enumerate(clean, 1):
        found = sf.read(tmp_path / "here" / f"talk_s{number}.wav")[0]
        assert np.corrcoef(found, expected)[0, 1] > 0.9999
