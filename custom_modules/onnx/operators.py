"""What torch.onnx cannot write, or only for one length, in operators of ONNX."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.onnx import register_custom_op_symbolic, symbolic_helper, unregister_custom_op_symbolic

from custom_modules.onnx.loops import DOMAIN, OPSET


def _constant(g: Any, value: Any) -> Any:
    return g.op("Constant", value_t=torch.as_tensor(value))


def _size(g: Any, x: Any, axis: int) -> Any:
    """Of an axis, ``[1]``."""
    return g.op("Shape", x, start_i=axis, end_i=axis + 1)


def _count(g: Any, size: Any) -> Any:
    """0, 1, 2, … up to a size ``[1]``."""
    limit = g.op("Squeeze", size, _constant(g, [0]))
    return g.op("Range", _constant(g, 0), limit, _constant(g, 1))


def _rank(x: Any) -> int:
    rank = symbolic_helper._get_tensor_rank(x)
    assert rank is not None, x
    return rank


def _float(g: Any, x: Any) -> Any:
    return g.op("Cast", x, to_i=1)


def _one(g: Any, sizes: Any) -> Any:
    """The only size of a list, ``[1]``."""
    if sizes.node().kind() == "prim::ListConstruct":
        (size,) = sizes.node().inputs()
        return g.op("Reshape", size, _constant(g, [1]))
    return g.op("Reshape", sizes, _constant(g, [1]))


def _scan(g: Any, u: Any, delta: Any, A: Any, B: Any, C: Any, *others: Any) -> Any:
    D, z, delta_bias, softplus, _, _ = others
    last = _constant(g, [0])  # as the next, of no use to a separator

    def column(x: Any) -> Any:
        return g.op("Unsqueeze", x, _constant(g, [1]))

    if not symbolic_helper._is_none(delta_bias):
        delta = g.op("Add", delta, column(delta_bias))
    if symbolic_helper._maybe_get_const(softplus, "b"):
        delta = g.op("Softplus", delta)
    y = g.op(f"{DOMAIN}::SelectiveScan", u, delta, A, B, C)
    if not symbolic_helper._is_none(D):
        y = g.op("Add", y, g.op("Mul", u, column(D)))
    if not symbolic_helper._is_none(z):
        y = g.op("Mul", y, g.op("Mul", z, g.op("Sigmoid", z)))
    y.setType(u.type().with_sizes([None] * 3))
    return y, last, last


def _attention(
    g: Any, query: Any, key: Any, value: Any, mask: Any, dropout: Any, causal: Any, *others: Any
) -> Any:
    """Without a mask a few items at a time: PyTorch's own holds no scores either."""
    if symbolic_helper._get_const(causal, "b", "is_causal"):
        raise NotImplementedError("causal attention")
    if symbolic_helper._is_none(mask):
        y = g.op(f"{DOMAIN}::Attention", query, key, value)
        y.setType(query.type().with_sizes([None] * 4))
        return y
    root = g.op("Sqrt", _float(g, _size(g, query, 3)))
    scores = g.op("MatMul", g.op("Div", query, root), g.op("Transpose", key, perm_i=[0, 1, 3, 2]))
    weights = g.op("Softmax", g.op("Add", scores, mask), axis_i=-1)
    return g.op("MatMul", weights, value)


def _transpose_last(g: Any, x: Any) -> Any:
    rank = _rank(x)
    return g.op("Transpose", x, perm_i=[*range(rank - 2), rank - 1, rank - 2])


def _unflatten(g: Any, x: Any, axis: Any, sizes: Any) -> Any:
    """PyTorch's own keeps the sizes that it was traced with."""
    rank = _rank(x)
    axis = symbolic_helper._get_const(axis, "i", "dim") % rank
    parts = [g.op("Shape", x, start_i=0, end_i=axis)] if axis else []
    if sizes.node().kind() == "prim::ListConstruct":
        given = list(sizes.node().inputs())
        parts += [g.op("Reshape", size, _constant(g, [1])) for size in given]
    else:
        given = symbolic_helper._get_const(sizes, "is", "sizes")
        parts.append(_constant(g, given))
    parts += [g.op("Shape", x, start_i=axis + 1)] if axis < rank - 1 else []
    y = g.op("Reshape", x, g.op("Concat", *parts, axis_i=0))
    y.setType(x.type().with_sizes([None] * (rank - 1 + len(given))))
    return y


def _unfold(g: Any, x: Any, axis: Any, size: Any, step: Any) -> Any:
    axis, size, step = (symbolic_helper._get_const(v, "i", "unfold") for v in (axis, size, step))
    rank = _rank(x)
    axis %= rank
    last = g.op("Sub", _size(g, x, axis), _constant(g, [size]))
    count = g.op("Add", g.op("Div", last, _constant(g, [step])), _constant(g, [1]))
    begins = g.op("Mul", _count(g, count), _constant(g, step))
    begins = g.op("Unsqueeze", begins, _constant(g, [1]))
    windows = g.op("Gather", x, g.op("Add", begins, _constant(g, list(range(size)))), axis_i=axis)
    order = [*range(axis + 1), *range(axis + 2, rank + 1), axis + 1]
    return g.op("Transpose", windows, perm_i=order)


def _adaptive_avg_pool(g: Any, x: Any, sizes: Any) -> Any:
    """Means of windows that may overlap by one, as PyTorch places them."""
    time, size = _size(g, x, 2), _one(g, sizes)
    numbers, one = _count(g, size), _constant(g, [1])
    begins = g.op("Div", g.op("Mul", numbers, time), size)
    ends = g.op("Mul", g.op("Add", numbers, one), time)
    ends = g.op("Div", g.op("Add", ends, g.op("Sub", size, one)), size)
    widths = g.op("Sub", ends, begins)
    widest = _count(g, g.op("ReduceMax", widths, axes_i=[0]))
    begins, ends = (g.op("Unsqueeze", v, one) for v in (begins, ends))
    places = g.op("Add", begins, widest)
    inside = _float(g, g.op("Less", places, ends))
    places = g.op("Min", places, g.op("Sub", time, one))
    windows = g.op("Mul", g.op("Gather", x, places, axis_i=2), inside)
    totals = g.op("ReduceSum", windows, _constant(g, [3]), keepdims_i=0)
    return g.op("Div", totals, _float(g, widths))


def _nearest(g: Any, x: Any, sizes: Any, *_: Any) -> Any:
    """Rounds as PyTorch does, in float32: Resize may be one frame off."""
    time, size = _size(g, x, 2), _one(g, sizes)
    scale = g.op("Div", _float(g, time), _float(g, size))
    places = g.op("Floor", g.op("Mul", _float(g, _count(g, size)), scale))
    last = g.op("Sub", time, _constant(g, [1]))
    return g.op("Gather", x, g.op("Min", g.op("Cast", places, to_i=7), last), axis_i=2)


def _normalise(g: Any, x: Any, axes: Sequence[int], eps: float) -> Any:
    """Axis by axis: float32 could not add up millions of samples at once."""

    def mean(x: Any) -> Any:
        for axis in axes:
            x = g.op("ReduceMean", x, axes_i=[axis])
        return x

    centred = g.op("Sub", x, mean(x))
    variance = mean(g.op("Mul", centred, centred))
    deviation = g.op("Sqrt", g.op("Add", variance, _constant(g, eps)))
    return g.op("Div", centred, deviation)


def _layer_norm(g: Any, x: Any, shape: Any, weight: Any, bias: Any, eps: Any, *_: Any) -> Any:
    sizes = symbolic_helper._unpack_list(shape) if symbolic_helper._is_packed_list(shape) else None
    count = (
        len(sizes) if sizes is not None else len(symbolic_helper._get_const(shape, "is", "shape"))
    )
    normed = _normalise(
        g, x, range(-1, -count - 1, -1), symbolic_helper._get_const(eps, "f", "eps")
    )
    normed = normed if symbolic_helper._is_none(weight) else g.op("Mul", normed, weight)
    return normed if symbolic_helper._is_none(bias) else g.op("Add", normed, bias)


def _rms_norm(g: Any, x: Any, shape: Any, weight: Any, eps: Any) -> Any:
    """Over the last axis."""
    power = g.op("ReduceMean", g.op("Mul", x, x), axes_i=[-1])
    power = g.op("Add", power, _constant(g, symbolic_helper._get_const(eps, "f", "eps")))
    return g.op("Mul", g.op("Div", x, g.op("Sqrt", power)), weight)


def _group_norm(g: Any, x: Any, groups: Any, weight: Any, bias: Any, eps: Any, *_: Any) -> Any:
    if symbolic_helper._get_const(groups, "i", "num_groups") != 1:
        raise NotImplementedError("group norms of more than one group")
    rank = _rank(x)
    normed = _normalise(g, x, range(-1, -rank, -1), symbolic_helper._get_const(eps, "f", "eps"))
    trailing = _constant(g, list(range(1, rank - 1)))
    weight, bias = (g.op("Unsqueeze", v, trailing) for v in (weight, bias))
    return g.op("Add", g.op("Mul", normed, weight), bias)


_SYMBOLICS: dict[str, Callable[..., Any]] = {
    "aten::scaled_dot_product_attention": _attention,
    "aten::mT": _transpose_last,
    "aten::unflatten": _unflatten,
    "aten::unfold": _unfold,
    "aten::adaptive_avg_pool1d": _adaptive_avg_pool,
    "aten::upsample_nearest1d": _nearest,
    "aten::layer_norm": _layer_norm,
    "aten::rms_norm": _rms_norm,
    "aten::group_norm": _group_norm,
}


@contextmanager
def our_operators(namespaces: Sequence[str]) -> Iterator[None]:
    """Teaches torch.onnx for a while; the scan is an operator of each namespace."""
    scans = {f"{name}::selective_scan": _scan for name in namespaces}
    registered = []
    try:
        for name, function in itertools.chain(_SYMBOLICS.items(), scans.items()):
            register_custom_op_symbolic(name, function, OPSET)
            registered.append(name)
        yield
    finally:
        for name in registered:
            unregister_custom_op_symbolic(name, OPSET)
