"""The selective scan on CPUs, in two kernels that Numba compiles: ``numba``.

A step of the scan takes a dozen instructions on a few numbers; here all of them
run while the numbers are in registers. Import it only where Numba is installed.
"""

import itertools
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from custom_modules.selective_scan import numba_kernels as kernels
from custom_modules.selective_scan import operator
from custom_modules.selective_scan.operator import Arguments, Gradients, Outputs

CHUNK = 16  # steps between the states that are kept
#: Floats of a chunk's states, as many again of its decays. That is half of a large
#: second-level cache; where it is smaller, whole rows of channels still pay.
_CHUNK_FLOATS = 1 << 16
#: Sequences are cut into so many parts, however many threads there are: results do
#: not depend on their number.
_PARTS = 16


def _forward(arguments: Arguments, keep: bool) -> Outputs:
    output, last_state, kept = operator.new_outputs(arguments, keep)
    scan = _as_scan(arguments)
    written = output.transpose(1, 2).float()  # output itself, or a copy
    arrays = [x.numpy() for x in (written, last_state, kept)]

    def run(first: int, last: int, _: int) -> None:
        kernels.scan_forward(scan, first, last, *arrays)

    _in_parts(run, len(output))
    operator.copy_to(output, written.transpose(1, 2))
    return output, last_state, kept


def _backward(
    grad_output: Tensor, grad_last_state: Tensor, kept: Tensor, arguments: Arguments
) -> Gradients:
    state, dim = kept.shape[2:]
    scan = _as_scan(arguments, _CHUNK_FLOATS // (arguments.chunk * state))
    gradients = operator.new_gradients(arguments)
    u, delta, _, B, C, _, z, _ = gradients
    if not z.numel():
        z = u.new_empty(1, 1, 1)  # never written to
    # Those of signals are written where they belong, or to a float32 copy; those of
    # parameters are sums over sequences, once for each part.
    signals = [x.transpose(1, 2).float() for x in (u, delta, z)]
    shared = [x.transpose(1, 2).float().zero_() for x in (B, C)]
    sums = [torch.zeros(_PARTS, *shape) for shape in ((state, dim), (dim,), (dim,))]
    carry = grad_last_state.clone(memory_format=torch.contiguous_format).numpy()
    before, given = kept.numpy(), (_as_signal(grad_output), carry)

    def run(first: int, last: int, part: int) -> None:
        room = *signals, *shared, *(x[part] for x in sums)
        grads = kernels.GradientArrays(*given, *(x.numpy() for x in room))
        kernels.scan_backward(scan, first, last, before, grads)

    _in_parts(run, len(carry))
    u, delta, z, B, C = (x.transpose(1, 2) for x in (*signals, *shared))
    A, D, bias = (x.sum(0) for x in sums)
    return gradients.fill(u=u, delta=delta, A=A.t(), B=B, C=C, D=D, z=z, delta_bias=bias)


compiled_scan = operator.as_operator("compiled_scan", _forward, _backward, CHUNK)


def _as_scan(arguments: Arguments, most_width: int = kernels.MAX_WIDTH) -> kernels.Scan:
    """The arguments as the kernels take them: powers of 2, zeros for absent ones."""
    u, delta, A, B, C, D, z, bias, softplus, chunk = arguments
    _, dim, time, state = arguments.sizes
    # The state of a block must have room on the stack.
    width = min(dim, kernels.MAX_WIDTH, kernels.STATE_FLOATS // (state + state % 2), most_width)
    A = (A.float() / math.log(2)).t().contiguous()
    zeros = A.new_zeros(dim)
    D, bias = (zeros if x is None else x.float().contiguous() for x in (D, bias))
    return kernels.Scan(
        u=_as_signal(u),
        delta=_as_signal(delta),
        A=A.numpy(),
        B=_as_signal(B),
        C=_as_signal(C),
        D=D.numpy(),
        z=_as_signal(u if z is None else z),
        bias=bias.numpy(),
        time=time,
        softplus=bool(softplus),
        gated=z is not None,
        chunk=chunk,
        width=max(1, width),
    )


def _as_signal(x: Tensor) -> kernels.Signal:
    """``[batch, channels, time]`` without a copy, if its channels are neighbours."""
    x = x.transpose(1, 2).float()
    x = x if x.stride(2) == 1 else x.contiguous()
    pairs = zip(x.shape, x.stride(), strict=True)
    span = 1 + sum((size - 1) * stride for size, stride in pairs)
    return kernels.Signal(x.as_strided((span,), (1,)).numpy(), x.stride(0), x.stride(1))


def _in_parts(run: Callable[[int, int, int], None], batch: int) -> None:
    """Calls ``run(first, last, part)``, on as many threads as PyTorch may use."""
    bounds = itertools.pairwise(batch * part // _PARTS for part in range(_PARTS + 1))
    parts = [(*pair, part) for part, pair in enumerate(bounds) if pair[0] < pair[1]]
    threads = min(torch.get_num_threads(), len(parts))
    if threads == 1:
        list(itertools.starmap(run, parts))
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(run, *zip(*parts, strict=True)))
