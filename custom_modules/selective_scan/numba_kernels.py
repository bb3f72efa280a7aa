"""The kernels of :mod:`.compiled`, which Numba compiles for the CPU at hand.

A kernel takes a sequence and a block of channels at a time: their state stays in the
first-level cache while it walks through time. Backwards it computes the states of a
chunk again, and walks back over them. What inner loops write to lies on the stack:
only there LLVM knows that nothing overlaps, which it must to use vector instructions.
All is in this one file: Numba's cache notices changes in the file of a kernel alone.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

#: Floats of a state ``[state, channels]``, of an even number of rows; 16 KiB.
STATE_FLOATS = 4096
#: Channels at a time: what a step makes of them lies on the stack, too.
MAX_WIDTH = 256

Array = np.ndarray
_f32, _i32 = np.float32, np.int32
_ZERO, _ONE, _TWO = _f32(0), _f32(1), _f32(2)
_LN2, _LOG2E = _f32(np.log(2)), _f32(1 / np.log(2))
#: Of the polynomial 1 + t * C1 + t**2 * C2 … that comes nearest to 2**t for t from
#: -1/2 to 1/2: 1.1e-7 off at most (minimax; Taylor's series takes one power more).
_C1, _C2, _C3, _C4, _C5 = map(_f32, (0.69314698, 0.24022242, 0.05550734, 0.00967151, 0.00132647))
#: Adding it to a float leaves the nearest integer in the lowest bits.
_ROUND = _f32(1.5 * 2**23)
_LEAST, _GREATEST = _f32(-126), _f32(126)  # exponents of normal numbers


class Signal(NamedTuple):
    """A ``[batch, time, channels]`` tensor whose channels lie next to each other."""

    data: Array  # of one axis, from the tensor's first element on
    per_sequence: int  # elements from one sequence to the next
    per_step: int


class Scan(NamedTuple):
    """The arguments of a scan; parameters are float32 and contiguous."""

    u: Signal
    delta: Signal
    A: Array  # [state, dim], for powers of 2
    B: Signal
    C: Signal
    D: Array  # [dim]
    z: Signal
    bias: Array  # [dim]
    time: int
    softplus: bool
    gated: bool  # whether z counts
    chunk: int  # steps between kept states
    width: int  # channels in a block


def _compile(fastmath: set[str]) -> Callable:
    """``numba.njit`` with a cache on disk, wherever there is room for one."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    options["fastmath"] = fastmath

    def decorate(function: Callable) -> Callable:
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:  # no folder can be written to
            return numba.njit(**options)(function)

    return decorate


# Not reordered: _ROUND has to be added before it is subtracted.
_exact = _compile(fastmath={"contract"})
# For sums over channels, which else take one addition after the other.
_reordered = _compile(fastmath={"contract", "reassoc", "nsz"})


@intrinsic(prefer_literal=True)
def _on_stack(typing_context: Any, size: Any) -> Any:
    """A pointer to floats that live as long as the calling function."""

    def generate(context, builder, signature, arguments):
        array = ir.ArrayType(ir.FloatType(), size.literal_value)
        pointer = cgutils.alloca_once(builder, array)
        pointer.align = 64
        return builder.bitcast(pointer, ir.PointerType(ir.FloatType()))

    return types.CPointer(types.float32)(size), generate


@intrinsic
def _uncounted(typing_context: Any, value: Any) -> Any:
    """An array, or a tuple that holds some, without its count of references.

    Counting is an atomic addition for each view, which took a third of the backward
    pass. The caller has to hold the arrays: what it makes itself, it must not drop.
    """

    def generate(context, builder, signature, arguments):
        return _uncount(context, builder, value, arguments[0])

    return value(value), generate


def _uncount(context, builder, kind, value):
    if isinstance(kind, types.BaseTuple):
        pairs = zip(kind.types, cgutils.unpack_tuple(builder, value), strict=True)
        parts = [_uncount(context, builder, *pair) for pair in pairs]
        return context.make_tuple(builder, kind, parts)
    if isinstance(kind, types.Array):
        array = context.make_array(kind)(context, builder, value=value)
        array.meminfo = cgutils.get_null_value(array.meminfo.type)
        return array._getvalue()
    return value


@_exact
def _exp2(x):
    """2 to the power of x, by a polynomial; at most 2**126, at least 2**-126."""
    x = min(max(x, _LEAST), _GREATEST)
    rounded = _f32(x + _ROUND)
    t = x - (rounded - _ROUND)  # at most a half
    tt = t * t
    power = _f32((_ONE + t * _C1) + tt * ((_C2 + t * _C3) + tt * (_C4 + t * _C5)))
    exponent = _i32(rounded.view(np.int32) << _i32(23))  # past the mantissa
    return _i32(power.view(np.int32) + exponent).view(np.float32)


@_exact
def _sigmoid(x):
    return _ONE / (_ONE + _exp2(-x * _LOG2E))


@_exact
def _softplus(x):
    """log(1 + e**x), to the last digits also where it is small."""
    # log(1 + w) = 2 artanh(s) with s = w / (2 + w), which is at most 1/3
    w = _exp2(-abs(x) * _LOG2E)
    s = w / (_TWO + w)
    q = s * s
    series = _f32(1 / 9) + q * (_f32(1 / 11) + q * _f32(1 / 13))
    series = _f32(1 / 5) + q * (_f32(1 / 7) + q * series)
    series = _ONE + q * (_f32(1 / 3) + q * series)
    return max(x, _ZERO) + _TWO * s * series


@_exact
def _row(signal, sequence, step, channel, width):
    """Some channels of a step."""
    # Sliced, since Numba looks at each index of its own for whether it is negative.
    start = sequence * signal.per_sequence + step * signal.per_step + channel
    return signal.data[start : start + width]


@_exact
def _copy(row, room):
    for j in range(len(room)):
        room[j] = row[j]


@_exact
def _add(row, sums):
    for j in range(len(sums)):
        sums[j] += row[j]


@_exact
def _clear(row):
    for j in range(len(row)):
        row[j] = _ZERO


@_exact
def _load_step(u, raw_delta, bias, softplus, delta, drive):
    """Size of a step, and what drives the states, ``[channels]`` each."""
    for j in range(len(delta)):
        size = raw_delta[j] + bias[j]
        delta[j] = _softplus(size) if softplus else size
        drive[j] = delta[j] * u[j]


@_exact
def scan_forward(
    scan: Scan, first: int, last: int, output: Array, last_state: Array, kept: Array
) -> None:
    """Scans the sequences from ``first`` to before ``last``.

    Fills in ``[batch, time, dim]``, ``[batch, state, dim]`` and, if there is room for
    any, the states before chunks, ``[chunks, batch, state, dim]``.
    """
    written: Any = _uncounted((output, last_state, kept))  # type: ignore[call-arg]
    scan = _uncounted(scan)  # type: ignore[call-arg]
    for sequence in range(first, last):
        for channel in range(0, scan.A.shape[1], scan.width):
            width = min(scan.width, scan.A.shape[1] - channel)
            _forward_block(scan, sequence, channel, width, *written)


@_exact
def _forward_block(scan, sequence, channel, width, output, last_state, kept):
    state = scan.A.shape[0]
    paired = state + state % 2
    A = numba.carray(_on_stack(STATE_FLOATS), (paired, width))
    h = numba.carray(_on_stack(STATE_FLOATS), (paired, width))
    delta = numba.carray(_on_stack(MAX_WIDTH), (width,))
    drive = numba.carray(_on_stack(MAX_WIDTH), (width,))
    y = numba.carray(_on_stack(MAX_WIDTH), (width,))
    block = slice(channel, channel + width)
    bias, D = scan.bias[block], scan.D[block]
    for n in range(paired):
        _clear(A[n])
        _clear(h[n])
        if n < state:
            _copy(scan.A[n, block], A[n])
    for step in range(scan.time):
        if len(kept) and step % scan.chunk == 0:
            for n in range(state):
                _copy(h[n], kept[step // scan.chunk, sequence, n, block])
        u = _row(scan.u, sequence, step, channel, width)
        raw_delta = _row(scan.delta, sequence, step, channel, width)
        _load_step(u, raw_delta, bias, scan.softplus, delta, drive)
        _clear(y)
        B = _row(scan.B, sequence, step, 0, state)
        C = _row(scan.C, sequence, step, 0, state)
        for n in range(0, state, 2):  # a pair loads and stores half as much
            b, c = B[n], C[n]
            b_next, c_next = (B[n + 1], C[n + 1]) if n + 1 < state else (_ZERO, _ZERO)
            for j in range(width):
                now = _exp2(delta[j] * A[n, j]) * h[n, j] + b * drive[j]
                after = _exp2(delta[j] * A[n + 1, j]) * h[n + 1, j] + b_next * drive[j]
                h[n, j], h[n + 1, j] = now, after
                y[j] = y[j] + c * now + c_next * after
        gate = _row(scan.z, sequence, step, channel, width)
        row = output[sequence, step, block]
        for j in range(width):
            value = y[j] + D[j] * u[j]
            row[j] = value * (gate[j] * _sigmoid(gate[j]) if scan.gated else _ONE)
    for n in range(state):
        _copy(h[n], last_state[sequence, n, block])


class GradientArrays(NamedTuple):
    """What the backward pass is given, and what it fills in."""

    output: Signal
    state: Array  # of the last, [batch, state, dim]; overwritten
    u: Array  # [batch, time, dim], as delta and z
    delta: Array
    z: Array
    B: Array  # [batch, time, state], zeros at first, as all below
    C: Array
    A: Array  # [state, dim]
    D: Array  # [dim]
    bias: Array  # [dim]


class Chunk(NamedTuple):
    """A chunk's steps of some channels, computed again."""

    delta: Array  # [steps, channels], as the next two
    drive: Array
    grad_y: Array
    decay: Array  # [steps, state, channels]
    states: Array  # [1 + steps, state, channels], from the one before


@_exact
def scan_backward(scan: Scan, first: int, last: int, kept: Array, grads: GradientArrays) -> None:
    """Gradients of the sequences from ``first`` to before ``last``."""
    state, dim = scan.A.shape
    for sequence in range(first, last):
        for channel in range(0, dim, scan.width):
            width = min(scan.width, dim - channel)
            rows = np.empty((3, scan.chunk, width), np.float32)
            decay = np.empty((scan.chunk, state, width), np.float32)
            states = np.empty((scan.chunk + 1, state, width), np.float32)
            part = Chunk(rows[0], rows[1], rows[2], decay, states)
            _backward_block(scan, sequence, channel, kept, part, grads)


@_exact
def _backward_block(scan, sequence, channel, kept, part, grads):
    """One sequence and some of its channels, from its last chunk to its first."""
    scan, kept, part, grads = _uncounted((scan, kept, part, grads))
    state, width = part.states.shape[1:]
    block = slice(channel, channel + width)
    for index in range(len(kept) - 1, -1, -1):
        start = index * scan.chunk
        steps = min(scan.chunk, scan.time - start)
        for n in range(state):
            _copy(kept[index, sequence, n, block], part.states[0, n])
        _run_again(scan, sequence, channel, start, steps, part, grads)
        _walk_back(scan, sequence, channel, start, steps, part, grads)


@_exact
def _run_again(scan, sequence, channel, start, steps, part, grads):
    """Fills in a chunk, and the gradients of what comes after the states."""
    state, width = part.states.shape[1:]
    y = numba.carray(_on_stack(MAX_WIDTH), (width,))
    block = slice(channel, channel + width)
    bias, D = scan.bias[block], scan.D[block]
    for i in range(steps):
        step = start + i
        delta, drive, grad_y = part.delta[i], part.drive[i], part.grad_y[i]
        u = _row(scan.u, sequence, step, channel, width)
        raw_delta = _row(scan.delta, sequence, step, channel, width)
        _load_step(u, raw_delta, bias, scan.softplus, delta, drive)
        B = _row(scan.B, sequence, step, 0, state)
        C = _row(scan.C, sequence, step, 0, state)
        _clear(y)
        for n in range(state):
            b, c = B[n], C[n]
            decay, A = part.decay[i, n], scan.A[n, block]
            before, now = part.states[i, n], part.states[i + 1, n]
            for j in range(width):
                decay[j] = _exp2(delta[j] * A[j])
            for j in range(width):
                now[j] = decay[j] * before[j] + b * drive[j]
                y[j] += c * now[j]
        grad = _row(grads.output, sequence, step, channel, width)
        if not scan.gated:
            _copy(grad, grad_y)
            continue
        gate = _row(scan.z, sequence, step, channel, width)
        grad_z = grads.z[sequence, step, block]
        for j in range(width):
            opened = _sigmoid(gate[j])
            slope = opened * (_ONE + gate[j] * (_ONE - opened))  # of SiLU
            grad_z[j] = grad[j] * (y[j] + D[j] * u[j]) * slope
            grad_y[j] = grad[j] * gate[j] * opened


@_reordered
def _walk_back(scan, sequence, channel, start, steps, part, grads):
    """From the last step of a chunk to its first."""
    state, width = part.states.shape[1:]
    A = numba.carray(_on_stack(STATE_FLOATS), (state, width))
    grad_A = numba.carray(_on_stack(STATE_FLOATS), (state, width))
    grad = numba.carray(_on_stack(STATE_FLOATS), (state, width))  # of the state
    grad_drive = numba.carray(_on_stack(MAX_WIDTH), (width,))
    grad_delta = numba.carray(_on_stack(MAX_WIDTH), (width,))
    grad_D = numba.carray(_on_stack(MAX_WIDTH), (width,))
    grad_bias = numba.carray(_on_stack(MAX_WIDTH), (width,))
    block = slice(channel, channel + width)
    bias, D = scan.bias[block], scan.D[block]
    _clear(grad_D)
    _clear(grad_bias)
    for n in range(state):
        _clear(grad_A[n])
        _copy(scan.A[n, block], A[n])
        _copy(grads.state[sequence, n, block], grad[n])
    for i in range(steps - 1, -1, -1):
        delta, drive, grad_y = part.delta[i], part.drive[i], part.grad_y[i]
        B = _row(scan.B, sequence, start + i, 0, state)
        C = _row(scan.C, sequence, start + i, 0, state)
        grad_B, grad_C = grads.B[sequence, start + i], grads.C[sequence, start + i]
        _clear(grad_drive)
        _clear(grad_delta)
        for n in range(state):
            b, c, decay = B[n], C[n], part.decay[i, n]
            grad_b = grad_c = _ZERO
            before, now = part.states[i, n], part.states[i + 1, n]
            for j in range(width):
                g = grad[n, j] + c * grad_y[j]
                grad_c += grad_y[j] * now[j]
                grad_b += drive[j] * g
                grad_drive[j] += b * g
                g *= decay[j]
                grad[n, j] = g
                g *= before[j]  # of the exponent, delta times A
                grad_A[n, j] += g * delta[j]
                grad_delta[j] += g * A[n, j]
            grad_B[n] += grad_b
            grad_C[n] += grad_c
        u = _row(scan.u, sequence, start + i, channel, width)
        raw_delta = _row(scan.delta, sequence, start + i, channel, width)
        for j in range(width):
            grad_delta[j] = grad_drive[j] * u[j] + grad_delta[j] * _LN2
            grad_drive[j] = grad_drive[j] * delta[j] + grad_y[j] * D[j]
            grad_D[j] += grad_y[j] * u[j]
        _copy(grad_drive, grads.u[sequence, start + i, block])
        if scan.softplus:
            for j in range(width):
                grad_delta[j] *= _sigmoid(raw_delta[j] + bias[j])
        _copy(grad_delta, grads.delta[sequence, start + i, block])
        _add(grad_delta, grad_bias)
    for n in range(state):
        _copy(grad[n], grads.state[sequence, n, block])
        _add(grad_A[n], grads.A[n, block])
    _add(grad_D, grads.D[block])
    _add(grad_bias, grads.bias[block])
