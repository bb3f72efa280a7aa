"""The backward pass of :mod:`.chunked`, tile by tile and chunk by chunk.

With the states h, their gradients g and decay a, step t of the scan is
h[t] = a[t] h[t-1] + B[t] drive[t] and y[t] = C[t] · h[t]. Hence
g[t] = C[t] grad_y[t] + a[t+1] g[t+1], which runs backwards through time.
"""

import torch

from custom_modules.selective_scan.operator import new_gradients
from custom_modules.selective_scan.tiles import batch_first, outer, rows_times


class TileGradients:
    """Gradients of one tile, filled from its last chunk to its first.

    Arguments
    ---------
    inputs : Inputs
    tile : Tile
    grad_output : torch.Tensor
        ``[time, sequences, dim]``
    buffers : Buffers
        With room for three tensors.
    """

    def __init__(self, inputs, tile, grad_output, buffers):
        self.inputs, self.tile, self.buffers = inputs, tile, buffers
        self.grad_output = grad_output
        self.grad_y = inputs.gate(tile, grad_output.clone())  # linear in y
        self.y, self.drive, self.delta = (torch.empty_like(tile.u) for _ in range(3))
        self.B, self.C = torch.empty_like(tile.B), torch.empty_like(tile.C)
        self.A = buffers.zeros(tile)
        self.each_delta = tile.delta.unsqueeze(2).unbind()
        self.ones = torch.ones_like(tile.B)

    def add_chunk(self, steps, start, carry):
        """Fills in the gradients of a chunk.

        Arguments
        ---------
        steps : slice
            Of time.
        start : torch.Tensor
            The state before it, ``[sequences, state, dim]``.
        carry : torch.Tensor
            What the later chunks say of the state after it; overwritten by what
            this chunk says of ``start``.
        """
        tile, grad_y = self.tile, self.grad_y[steps]
        decay, states = self.buffers.run(tile, steps, start)
        _, factors = self.buffers.room(0, tile, steps)
        grads, each_grad = self.buffers.room(2, tile, steps)
        outer(tile.C[steps], grad_y, out=grads)
        later = each_grad[-1].add_(carry)
        for now, factor in zip(each_grad[-2::-1], factors[:0:-1], strict=True):
            later = now.addcmul_(factor, later)
        torch.mul(decay[0], later, out=carry)

        self.y[steps] = rows_times(tile.C[steps], states)
        self.C[steps] = rows_times(grad_y, states.transpose(2, 3))
        self.B[steps] = rows_times(tile.drive[steps], grads.transpose(2, 3))
        self.drive[steps] = rows_times(tile.B[steps], grads)

        exponent = grads.mul_(decay)  # gradient of delta times A
        exponent[0].mul_(start)
        exponent[1:].mul_(states[:-1])
        for now, delta in zip(each_grad, self.each_delta[steps], strict=True):
            self.A.addcmul_(now, delta)
        self.delta[steps] = rows_times(self.ones[steps], exponent.mul_(self.inputs.A))

    def finish(self):
        """Adds what goes past the states; call it after the first chunk."""
        tile, inputs = self.tile, self.inputs
        self.delta.addcmul_(self.drive, tile.u)
        if inputs.delta_softplus:
            self.delta.mul_(torch.sigmoid(tile.raw_delta))
        self.u = self.drive.mul_(tile.delta)
        if inputs.D is not None:
            self.u.addcmul_(self.grad_y, inputs.D)
        if tile.z is not None:
            slope = torch.sigmoid(tile.z)
            slope = slope * (1 + tile.z * (1 - slope))  # of SiLU
            y = inputs.skip(tile, self.y)
            self.z = y.mul_(self.grad_output).mul_(slope)


class Gradients:
    """Gradients of all arguments, gathered from the tiles."""

    def __init__(self, inputs):
        self.inputs = inputs
        self.found = new_gradients(inputs.given)
        self.u, self.delta, _, self.B, self.C, _, self.z, _ = self.found
        self.A = torch.zeros_like(inputs.A)
        self.D, self.delta_bias = torch.zeros_like(inputs.A[0]).repeat(2, 1)

    def add(self, part, found):
        """Adds those of a tile, :class:`TileGradients` that are finished."""
        names = ("u", "delta", "B", "C") + (() if found.tile.z is None else ("z",))
        for name in names:
            getattr(self, name)[part] = batch_first(getattr(found, name))
        self.A += found.A.sum(0)
        self.D += (found.grad_y * found.tile.u).sum((0, 1))
        self.delta_bias += found.delta.sum((0, 1))

    def as_arguments(self):
        """In the order and the dtypes of the arguments, empty for absent ones."""
        sums = {2: self.A.t(), 5: self.D, 7: self.delta_bias}
        for index, found in sums.items():
            if self.inputs.given[index] is not None:
                self.found[index].copy_(found)
        return self.found
