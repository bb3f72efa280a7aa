"""The selective scan in two Triton kernels: the ``triton`` backend, for CUDA.

As in :mod:`.chunked`, it is one operator with a gradient of its own that keeps
the states at chunk boundaries alone. Import it only where Triton is installed.
"""

import torch
import triton
from torch import Tensor

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
    tensors = (u, delta, A, B, C, D, z, delta_bias)
    keep = torch.is_grad_enabled() and any(
        x is not None and x.requires_grad for x in tensors
    )
    output, last_state, _ = _forward(*tensors, delta_softplus, keep)
    return output, last_state.transpose(1, 2)


@torch.library.custom_op("polsess::fused_scan", mutates_args=())
def _forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns output, last state and, if to be kept, the states before chunks."""
    found = _new_outputs(u, A, keep)
    arguments = _Arguments(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    with _device(u):
        scan_forward[arguments.programs](
            *arguments.tensors,
            *(x.transpose(1, 2) if x is found[0] else x for x in found),
            *arguments.sizes,
            *arguments.strides,
            **arguments.constants,
            KEEP=keep,
        )
    return found


@_forward.register_fake
def _(u, delta, A, B, C, D, z, delta_bias, delta_softplus, keep):
    return _new_outputs(u, A, keep)


@torch.library.custom_op("polsess::fused_scan_backward", mutates_args=())
def _backward(
    grad_output: Tensor,
    grad_last_state: Tensor | None,
    kept: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
) -> list[Tensor]:
    """Returns the gradients of u … delta_bias; an empty tensor for an absent one."""
    arguments = _Arguments(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    (batch, dim, time), state = u.shape, A.shape[1]
    _, blocks = arguments.programs
    grad_output = _channels_last(grad_output)
    if grad_last_state is None:
        grad_last_state = kept.new_zeros(batch, state, dim)
    size = arguments.constants["STATES"] * arguments.constants["CHANNELS"]
    scratch = kept.new_empty(batch * blocks * CHUNK * size)
    signals = [_new_signal(x) for x in (u, delta, u if z is None else z)]
    sums = [kept.new_empty(batch, state, dim)]
    sums += [kept.new_empty(blocks, batch, time, state) for _ in range(2)]
    sums += [kept.new_empty(batch, dim) for _ in range(2)]
    with _device(u):
        scan_backward[arguments.programs](
            grad_output,
            grad_last_state.contiguous(),
            kept,
            *arguments.tensors,
            scratch,
            *signals,
            *sums,
            *arguments.sizes,
            *grad_output.stride()[:2],
            *arguments.strides,
            **arguments.constants,
        )
    grads = [x.transpose(1, 2) for x in signals]
    A_sum, B_sum, C_sum, D_sum, bias_sum = (x.sum(0) for x in sums)
    return [
        *grads[:2],
        A_sum.t().to(A.dtype),
        B_sum.transpose(1, 2).to(B.dtype),
        C_sum.transpose(1, 2).to(C.dtype),
        u.new_empty(0) if D is None else D_sum.to(D.dtype),
        u.new_empty(0) if z is None else grads[2],
        u.new_empty(0) if delta_bias is None else bias_sum.to(delta_bias.dtype),
    ]


@_backward.register_fake
def _(
    grad_output,
    grad_last_state,
    kept,
    u,
    delta,
    A,
    B,
    C,
    D,
    z,
    delta_bias,
    delta_softplus,
):
    def signal(x):
        return u.new_empty(0) if x is None else _new_signal(x).transpose(1, 2)

    def parameter(x):
        return u.new_empty(0) if x is None else torch.empty_like(x).contiguous()

    return [
        signal(u),
        signal(delta),
        A.new_empty(A.shape[::-1]).t(),
        signal(B),
        signal(C),
        parameter(D),
        signal(z),
        parameter(delta_bias),
    ]


def _save(ctx, inputs, output):
    *tensors, ctx.delta_softplus, _ = inputs
    ctx.save_for_backward(output[2], *tensors)
    ctx.set_materialize_grads(False)


def _differentiate(ctx, grad_output, grad_last_state, _):
    kept, *tensors = ctx.saved_tensors
    if grad_output is None:
        grad_output = torch.zeros_like(tensors[0])
    grads = _backward(grad_output, grad_last_state, kept, *tensors, ctx.delta_softplus)
    pairs = zip(grads, tensors, strict=True)
    return *(None if x is None else grad for grad, x in pairs), None, None


_forward.register_autograd(_differentiate, setup_context=_save)


class _Arguments:
    """What both kernels take, from the arguments of a scan."""

    def __init__(self, u, delta, A, B, C, D, z, delta_bias, delta_softplus):
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
        self.programs = (batch, triton.cdiv(dim, channels))
        self.constants = {
            "HAS_D": D is not A,
            "HAS_Z": z is not None,
            "HAS_BIAS": bias is not A,
            "SOFTPLUS": delta_softplus,
            "CHUNK": CHUNK,
            "STATES": states,
            "CHANNELS": channels,
            # One channel a thread, its state in registers.
            "num_warps": max(1, min(4, channels // 32)),
        }


def _channels_last(x):
    """``[batch, channels, time]`` → ``[batch, time, channels]``, a view if it can."""
    x = x.transpose(1, 2)
    return x if x.stride(2) == 1 else x.contiguous()


def _new_signal(x):
    """``[batch, channels, time]`` → room for ``[batch, time, channels]``."""
    batch, channels, time = x.shape
    return x.new_empty(batch, time, channels)


def _new_outputs(u, A, keep):
    (batch, dim, time), state = u.shape, A.shape[1]
    chunks = -(-time // CHUNK) if keep else 0
    last_state = u.new_empty(batch, state, dim, dtype=torch.float32)
    kept = u.new_empty(chunks, batch, state, dim, dtype=torch.float32)
    return _new_signal(u).transpose(1, 2), last_state, kept


def _device(x):
    """Triton launches on the current device, whatever its tensors say."""
    return torch.cuda.device_of(x)
