"""From a trained separator to a graph of ONNX, which is compared with it before it is kept.

Start reading at :func:`write_graph`.
"""

import copy
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import inf, isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from custom_modules.errors import InputError
from custom_modules.files import atomic_path
from custom_modules.onnx.loops import DOMAIN, OPSET, functions
from custom_modules.onnx.operators import our_operators
from custom_modules.onnx.rewriting import find_scans, rewrite
from custom_modules.onnx.runtimes import open_session

#: The most that a graph may differ, as a share of the largest sample.
TOLERANCE = 1e-4
#: ``(batch, samples)`` that it is compared on: none is what it was traced with.
_COMPARED = ((1, 1), (2, 999), (1, 32_000))
_TRACED = 8003
_AXES = {0: "batch", 1: "time"}


def write_graph(
    separator: nn.Module, path: str | Path, facts: Mapping[str, object], name: str
) -> float:
    """Writes a graph for any batch and length that returns what the separator does.

    ``facts`` go along as text; ``name`` is the architecture's. Returns the largest relative
    difference. Raises InputError, and writes nothing, where an operator has no counterpart,
    or the graph computes something else.
    """
    onnx = import_onnx()
    separator = copy.deepcopy(separator).cpu().eval()
    with atomic_path(path) as partial:
        with _explained(name):
            _trace(separator, partial)
        graph = onnx.load(str(partial))
        called = {node.op_type for node in graph.graph.node if node.domain == DOMAIN}
        graph.functions.extend(functions(called))
        onnx.helper.set_model_props(graph, {key: str(value) for key, value in facts.items()})
        onnx.save(graph, str(partial))
        worst = difference(separator, partial, name)
        if not worst <= TOLERANCE:
            raise InputError(
                f"{name}: cannot be exported to ONNX (the graph differs from it by {worst:.1e})"
            )
    return worst


def import_onnx() -> Any:
    """The package, whose absence is one line."""
    try:
        import onnx
    except ImportError:
        message = (
            "--onnx needs the packages onnx and onnxruntime; run `pip install onnx onnxruntime`"
        )
        raise InputError(message) from None
    return onnx


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """What has no counterpart in ONNX, in one line; a fault of the model's stays one."""
    from torch.onnx.errors import SymbolicValueError, UnsupportedOperatorError

    try:
        yield
    except (UnsupportedOperatorError, SymbolicValueError) as error:
        reason = " ".join(str(error).split()).split(". ")[0][:200]
        raise InputError(f"{name}: cannot be exported to ONNX ({reason})") from error


def _trace(separator: nn.Module, path: Path) -> None:
    """By TorchScript's exporter: torch.export would ask for one branch for all lengths."""
    separator = rewrite(copy.deepcopy(separator))
    scans = find_scans(separator)
    mixture = 0.1 * torch.randn(1, _TRACED, generator=torch.Generator().manual_seed(0))
    is_fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one operator, which ONNX does not know
    try:
        with our_operators(scans), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of constants, which the comparison would find
            torch.onnx.export(
                separator,
                (mixture,),
                str(path),
                dynamo=False,
                opset_version=OPSET,
                input_names=["mixture"],
                output_names=["sources"],
                dynamic_axes={"mixture": _AXES, "sources": _AXES},
            )
    finally:
        torch.backends.mha.set_fastpath_enabled(is_fast)


def difference(
    separator: nn.Module,
    path: str | Path,
    name: str,
    compared: tuple[tuple[int, int], ...] = _COMPARED,
) -> float:
    """The largest relative difference of a graph from its separator, on noise."""
    session = open_session(path, torch.get_num_threads())
    generator, worst = torch.Generator().manual_seed(1), 0.0
    for shape in compared:
        mixture = 0.1 * torch.randn(*shape, generator=generator)
        with torch.no_grad():
            expected = separator(mixture)
        worst = max(worst, relative(_run(session, mixture, name), expected))
    return worst


def _run(session: Any, mixture: Tensor, name: str) -> Tensor:
    try:
        return torch.from_numpy(session.run(None, {"mixture": mixture.numpy()})[0])
    except Exception as error:  # onnxruntime has a dozen classes
        reason = " ".join(str(error).split())[-160:]
        shape = list(mixture.shape)
        raise InputError(f"{name}: its ONNX graph does not run on {shape} ({reason})") from error


def relative(found: Tensor, expected: Tensor) -> float:
    """The largest difference, as a share of the largest sample; inf of another shape, or NaN."""
    if found.shape != expected.shape:
        return inf
    share = float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-12))
    return share if isfinite(share) else inf


def quantise(path: str | Path, target: str | Path) -> None:
    """Writes a graph with weights of eight bits.

    Matrix products and LSTMs also compute in eight bits, at a scale that each input gets
    when it comes (dynamic quantisation); convolutions, which onnxruntime has no fast
    kernel for, compute in float32.
    """
    onnx = import_onnx()
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with atomic_path(target) as partial:
        root = logging.getLogger()
        level = root.level
        root.setLevel(logging.ERROR)  # it recommends what changes nothing here
        try:
            quantize_dynamic(
                str(path),
                str(partial),
                op_types_to_quantize=["MatMul", "Gemm", "LSTM"],
                weight_type=QuantType.QInt8,
                extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
            )
        finally:
            root.setLevel(level)
        graph = onnx.load(str(partial))
        _store_in_bytes(graph)
        onnx.save(graph, str(partial))


def _store_in_bytes(model: Any) -> None:
    """Weights of convolutions as int8, with a scale for each of the first axis."""
    import numpy as np
    import onnx

    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    convolutions = {n.input[1] for n in graph.node if n.op_type in ("Conv", "ConvTranspose")}
    for name in sorted(convolutions & weights.keys()):
        values = onnx.numpy_helper.to_array(weights[name])
        if values.size < 1024:  # would grow
            continue
        scales = np.abs(values).reshape(len(values), -1).max(1) / 127
        scales = np.where(scales > 0, scales, 1).astype("float32")
        codes = np.round(values / scales.reshape(-1, *[1] * (values.ndim - 1))).astype("int8")
        parts = [(f"{name}_codes", codes), (f"{name}_scales", scales)]
        graph.initializer.remove(weights[name])
        graph.initializer.extend(onnx.numpy_helper.from_array(v, n) for n, v in parts)
        inputs = [n for n, _ in parts]
        graph.node.insert(0, onnx.helper.make_node("DequantizeLinear", inputs, [name], axis=0))
