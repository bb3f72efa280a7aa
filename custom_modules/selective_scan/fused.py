"""The selective scan in two Triton kernels: the ``triton`` backend, for CUDA.

Import it only where Triton is installed.
"""

import torch
import triton

from custom_modules.selective_scan.operator import (
    as_operator,
    new_gradients,
    new_outputs,
)
from custom_modules.selective_scan.triton_kernels import scan_backward, scan_forward

CHUNK = 16  # steps between the states that are kept
#: States and channels of a program; more do not fit in its registers.
_PROGRAM_SIZE = 512


def fused_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus):
    """Scans on a GPU; what training keeps is one state in a chunk.

    Arguments
    ---------
    u, delta, A, B, C, D, z, delta_bias, delta_softplus
        As for :func:`custom_modules.selective_scan.selective_scan`; D, z and
        delta_bias may be None, B and C have no groups. Not float64.

    Returns
    -------
    output : torch.Tensor
        ``[batch, dim, time]``, channels next to each other in memory.
    last_state : torch.Tensor
        ``[batch, dim, state]``, float32.
    """
    arguments = (u, delta, A, B, C, D, z, delta_bias, delta_softplus, CHUNK)
    return _operator(*arguments)


def _forward(*arguments):
    """Fills in output, last state and, if to be kept, the states before chunks."""
    *given, chunk, keep = arguments
    u, A = given[0], given[2]
    output, last_state, kept = new_outputs(u, A, chunk, keep)
    programs = _Programs(*given, chunk)
    with _device(u):
        scan_forward[programs.grid](
            *programs.tensors,
            output.transpose(1, 2),
            last_state,
            kept,
            *programs.sizes,
            *programs.strides,
            **programs.constants,
            KEEP=keep,
        )
    return output, last_state, kept


def _backward(grad_output, grad_last_state, kept, *arguments):
    """Gradients of u … delta_bias."""
    programs = _Programs(*arguments)
    u, chunk = arguments[0], arguments[-1]
    _, batch, state, dim = kept.shape
    blocks = programs.grid[1]
    grad_output = _channels_last(grad_output)
    if grad_last_state is None:
        grad_last_state = kept.new_zeros(batch, state, dim)
    size = programs.constants["STATES"] * programs.constants["CHANNELS"]
    scratch = kept.new_empty(batch * blocks * chunk * size)
    found = new_gradients(arguments[:8])
    signals = [x if x.numel() else u for x in (found[0], found[1], found[6])]
    sums = [kept.new_empty(batch, state, dim)]
    sums += [kept.new_empty(blocks, batch, u.shape[2], state) for _ in range(2)]
    sums += [kept.new_empty(batch, dim) for _ in range(2)]
    with _device(u):
        scan_backward[programs.grid](
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
    summed = {2: A.t(), 3: B.transpose(1, 2), 4: C.transpose(1, 2), 5: D, 7: bias}
    for index, value in summed.items():
        if arguments[index] is not None:
            found[index].copy_(value)
    return found


_operator = as_operator("fused_scan", _forward, _backward)


class _Programs:
    """What both kernels take, from the arguments of a scan."""

    def __init__(self, u, delta, A, B, C, D, z, delta_bias, delta_softplus, chunk):
        (batch, dim, time), state = u.shape, A.shape[1]
        signals = [_channels_last(x) for x in (u, delta, B, C, u if z is None else z)]
        A = A.float().t().contiguous()
        # Where there is none, any pointer will do: it is never followed.
        D, bias = (A if x is None else x.float().contiguous() for x in (D, delta_bias))
        u_, delta_, B_, C_, z_ = signals
        self.tensors = (u_, delta_, A, B_, C_, D, z_, bias)
        self.sizes = (time, dim, state, batch)
        self.strides = [stride for x in signals for stride in x.stride()[:2]]
        states = triton.next_power_of_2(state)
        channels = min(triton.next_power_of_2(dim), max(1, _PROGRAM_SIZE // states))
        self.grid = (batch, triton.cdiv(dim, channels))
        self.constants = {
            "HAS_D": D is not A,
            "HAS_Z": z is not None,
            "HAS_BIAS": bias is not A,
            "SOFTPLUS": delta_softplus,
            "CHUNK": chunk,
            "STATES": states,
            "CHANNELS": channels,
            # One channel a thread, its state in registers.
            "num_warps": max(1, min(4, channels // 32)),
        }


def _channels_last(x):
    """``[batch, channels, time]`` → ``[batch, time, channels]``, a view if it can."""
    x = x.transpose(1, 2)
    return x if x.stride(2) == 1 else x.contiguous()


def _device(x):
    """Triton launches on the current device, whatever its tensors say."""
    return torch.cuda.device_of(x)
