"""The selective scan in eager PyTorch, on any device: ``eager``.

One operator with a gradient of its own. The forward pass keeps the states at
chunk boundaries alone; the backward pass goes through the chunks from the last to
the first and computes the states within each again. In a chunk everything is done
for all steps at once but for the recurrence, one multiply-add per step.
"""

import torch

from custom_modules.selective_scan.gradients import Gradients, TileGradients
from custom_modules.selective_scan.operator import as_operator, new_outputs
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
        ``[batch, dim, time]``, channels next to each other in memory.
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
    arguments = (u, delta, A, B, C, D, z, delta_bias, delta_softplus, chunk)
    return _operator(*arguments)


def _forward(*arguments):
    """Fills in output, last state and, if to be kept, the states before chunks."""
    *given, chunk, keep = arguments
    inputs = Inputs(*given)
    buffers = Buffers(inputs, chunk, count=2)
    u, A = given[0], given[2]
    output, last_state, kept = new_outputs(u, A, chunk, keep)
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


def _backward(grad_output, grad_last_state, kept, *arguments):
    """Gradients of u … delta_bias."""
    *given, chunk = arguments
    inputs = Inputs(*given)
    buffers = Buffers(inputs, chunk, count=3)
    gradients = Gradients(inputs)
    with torch.autocast(grad_output.device.type, enabled=False):
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


_operator = as_operator("selective_scan", _forward, _backward)
