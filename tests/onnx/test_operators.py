"""Operators that ONNX lacks, beside PyTorch's."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from custom_modules.onnx.graphs import relative
from custom_modules.onnx.loops import DOMAIN, OPSET, functions
from custom_modules.onnx.operators import our_operators
from custom_modules.selective_scan.reference import reference_scan

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")


def run(model, inputs):
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]
    values = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
    return torch.from_numpy(session.run(None, values)[0])


def model_of(function, **axes):
    """A graph of one of our functions, of any sizes; ``axes`` of each argument."""
    given = [
        onnx.helper.make_tensor_value_info(name, 1, [f"{name}{axis}" for axis in range(count)])
        for name, count in axes.items()
    ]
    node = onnx.helper.make_node(function, list(axes), ["y"], domain=DOMAIN)
    rank = next(iter(axes.values()))
    result = onnx.helper.make_tensor_value_info("y", 1, [f"y{axis}" for axis in range(rank)])
    graph = onnx.helper.make_graph([node], function, given, [result])
    opsets = [onnx.helper.make_opsetid(d, v) for d, v in (("", OPSET), (DOMAIN, 1))]
    options = {"functions": functions([function]), "opset_imports": opsets, "ir_version": 8}
    return onnx.helper.make_model(graph, **options).SerializeToString()


# One step; whole turns of the loop and rests; more sequences than a tile holds
@pytest.mark.parametrize(
    "shape", [(1, 3, 1, 2), (2, 5, 16, 4), (3, 8, 100, 16), (1, 64, 333, 16), (70, 128, 18, 16)]
)
def test_the_scan_is_the_published_one(shape):
    torch.manual_seed(sum(shape))
    batch, dim, time, state = shape
    u, delta = torch.randn(batch, dim, time), torch.rand(batch, dim, time)
    A, B, C = -torch.rand(dim, state) * 3, *torch.randn(2, batch, state, time)
    model = model_of("SelectiveScan", u=3, delta=3, A=2, B=3, C=3)
    expected, _ = reference_scan(u, delta, A, B, C, None, None, None, False)
    assert relative(run(model, (u, delta, A, B, C)), expected) < 1e-5


# One item; many small ones; several tiles, of which the last is not full
@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 3, 5), (1, 4, 700, 8, 8), (5000, 4, 2, 8, 8), (37, 2, 300, 4, 6)]
)
def test_attention_is_pytorchs(shape):
    torch.manual_seed(sum(shape))
    batch, heads, time, channels, outputs = shape
    query, key = torch.randn(2, batch, heads, time, channels)
    value = torch.randn(batch, heads, time, outputs)
    found = run(model_of("Attention", q=4, k=4, v=4), (query, key, value))
    assert relative(found, F.scaled_dot_product_attention(query, key, value)) < 1e-5


class Pieces(nn.Module):
    """What depends on lengths, in a row."""

    def forward(self, x):
        pooled = F.adaptive_avg_pool1d(x, [x.shape[2] // 3 + 1])
        stretched = F.interpolate(pooled, x.shape[2] + 5)
        windows = stretched.unfold(2, 4, 3).flatten(2)
        normed = F.layer_norm(windows, windows.shape[1:], eps=1e-5)
        return F.group_norm(normed, 1, torch.ones(3), torch.zeros(3)).mT.unflatten(1, (-1, 2))


@pytest.mark.filterwarnings("ignore")  # of the trace's constants: lengths are what is tested
def test_pieces_follow_the_length(tmp_path):
    path, x = tmp_path / "pieces.onnx", torch.randn(2, 3, 40)
    axes = {"x": {0: "batch", 2: "time"}}
    with our_operators([]):
        torch.onnx.export(
            *(Pieces(), (x,), str(path)),
            dynamo=False,
            opset_version=OPSET,
            input_names=["x"],
            dynamic_axes=axes,
        )
    for time in (1, 2, 7, 40, 1000, 20_011):
        x = torch.randn(1, 3, time)
        assert relative(run(str(path), [x]), Pieces()(x)) < 1e-5, time


def test_what_is_no_number_differs_infinitely():
    expected = torch.ones(3)
    for found in (torch.tensor([1.0, float("nan"), 1.0]), torch.ones(4)):
        assert relative(found, expected) == float("inf")
