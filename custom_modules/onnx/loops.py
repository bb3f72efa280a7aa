"""Functions that our graphs carry along: loops of ONNX, in memory that does not grow."""

from collections.abc import Iterable
from typing import Any

OPSET = 17
#: Of the functions.
DOMAIN = "polsess"
#: Steps of the scan that one turn of its loop unrolls: a turn costs as much as several.
_STEPS = 8
#: Floats of all states that a turn holds, for a CPU's second-level cache.
_TILE = 1 << 18
#: Floats of all scores that attention holds at a time.
_SCORES = 1 << 22


def functions(names: Iterable[str]) -> list[Any]:
    """The functions of these names, as ONNX has them.

    ``SelectiveScan``: ``y[t] = C[t] · h[t]`` with ``h[t] = exp(delta[t] A) h[t-1] + delta[t]
    u[t] B[t]``, shapes as for :func:`custom_modules.selective_scan.selective_scan`; a few
    sequences and steps at a time. ``Attention``: of queries ``[batch, heads, frames,
    channels]``, keys and values; a few items at a time.
    """
    import onnx.parser

    return [onnx.parser.parse_function(_TEXTS[name]) for name in sorted(names)]


def _tiles(x: str, floats: str) -> str:
    """How many items of ``x`` make a tile, of so many ``floats`` each, and what fills the last."""
    return f"""
  zero = Constant <value_ints = [0]> ()
  one = Constant <value_ints = [1]> ()
  batch = Shape <start = 0, end = 1> ({x})
  fit = Div (budget, {floats})
  most = Max (fit, one)
  most_less = Sub (most, one)
  batch_more = Add (batch, most_less)
  tiles = Div (batch_more, most)
  tiles_less = Sub (tiles, one)
  batch_rounded = Add (batch, tiles_less)
  sequences = Div (batch_rounded, tiles)
  filled = Mul (tiles, sequences)
  extra = Sub (filled, batch)
"""


def _unrolled() -> str:
    lines = []
    for i in range(_STEPS):
        before = f"h{i}" if i else "before"
        lines += [f"kept{i} = Mul (decay{i}, {before})", f"h{i + 1} = Add (kept{i}, drive{i})"]
    return "\n".join(lines)


def _numbered(name: str, first: int = 0) -> str:
    return ", ".join(f"{name}{i}" for i in range(first, first + _STEPS))


def _cut(name: str) -> str:
    """``[batch, channels, time]`` → ``[tiles, chunks, steps, sequences, channels]``."""
    return f"""
  {name}_whole = Pad ({name}, pads)
  {name}_channels = Shape <start = 1, end = 2> ({name})
  {name}_shape = Concat <axis = 0> (tiles, sequences, {name}_channels, chunks, steps)
  {name}_cut = Reshape ({name}_whole, {name}_shape)
  {name}_tiles = Transpose <perm = [0, 3, 4, 1, 2]> ({name}_cut)
"""


_INNER = f"""chunk (float[S, N, D] before0, float[K, S, D] u_c, float[K, S, D] delta_c,
    float[K, S, N] B_c, float[K, S, N] C_c) => (float[S, N, D] after, float[K, S, D] y_c) {{
  before = Identity (before0)
  delta_row = Unsqueeze (delta_c, two)
  exponent = Mul (delta_row, rates)
  decay = Exp (exponent)
  driven = Mul (delta_c, u_c)
  driven_row = Unsqueeze (driven, two)
  B_column = Unsqueeze (B_c, three)
  drive = Mul (driven_row, B_column)
  {_numbered("decay")} = Split <axis = 0> (decay)
  {_numbered("drive")} = Split <axis = 0> (drive)
  {_unrolled()}
  states = Concat <axis = 0> ({_numbered("h", 1)})
  C_row = Unsqueeze (C_c, two)
  y_row = MatMul (C_row, states)
  y_c = Squeeze (y_row, two)
  after = Squeeze (h{_STEPS}, zero)
}}"""

_OUTER = f"""tile (float[M, K, S, D] u_t, float[M, K, S, D] delta_t, float[M, K, S, N] B_t,
    float[M, K, S, N] C_t) => (float[M, K, S, D] y_t) {{
  last, y_t = Scan <num_scan_inputs = 4, body = {_INNER}> (silence, u_t, delta_t, B_t, C_t)
}}"""

_SCAN = f"""<opset_import: ["" : {OPSET}], domain: "{DOMAIN}">
SelectiveScan (u, delta, A, B, C) => (y)
{{
  two = Constant <value_ints = [2]> ()
  three = Constant <value_ints = [3]> ()
  steps = Constant <value_ints = [{_STEPS}]> ()
  budget = Constant <value_ints = [{_TILE // _STEPS}]> ()
  channels = Shape <start = 1, end = 2> (u)
  time = Shape <start = 2, end = 3> (u)
  count = Shape <start = 1, end = 2> (B)
  floats = Mul (channels, count)
  {_tiles("u", "floats")}
  steps_less = Sub (steps, one)
  time_more = Add (time, steps_less)
  chunks = Div (time_more, steps)
  whole = Mul (chunks, steps)
  rest = Sub (whole, time)
  pads = Concat <axis = 0> (zero, zero, zero, extra, zero, rest)
  {_cut("u")} {_cut("delta")} {_cut("B")} {_cut("C")}
  rates = Transpose <perm = [1, 0]> (A)
  state_shape = Concat <axis = 0> (sequences, count, channels)
  silence = ConstantOfShape (state_shape)
  y_tiles = Scan <num_scan_inputs = 4, body = {_OUTER}> (u_tiles, delta_tiles, B_tiles, C_tiles)
  y_cut = Transpose <perm = [0, 3, 4, 1, 2]> (y_tiles)
  y_shape = Concat <axis = 0> (filled, channels, whole)
  y_whole = Reshape (y_cut, y_shape)
  ends = Concat <axis = 0> (batch, time)
  begins = Concat <axis = 0> (zero, zero)
  axes = Concat <axis = 0> (zero, two)
  y = Slice (y_whole, begins, ends, axes)
}}"""


def _cut_items(name: str) -> str:
    """``[batch, …]`` → ``[tiles, sequences, …]``."""
    return f"""
  {name}_whole = Pad ({name}, pads)
  {name}_rest = Shape <start = 1> ({name})
  {name}_shape = Concat <axis = 0> (tiles, sequences, {name}_rest)
  {name}_tiles = Reshape ({name}_whole, {name}_shape)
"""


_ATTEND = """tile (float[S, H, T, C] q_t, float[S, H, U, C] k_t, float[S, H, U, E] v_t)
    => (float[S, H, T, E] y_t) {
  q_scaled = Mul (q_t, scale)
  k_turned = Transpose <perm = [0, 1, 3, 2]> (k_t)
  scores = MatMul (q_scaled, k_turned)
  weights = Softmax <axis = -1> (scores)
  y_t = MatMul (weights, v_t)
}"""

_ATTENTION = f"""<opset_import: ["" : {OPSET}], domain: "{DOMAIN}">
Attention (q, k, v) => (y)
{{
  budget = Constant <value_ints = [{_SCORES}]> ()
  rows = Shape <start = 1, end = 3> (q)
  columns = Shape <start = 2, end = 3> (k)
  sizes = Concat <axis = 0> (rows, columns)
  scored = ReduceProd <axes = [0]> (sizes)
  {_tiles("q", "scored")}
  pads = Concat <axis = 0> (zero, zero, zero, zero, extra, zero, zero, zero)
  {_cut_items("q")} {_cut_items("k")} {_cut_items("v")}
  channels = Shape <start = 3, end = 4> (q)
  channels_float = Cast <to = 1> (channels)
  root = Sqrt (channels_float)
  scale = Reciprocal (root)
  y_tiles = Scan <num_scan_inputs = 3, body = {_ATTEND}> (q_tiles, k_tiles, v_tiles)
  y_rest = Shape <start = 2> (y_tiles)
  y_shape = Concat <axis = 0> (filled, y_rest)
  y_whole = Reshape (y_tiles, y_shape)
  y = Slice (y_whole, zero, batch, zero)
}}"""

_TEXTS = {"SelectiveScan": _SCAN, "Attention": _ATTENTION}
