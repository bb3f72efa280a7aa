"""The kernels of :mod:`.fused`: a program scans some channels of one sequence.

Its state stays in registers, ``[state, channels]``, while it walks through time.
The states before each chunk are kept; backwards, a program computes those of one
chunk again into a scratch of its own, and walks back over them. What several
programs add to (the gradients of A, B, C, D and the bias of delta) each of them
writes to a place of its own, and PyTorch sums: results do not depend on chance.

``[batch, time, channels]`` tensors come with the strides of their first two axes;
channels lie next to each other. Loops over chunks are ``while`` loops, since a
``for`` with a bound that is known at run time only fails in Triton's interpreter.
"""

import triton
import triton.language as tl

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
def _row(start, stride_b, stride_t, sequence, t, columns, mask):
    """Loads one row of a ``[batch, time, columns]`` tensor as float32."""
    row = start + sequence * stride_b + t * stride_t
    return tl.load(row + columns, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _step(
    u, delta, B, bias_row, u_b, u_t, delta_b, delta_t, B_b, B_t,
    sequence, t, time, d, in_d, n, in_n, SOFTPLUS: tl.constexpr,
):  # fmt: skip
    """Input, size before and after softplus, and B of one step."""
    now = in_d & (t < time)
    x = _row(u, u_b, u_t, sequence, t, d, now)
    raw = _row(delta, delta_b, delta_t, sequence, t, d, now) + bias_row
    size = _softplus(raw) if SOFTPLUS else raw
    b = _row(B, B_b, B_t, sequence, t, n, in_n & (t < time))
    # A step beyond the end has size 0: it changes no state.
    return x, raw, tl.where(now, size, 0.0), b


@triton.jit
def _optional_row(start, columns, mask, PRESENT: tl.constexpr, SIZE: tl.constexpr):
    """A row of a parameter, or zeros."""
    row = tl.zeros((SIZE,), tl.float32)
    if PRESENT:
        row = tl.load(start + columns, mask=mask, other=0.0)
    return row


@triton.jit
def scan_forward(
    u, delta, A, B, C, D, z, bias,
    output, last_state, kept,
    time, dim, state, batch,
    u_b, u_t, delta_b, delta_t, B_b, B_t, C_b, C_t, z_b, z_t,
    HAS_D: tl.constexpr, HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr,
    SOFTPLUS: tl.constexpr, KEEP: tl.constexpr, CHUNK: tl.constexpr,
    STATES: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Output, last state and the states before chunks."""
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
            now = in_d & (t < time)
            x, _, step, b = _step(
                u, delta, B, bias_row, u_b, u_t, delta_b, delta_t, B_b, B_t,
                sequence, t, time, d, in_d, n, in_n, SOFTPLUS,
            )  # fmt: skip
            c = _row(C, C_b, C_t, sequence, t, n, in_n & (t < time))
            decay = tl.exp2(step[None, :] * exponent)
            h = decay * h + b[:, None] * (step * x)[None, :]
            y = tl.sum(h * c[:, None], 0) + x * skip
            if HAS_Z:
                gate = _row(z, z_b, z_t, sequence, t, d, now)
                y *= gate * tl.sigmoid(gate)
            tl.store(output + (sequence * time + t) * dim + d, y, now)
        chunk += 1
    tl.store(last_state + sequence * state * dim + grid, h, in_grid)


@triton.jit
def scan_backward(
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
    sequence = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    d, n = block * CHANNELS + tl.arange(0, CHANNELS), tl.arange(0, STATES)
    in_d, in_n = d < dim, n < state
    grid = n[:, None] * dim + d[None, :]
    in_grid = in_n[:, None] & in_d[None, :]
    rates = tl.load(A + grid, mask=in_grid, other=0.0)
    bias_row = _optional_row(bias, d, in_d, HAS_BIAS, CHANNELS)
    skip = _optional_row(D, d, in_d, HAS_D, CHANNELS)
    scratch += (sequence * tl.num_programs(1) + block) * CHUNK * STATES * CHANNELS
    place = n[:, None] * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    later = tl.load(grad_last_state + sequence * state * dim + grid, in_grid, other=0.0)
    sum_A = tl.zeros((STATES, CHANNELS), tl.float32)
    sum_D = tl.zeros((CHANNELS,), tl.float32)
    sum_bias = tl.zeros((CHANNELS,), tl.float32)
    chunk = tl.cdiv(time, CHUNK) - 1
    while chunk >= 0:
        start = kept + (chunk * batch + sequence) * state * dim + grid
        h = tl.load(start, mask=in_grid, other=0.0)
        for i in range(CHUNK):
            tl.store(scratch + i * STATES * CHANNELS + place, h)
            t = chunk * CHUNK + i
            x, _, step, b = _step(
                u, delta, B, bias_row, u_b, u_t, delta_b, delta_t, B_b, B_t,
                sequence, t, time, d, in_d, n, in_n, SOFTPLUS,
            )  # fmt: skip
            decay = tl.exp2(step[None, :] * rates * _LOG2E)
            h = decay * h + b[:, None] * (step * x)[None, :]
        tl.debug_barrier()  # other threads may read what this one wrote
        for i in range(CHUNK):
            t = chunk * CHUNK + CHUNK - 1 - i
            now = in_d & (t < time)
            before = tl.load(scratch + (t % CHUNK) * STATES * CHANNELS + place)
            x, raw, step, b = _step(
                u, delta, B, bias_row, u_b, u_t, delta_b, delta_t, B_b, B_t,
                sequence, t, time, d, in_d, n, in_n, SOFTPLUS,
            )  # fmt: skip
            c = _row(C, C_b, C_t, sequence, t, n, in_n & (t < time))
            decay = tl.exp2(step[None, :] * rates * _LOG2E)
            h = decay * before + b[:, None] * (step * x)[None, :]
            here = (sequence * time + t) * dim + d
            grad_y = _row(grad_output, out_b, out_t, sequence, t, d, now)
            if HAS_Z:
                gate = _row(z, z_b, z_t, sequence, t, d, now)
                sigmoid = tl.sigmoid(gate)
                y = tl.sum(h * c[:, None], 0) + x * skip
                slope = sigmoid + gate * sigmoid * (1.0 - sigmoid)
                tl.store(grad_z + here, grad_y * y * slope, now)
                grad_y *= gate * sigmoid
            later += c[:, None] * grad_y[None, :]
            own = ((block * batch + sequence) * time + t) * state + n
            tl.store(grad_C + own, tl.sum(h * grad_y[None, :], 1), in_n & (t < time))
            found = tl.sum(later * (step * x)[None, :], 1)
            tl.store(grad_B + own, found, in_n & (t < time))
            drive = tl.sum(later * b[:, None], 0)
            later *= decay
            power = later * before  # gradient of step times rates
            sum_A += power * step[None, :]
            change = tl.sum(power * rates, 0) + drive * x
            change *= tl.sigmoid(raw) if SOFTPLUS else 1.0
            tl.store(grad_delta + here, change, now)
            tl.store(grad_u + here, drive * step + grad_y * skip, now)
            sum_bias += tl.where(now, change, 0.0)
            sum_D += grad_y * x
        tl.debug_barrier()  # before the scratch is written again
        chunk -= 1
    tl.store(grad_A + sequence * state * dim + grid, sum_A, in_grid)
    tl.store(grad_D + sequence * dim + d, sum_D, in_d)
    tl.store(grad_bias + sequence * dim + d, sum_bias, in_d)
