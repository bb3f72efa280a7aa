"""The selective scan in eager PyTorch, on any device: the ``torch`` backend.

One operator with a gradient of its own. The forward pass keeps the states at
chunk boundaries alone; the backward pass goes through the chunks from the last to
the first and computes the states within each again. In a chunk everything is done
for all steps at once but for the recurrence, one multiply-add per step.

Being a ``torch.library`` operator, it is one opaque node to ``torch.compile``.
"""

import torch
from torch import Tensor

from custom_modules.selective_scan.gradients import Gradients, TileGradients
from custom_modules.selective_scan.tiles import (
    Buffers,
    Inputs,
    batch_first,
    rows_times,
    time_first,
)

CHUNK = 8  # steps between the states that are kept


def chunked_scan(
    u, delta, A, B, C, D, z, delta_bias, delta_softplus, chunk: int = CHUNK
):
    """Scans in chunks; what training keeps is one state in ``chunk`` steps.

    Arguments
    ---------
    u, delta, A, B, C, D, z, delta_bias, delta_softplus
        As for :func:`custom_modules.selective_scan.selective_scan`; D, z and
        delta_bias may be None, B and C have no groups.
    chunk : int
        Steps between kept states. Results do not depend on it.

    Returns
    -------
    output : torch.Tensor
        ``[batch, dim, time]``, in memory laid out as ``u``.
    last_state : torch.Tensor
        ``[batch, dim, state]``, float32 (float64 if ``u`` is).

    Example
    -------
    >>> steps = torch.ones(1, 1, 3)
    >>> output, state = chunked_scan(
    ...     steps, steps, torch.zeros(1, 1), steps, steps, None, None, None, False
    ... )
    >>> output, state
    (tensor([[[1., 2., 3.]]]), tensor([[[3.]]]))
    """
    tensors = (u, delta, A, B, C, D, z, delta_bias)
    keep = torch.is_grad_enabled() and any(
        x is not None and x.requires_grad for x in tensors
    )
    output, last_state, _ = _forward(*tensors, delta_softplus, chunk, keep)
    return output, last_state.transpose(1, 2)


@torch.library.custom_op("polsess::selective_scan", mutates_args=())
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
    chunk: int,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns output, last state and, if to be kept, the states before chunks."""
    inputs = Inputs(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    buffers = Buffers(inputs, chunk, count=2)
    output = torch.empty_like(u)
    last_state, kept = _new_states(u, A, chunk, keep)
    with torch.autocast(u.device.type, enabled=False):
        for part in buffers.parts:
            tile = inputs.tile(part)
            y = torch.empty_like(tile.u)
            state = buffers.zeros(tile)
            for index, steps in enumerate(buffers.chunks):
                if keep:
                    kept[index, part] = state
                _, states = buffers.run(tile, steps, state)
                y[steps] = rows_times(tile.C[steps], states)
                state.copy_(states[-1])
            last_state[part] = state
            output[part] = batch_first(inputs.gate(tile, inputs.skip(tile, y)))
    return output, last_state, kept


@_forward.register_fake
def _(u, delta, A, B, C, D, z, delta_bias, delta_softplus, chunk, keep):
    return torch.empty_like(u), *_new_states(u, A, chunk, keep)


def _new_states(u, A, chunk, keep):
    """Room for the last state and the kept ones, ``[chunks, batch, state, dim]``."""
    (batch, dim, time), state = u.shape, A.shape[1]
    dtype = torch.promote_types(u.dtype, torch.float32)
    chunks = -(-time // chunk) if keep else 0
    last_state = u.new_empty(batch, state, dim, dtype=dtype)
    return last_state, u.new_empty(chunks, batch, state, dim, dtype=dtype)


@torch.library.custom_op("polsess::selective_scan_backward", mutates_args=())
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
    chunk: int,
) -> list[Tensor]:
    """Returns the gradients of u … delta_bias; an empty tensor for an absent one."""
    inputs = Inputs(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    buffers = Buffers(inputs, chunk, count=3)
    gradients = Gradients(inputs)
    with torch.autocast(u.device.type, enabled=False):
        for part in buffers.parts:
            tile = inputs.tile(part)
            tile_grad_output = time_first(grad_output, part, inputs.dtype)
            found = TileGradients(inputs, tile, tile_grad_output, buffers)
            carry = buffers.zeros(tile)
            if grad_last_state is not None:
                carry.copy_(grad_last_state[part])
            for index in reversed(range(len(buffers.chunks))):
                found.add_chunk(buffers.chunks[index], kept[index, part], carry)
            found.finish()
            gradients.add(part, found)
    return gradients.as_arguments()


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
    chunk,
):
    return Gradients(
        Inputs(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    ).as_arguments()


def _save(ctx, inputs, output):
    *tensors, ctx.delta_softplus, ctx.chunk, _ = inputs
    ctx.save_for_backward(output[2], *tensors)
    ctx.set_materialize_grads(False)


def _differentiate(ctx, grad_output, grad_last_state, _):
    kept, *tensors = ctx.saved_tensors
    if grad_output is None:
        grad_output = torch.zeros_like(tensors[0])
    grads = _backward(
        grad_output, grad_last_state, kept, *tensors, ctx.delta_softplus, ctx.chunk
    )
    pairs = zip(grads, tensors, strict=True)
    return *(None if x is None else grad for grad, x in pairs), None, None, None


_forward.register_autograd(_differentiate, setup_context=_save)
