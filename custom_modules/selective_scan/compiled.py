"""The selective scan on CPUs, in two kernels that Numba compiles: ``numba``.

A step of the scan takes a dozen instructions on a few numbers; here all of them
run while the numbers are in registers. Import it only where Numba is installed.
"""

import math
from concurrent.futures import ThreadPoolExecutor

import torch

from custom_modules.selective_scan.numba_kernels import (
    MAX_WIDTH,
    STATE_FLOATS,
    Gradients,
    Scan,
    Signal,
    scan_backward,
    scan_forward,
)
from custom_modules.selective_scan.operator import (
    as_operator,
    new_gradients,
    new_outputs,
)

CHUNK = 16  # steps between the states that are kept
#: Floats of a chunk's states, as many again of its decays. That is half of a large
#: second-level cache; where it is smaller, whole rows of channels still pay.
_CHUNK_FLOATS = 1 << 16
#: Sequences are cut into so many parts, however many threads there are: results do
#: not depend on their number.
_PARTS = 16


def compiled_scan(
    u, delta, A, B, C, D, z, delta_bias, delta_softplus, chunk: int = CHUNK
):
    """Scans on a CPU; what training keeps is one state in a chunk.

    Arguments
    ---------
    u, delta, A, B, C, D, z, delta_bias, delta_softplus
        As for :func:`custom_modules.selective_scan.selective_scan`; D, z and
        delta_bias may be None, B and C have no groups. Not float64.
    chunk : int
        Steps between kept states. The output does not depend on it, and gradients
        only in their last digits.

    Returns
    -------
    output : torch.Tensor
        ``[batch, dim, time]``, channels next to each other in memory.
    last_state : torch.Tensor
        ``[batch, dim, state]``, float32.

    Example
    -------
    >>> steps = torch.ones(1, 1, 3)
    >>> output, state = compiled_scan(
    ...     steps, steps, torch.zeros(1, 1), steps, steps, None, None, None, False
    ... )
    >>> output, state
    (tensor([[[1., 2., 3.]]]), tensor([[[3.]]]))
    """
    arguments = (u, delta, A, B, C, D, z, delta_bias, delta_softplus, chunk)
    return _operator(*arguments)


def _forward(*arguments):
    """Fills in output, last state and, if to be kept, the states before chunks."""
    *given, chunk, keep = arguments
    output, last_state, kept = new_outputs(given[0], given[2], chunk, keep)
    scan = _as_scan(*given)
    width = _width(scan)
    written = output.transpose(1, 2).float()  # output itself, or a copy
    arrays = [x.numpy() for x in (written, last_state, kept)]

    def run(first, last, _):
        scan_forward(scan, chunk, width, first, last, *arrays)

    _in_parts(run, len(output))
    _copy(written.transpose(1, 2), output)
    return output, last_state, kept


def _backward(grad_output, grad_last_state, kept, *arguments):
    """Gradients of u … delta_bias."""
    *given, chunk = arguments
    scan = _as_scan(*given)
    width = _width(scan, _CHUNK_FLOATS // (chunk * scan.A.shape[0]))
    found = new_gradients(given[:8])
    written = _Written(found, scan)
    if grad_last_state is None:
        grad_last_state = kept.new_zeros(kept.shape[1:])
    carry = grad_last_state.clone(memory_format=torch.contiguous_format).numpy()
    grad_output, kept = _as_signal(grad_output), kept.numpy()

    def run(first, last, part):
        grads = written.of_part(part)
        scan_backward(scan, chunk, width, first, last, grad_output, carry, kept, grads)

    _in_parts(run, len(carry))
    written.copy_to(found)
    return found


_operator = as_operator("compiled_scan", _forward, _backward)


class _Written:
    """Where the backward kernel writes; sums over sequences once for each part."""

    def __init__(self, found, scan):
        u, delta, _, B, C, _, z, _ = found
        state, dim = scan.A.shape
        z = z if z.numel() else u.new_empty(1, 1, 1)
        self.signals = [x.transpose(1, 2).float() for x in (u, delta, z)]
        self.shared = [x.transpose(1, 2).float().zero_() for x in (B, C)]
        self.sums = [
            torch.zeros(_PARTS, *shape) for shape in ((state, dim), (dim,), (dim,))
        ]

    def of_part(self, part):
        tensors = *self.signals, *self.shared, *(x[part] for x in self.sums)
        return Gradients(*(x.numpy() for x in tensors))

    def copy_to(self, found):
        A, D, bias = (x.sum(0) for x in self.sums)
        u, delta, z, B, C = (x.transpose(1, 2) for x in self.signals + self.shared)
        for here, there in zip(found, (u, delta, A.t(), B, C, D, z, bias), strict=True):
            if here.numel():
                _copy(there, here)


def _copy(written, room):
    """Into its room, where the kernel has not written there itself."""
    if written.data_ptr() != room.data_ptr():
        room.copy_(written)


def _as_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus):
    """The arguments as the kernels take them: powers of 2, zeros for absent ones."""
    A = (A.float() / math.log(2)).t().contiguous()
    zeros = A.new_zeros(A.shape[1])
    D, bias = (zeros if x is None else x.float().contiguous() for x in (D, delta_bias))
    return Scan(
        _as_signal(u),
        _as_signal(delta),
        A.numpy(),
        _as_signal(B),
        _as_signal(C),
        D.numpy(),
        _as_signal(u if z is None else z),
        bias.numpy(),
        u.shape[2],
        bool(delta_softplus),
        z is not None,
    )


def _as_signal(x):
    """``[batch, channels, time]`` without a copy, if its channels are neighbours."""
    x = x.transpose(1, 2).float()
    x = x if x.stride(2) == 1 else x.contiguous()
    pairs = zip(x.shape, x.stride(), strict=True)
    span = 1 + sum((size - 1) * stride for size, stride in pairs)
    return Signal(x.as_strided((span,), (1,)).numpy(), x.stride(0), x.stride(1))


def _width(scan, most=MAX_WIDTH):
    """Channels in a block, whose state must have room on the stack."""
    state, dim = scan.A.shape
    return max(1, min(dim, MAX_WIDTH, STATE_FLOATS // (state + state % 2), most))


def _in_parts(run, batch):
    """Calls ``run(first, last, part)``, on as many threads as PyTorch may use."""
    bounds = [batch * part // _PARTS for part in range(_PARTS + 1)]
    parts = [*zip(bounds, bounds[1:], range(_PARTS), strict=False)]
    parts = [part for part in parts if part[0] < part[1]]
    threads = min(torch.get_num_threads(), len(parts))
    if threads == 1:
        for part in parts:
            run(*part)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda part: run(*part), parts))
