"""The selective scan in two Triton kernels: the ``triton`` backend, for CUDA.

A program scans some channels of one sequence. Its state, ``[state, channels]``, stays
in registers while it walks through time. The states before each chunk are kept;
backwards, a program computes those of one chunk again into a scratch of its own, and
walks back over them. What several programs add to (the gradients of A, B, C, D and the
bias of delta) each of them writes to a place of its own, and PyTorch sums: results do
not depend on chance.

Loops over chunks are ``while`` loops, since a ``for`` with a bound that is known at
run time only fails in Triton's interpreter.
Import it only where Triton is installed.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from custom_modules.selective_scan import operator
from custom_modules.selective_scan.operator import Arguments, Gradients, Outputs

CHUNK = 16  # steps between the states that are kept
#: States and channels of a program; more do not fit in its registers.
_PROGRAM_SIZE = 512
_LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def _softplus(x):
    # log(1 + y) loses the digits of a small y; times y / ((1 + y) - 1) they return.
    y = tl.exp(tl.minimum(x, 20.0))
    w = 1.0 + y
    small = w == 1.0
    log1p = tl.where(small, y, tl.log(w) * (y / tl.where(small, 1.0, w - 1.0)))
    return tl.where(x > 20.0, x, log1p)


@triton.jit
def _row(signal, sequence, t, columns, mask):
    """Loads one row of a signal: a pointer, its stride of batch and that of time."""
    row = signal[0] + sequence * signal[1] + t * signal[2]
    return tl.load(row + columns, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _step(u, delta, B, bias_row, sequence, t, d, n, in_d, in_n, SOFTPLUS: tl.constexpr):
    """Input, size before and after softplus, and B of one step."""
    x = _row(u, sequence, t, d, in_d)
    raw = _row(delta, sequence, t, d, in_d) + bias_row
    size = _softplus(raw) if SOFTPLUS else raw
    # A step beyond the end has size 0: it changes no state.
    return x, raw, tl.where(in_d, size, 0.0), _row(B, sequence, t, n, in_n)


@triton.jit
def _optional_row(start, columns, mask, PRESENT: tl.constexpr, SIZE: tl.constexpr):
    """A row of a parameter, or zeros."""
    row = tl.zeros((SIZE,), tl.float32)
    if PRESENT:
        row = tl.load(start + columns, mask=mask, other=0.0)
    return row


@triton.jit
def _scan_forward(
    u, delta, A, B, C, D, z, bias,
    output, last_state, kept,
    time, dim, state, batch,
    u_b, u_t, delta_b, delta_t, B_b, B_t, C_b, C_t, z_b, z_t,
    HAS_D: tl.constexpr, HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr,
    SOFTPLUS: tl.constexpr, KEEP: tl.constexpr, CHUNK: tl.constexpr,
    STATES: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Output, last state and the states before chunks."""
    u, delta = (u, u_b, u_t), (delta, delta_b, delta_t)
    B, C, z = (B, B_b, B_t), (C, C_b, C_t), (z, z_b, z_t)
    sequence = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    n = tl.arange(0, STATES)
    in_d, in_n = d < dim, n < state
    grid = n[:, None] * dim + d[None, :]
    in_grid = in_n[:, None] & in_d[None, :]
    exponent = tl.load(A + grid, mask=in_grid, other=0.0) * _LOG2E
    bias_row = _optional_row(bias, d, in_d, HAS_BIAS, CHANNELS)
    skip = _optional_row(D, d, in_d, HAS_D, CHANNELS)
    h = tl.zeros((STATES, CHANNELS), tl.float32)
    chunk = 0
    while chunk * CHUNK < time:
        if KEEP:
            tl.store(kept + (chunk * batch + sequence) * state * dim + grid, h, in_grid)
        for i in range(CHUNK):
            t = chunk * CHUNK + i
            now, now_n = in_d & (t < time), in_n & (t < time)
            x, _, step, b = _step(u, delta, B, bias_row, sequence, t, d, n, now, now_n, SOFTPLUS)
            c = _row(C, sequence, t, n, now_n)
            decay = tl.exp2(step[None, :] * exponent)
            h = decay * h + b[:, None] * (step * x)[None, :]
            y = tl.sum(h * c[:, None], 0) + x * skip
            if HAS_Z:
                gate = _row(z, sequence, t, d, now)
                y *= gate * tl.sigmoid(gate)
            tl.store(output + (sequence * time + t) * dim + d, y, now)
        chunk += 1
    tl.store(last_state + sequence * state * dim + grid, h, in_grid)


@triton.jit
def _scan_backward(
    grad_output, grad_last_state, kept,
    u, delta, A, B, C, D, z, bias, scratch,
    grad_u, grad_delta, grad_z, grad_A, grad_B, grad_C, grad_D, grad_bias,
    time, dim, state, batch,
    out_b, out_t, u_b, u_t, delta_b, delta_t, B_b, B_t, C_b, C_t, z_b, z_t,
    HAS_D: tl.constexpr, HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr,
    SOFTPLUS: tl.constexpr, CHUNK: tl.constexpr,
    STATES: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """All gradients; those of A, B, C, D and bias still to be summed."""
    u, delta, B = (u, u_b, u_t), (delta, delta_b, delta_t), (B, B_b, B_t)
    C, z, grad_output = (C, C_b, C_t), (z, z_b, z_t), (grad_output, out_b, out_t)
    signals = (u, delta, B, C, z, grad_output)
    sequence, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    d, n = block * CHANNELS + tl.arange(0, CHANNELS), tl.arange(0, STATES)
    in_d, in_n = d < dim, n < state
    grid = n[:, None] * dim + d[None, :]
    in_grid = in_n[:, None] & in_d[None, :]
    rates = tl.load(A + grid, mask=in_grid, other=0.0)
    bias_row = _optional_row(bias, d, in_d, HAS_BIAS, CHANNELS)
    skip = _optional_row(D, d, in_d, HAS_D, CHANNELS)
    scratch += (sequence * tl.num_programs(1) + block) * CHUNK * STATES * CHANNELS
    scratch += n[:, None] * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    later = tl.load(grad_last_state + sequence * state * dim + grid, in_grid, other=0.0)
    sum_A = tl.zeros((STATES, CHANNELS), tl.float32)
    sum_D = tl.zeros((CHANNELS,), tl.float32)
    sum_bias = tl.zeros((CHANNELS,), tl.float32)
    chunk = tl.cdiv(time, CHUNK) - 1
    while chunk >= 0:
        h = tl.load(kept + (chunk * batch + sequence) * state * dim + grid, in_grid, 0)
        for i in range(CHUNK):
            tl.store(scratch + i * STATES * CHANNELS, h)
            t = chunk * CHUNK + i
            now, now_n = in_d & (t < time), in_n & (t < time)
            x, _, step, b = _step(u, delta, B, bias_row, sequence, t, d, n, now, now_n, SOFTPLUS)
            decay = tl.exp2(step[None, :] * rates * _LOG2E)
            h = decay * h + b[:, None] * (step * x)[None, :]
        tl.debug_barrier()  # other threads may read what this one wrote
        for i in range(CHUNK):
            t = chunk * CHUNK + CHUNK - 1 - i
            before = tl.load(scratch + (t % CHUNK) * STATES * CHANNELS)
            here = (sequence * time + t) * dim + d
            own = ((block * batch + sequence) * time + t) * state + n
            now, now_n = in_d & (t < time), in_n & (t < time)
            later, part_A, part_bias, part_D = _step_back(
                signals, rates, bias_row, skip, before, later,
                grad_u + here, grad_delta + here, grad_z + here, grad_B + own,
                grad_C + own, sequence, t, d, n, now, now_n, HAS_Z, SOFTPLUS,
            )  # fmt: skip
            sum_A += part_A
            sum_bias += part_bias
            sum_D += part_D
        tl.debug_barrier()  # before the scratch is written again
        chunk -= 1
    tl.store(grad_A + sequence * state * dim + grid, sum_A, in_grid)
    tl.store(grad_D + sequence * dim + d, sum_D, in_d)
    tl.store(grad_bias + sequence * dim + d, sum_bias, in_d)


@triton.jit
def _step_back(
    signals, rates, bias_row, skip, before, later,
    grad_u, grad_delta, grad_z, grad_B, grad_C,
    sequence, t, d, n, in_d, in_n, HAS_Z: tl.constexpr, SOFTPLUS: tl.constexpr,
):  # fmt: skip
    """Stores a step's gradients; returns the state's, and parts of A, bias and D's."""
    u, delta, B, C, z, grad_output = signals
    x, raw, step, b = _step(u, delta, B, bias_row, sequence, t, d, n, in_d, in_n, SOFTPLUS)
    c = _row(C, sequence, t, n, in_n)
    decay = tl.exp2(step[None, :] * rates * _LOG2E)
    h = decay * before + b[:, None] * (step * x)[None, :]
    grad_y = _row(grad_output, sequence, t, d, in_d)
    if HAS_Z:
        gate = _row(z, sequence, t, d, in_d)
        sigmoid = tl.sigmoid(gate)
        y = tl.sum(h * c[:, None], 0) + x * skip
        slope = sigmoid + gate * sigmoid * (1.0 - sigmoid)
        tl.store(grad_z, grad_y * y * slope, in_d)
        grad_y *= gate * sigmoid
    later += c[:, None] * grad_y[None, :]
    tl.store(grad_C, tl.sum(h * grad_y[None, :], 1), in_n)
    tl.store(grad_B, tl.sum(later * (step * x)[None, :], 1), in_n)
    drive = tl.sum(later * b[:, None], 0)
    later *= decay
    power = later * before  # gradient of step times rates
    change = tl.sum(power * rates, 0) + drive * x
    change *= tl.sigmoid(raw) if SOFTPLUS else 1.0
    tl.store(grad_delta, change, in_d)
    tl.store(grad_u, drive * step + grad_y * skip, in_d)
    return later, power * step[None, :], tl.where(in_d, change, 0.0), grad_y * x


def _forward(arguments: Arguments, keep: bool) -> Outputs:
    output, last_state, kept = operator.new_outputs(arguments, keep)
    programs = _Programs(arguments)
    with torch.cuda.device_of(output):  # Triton launches on the current one
        _scan_forward[programs.grid](
            *programs.tensors,
            *(output.transpose(1, 2), last_state, kept),
            *programs.sizes,
            *programs.strides,
            **programs.constants,
            KEEP=keep,
        )
    return output, last_state, kept


def _backward(
    grad_output: Tensor, grad_last_state: Tensor, kept: Tensor, arguments: Arguments
) -> Gradients:
    programs = _Programs(arguments)
    u, blocks = arguments.u, programs.grid[1]
    batch, dim, time, state = arguments.sizes
    grad_output = _channels_last(grad_output)
    size = programs.constants["STATES"] * programs.constants["CHANNELS"]
    scratch = kept.new_empty(batch * blocks * arguments.chunk * size)
    gradients = operator.new_gradients(arguments)
    signals = (gradients.u, gradients.delta, gradients.z if gradients.z.numel() else u)
    sums = [kept.new_empty(batch, state, dim)]
    sums += [kept.new_empty(blocks, batch, time, state) for _ in range(2)]
    sums += [kept.new_empty(batch, dim) for _ in range(2)]
    with torch.cuda.device_of(u):
        _scan_backward[programs.grid](
            grad_output,
            grad_last_state.contiguous(),
            kept,
            *programs.tensors,
            scratch,
            *(x.transpose(1, 2) for x in signals),
            *sums,
            *programs.sizes,
            *grad_output.stride()[:2],
            *programs.strides,
            **programs.constants,
        )
    A, B, C, D, bias = (x.sum(0) for x in sums)
    B, C = B.transpose(1, 2), C.transpose(1, 2)
    return gradients.fill(A=A.t(), B=B, C=C, D=D, delta_bias=bias)


fused_scan = operator.as_operator("fused_scan", _forward, _backward, CHUNK)


class _Programs:
    """What both kernels take, from the arguments of a scan."""

    def __init__(self, arguments: Arguments) -> None:
        u, delta, A, B, C, D, z, bias, softplus, chunk = arguments
        batch, dim, time, state = arguments.sizes
        signals = [_channels_last(x) for x in (u, delta, B, C, u if z is None else z)]
        A = A.float().t().contiguous()
        # Where there is none, any pointer will do: it is never followed.
        D, bias = (A if x is None else x.float().contiguous() for x in (D, bias))
        self.tensors = (*signals[:2], A, *signals[2:4], D, signals[4], bias)
        self.sizes = (time, dim, state, batch)
        self.strides = [stride for x in signals for stride in x.stride()[:2]]
        states = triton.next_power_of_2(state)
        channels = min(triton.next_power_of_2(dim), max(1, _PROGRAM_SIZE // states))
        self.grid = (batch, triton.cdiv(dim, channels))
        self.constants: dict[str, Any] = {
            "HAS_D": D is not A,
            "HAS_Z": z is not None,
            "HAS_BIAS": bias is not A,
            "SOFTPLUS": softplus,
            "CHUNK": chunk,
            "STATES": states,
            "CHANNELS": channels,
            # One channel a thread, its state in registers.
            "num_warps": max(1, min(4, channels // 32)),
        }


def _channels_last(x: Tensor) -> Tensor:
    """``[batch, channels, time]`` → ``[batch, time, channels]``, a view if it can."""
    x = x.transpose(1, 2)
    return x if x.stride(2) == 1 else x.contiguous()
