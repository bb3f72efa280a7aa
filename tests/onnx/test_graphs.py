"""Graphs of whole separators, beside the separators."""

import sys

import pytest
import torch
from torch import nn

from custom_modules.errors import InputError
from custom_modules.hparams import load_hparams
from custom_modules.onnx.graphs import TOLERANCE, difference, quantise, write_graph
from custom_modules.onnx.runtimes import OnnxSeparator
from tests.models.contract import HPARAMS, perturb
from tests.onnx.bands import RATE, Bands

pytest.importorskip("onnxruntime")
FACTS = {"model_name": "test", "sample_rate": RATE, "num_spks": 2}
#: SepReformer attends to all frames, of which there are a quarter as many then.
SHORTER = {"sepreformer": {"kernel_size": 128, "stride": 64}}
LENGTHS = ((1, 1), (3, 17), (1, 999), (1, 32_000), (1, 320_001))


def small(name):
    changes = {"data_folder": "corpus", "output_folder": "results"} | SHORTER.get(name, {})
    torch.manual_seed(1)
    separator = load_hparams(HPARAMS / f"small/{name}.yaml", changes)["separator"].eval()
    return perturb(separator, 0.02)


def check_architecture(name, folder):
    separator, path = small(name), folder / "model.onnx"
    assert write_graph(separator, path, FACTS, name) <= TOLERANCE
    assert difference(separator, path, name, LENGTHS) <= TOLERANCE


def test_a_graph_takes_any_length_and_batch(tmp_path):
    check_architecture("convtasnet", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.stem for path in HPARAMS.glob("small/*.yaml")))
def test_every_architecture_exports(name, tmp_path):
    check_architecture(name, tmp_path)


def test_eight_bits_stay_close(tmp_path):
    separator, path, target = small("dprnn"), tmp_path / "model.onnx", tmp_path / "int8.onnx"
    write_graph(separator, path, FACTS, "DPRNN")
    quantise(path, target)
    assert target.stat().st_size < 0.5 * path.stat().st_size
    mixture = 0.1 * torch.randn(1, 16_000)
    with torch.no_grad():
        exact = separator(mixture)
    error = OnnxSeparator(target)(mixture) - exact
    assert 10 * torch.log10(exact.square().sum() / error.square().sum()) > 20


class Branching(nn.Module):
    """Computes something else from a second on."""

    def forward(self, mixture):
        gain = 2.0 if mixture.shape[1] > RATE else 1.0
        return gain * torch.stack([mixture, mixture], dim=2)


class Unknown(nn.Module):
    """An operator that ONNX has not."""

    def forward(self, mixture):
        return torch.stack([torch.special.i0(mixture)] * 2, dim=2)


@pytest.mark.parametrize("model, reason", [(Branching(), "differs"), (Unknown(), "i0")])
def test_what_cannot_be_exported_says_so_and_leaves_nothing(model, reason, tmp_path):
    with pytest.raises(InputError, match=f"Mine: cannot be exported to ONNX .*{reason}") as caught:
        write_graph(model, tmp_path / "model.onnx", FACTS, "Mine")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_models_own_fault_keeps_its_traceback(tmp_path):
    class Broken(nn.Module):
        def forward(self, mixture):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_graph(Broken(), tmp_path / "model.onnx", FACTS, "Mine")


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_missing_package_is_one_line(package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=f"pip install .*{package}"):
        write_graph(Bands(), tmp_path / "model.onnx", FACTS, "Bands")


@pytest.mark.parametrize(
    "facts, reason",
    [({}, "no model_name"), ({**FACTS, "sample_rate": "often"}, "sample_rate=often")],
)
def test_a_graph_that_is_not_ours_is_refused(facts, reason, tmp_path):
    write_graph(Bands(), tmp_path / "model.onnx", facts, "Bands")
    with pytest.raises(InputError, match=reason):
        OnnxSeparator(tmp_path / "model.onnx")


def test_a_damaged_graph_is_one_line(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(InputError, match=r"model\.onnx: cannot be loaded"):
        OnnxSeparator(tmp_path / "model.onnx")
