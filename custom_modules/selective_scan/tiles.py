"""What :mod:`.chunked` works on: a few sequences at a time, one chunk at a time.

Time comes first and channels last, ``[time, sequences, dim]``; states are
``[steps, sequences, state, dim]``. A tile's step fits in a CPU's second-level
cache, and the buffers for a chunk are used again and again.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

#: Floats in one step of a tile: the buffers for a chunk stay in a CPU's cache.
_CPU_TILE = 1 << 14
#: The same for each of several threads; PyTorch splits no smaller products.
_THREAD_TILE = 1 << 15
#: An accelerator has to be filled, and each step costs a launch.
_ACCELERATOR_TILE = 1 << 23


class Tile(NamedTuple):
    """Some sequences, time first, in the precision of the states.

    ``[time, sequences, dim]``; B and C ``[time, sequences, state]``.
    """

    u: Tensor
    raw_delta: Tensor  # with its bias, before softplus
    delta: Tensor
    drive: Tensor  # delta times u
    B: Tensor
    C: Tensor
    z: Tensor | None


class Inputs:
    """The arguments of a scan, and all of it that needs no state.

    Arguments
    ---------
    u, delta, A, B, C, D, z, delta_bias, delta_softplus
        As for :func:`custom_modules.selective_scan.selective_scan`, without
        groups.
    """

    def __init__(self, u, delta, A, B, C, D, z, delta_bias, delta_softplus):
        self.given = (u, delta, A, B, C, D, z, delta_bias)
        self.dtype = torch.promote_types(u.dtype, torch.float32)
        self.A = A.to(self.dtype).t().contiguous()  # [state, dim]
        self.D = None if D is None else D.to(self.dtype)
        self.delta_bias = None if delta_bias is None else delta_bias.to(self.dtype)
        self.delta_softplus = delta_softplus

    def tile(self, part):
        """Copies some sequences, a slice of the batch, as a :class:`Tile`."""
        u, delta, _, B, C, _, z, _ = self.given
        u, delta, B, C = (time_first(x, part, self.dtype) for x in (u, delta, B, C))
        z = None if z is None else time_first(z, part, self.dtype)
        raw_delta = delta if self.delta_bias is None else delta + self.delta_bias
        delta = F.softplus(raw_delta) if self.delta_softplus else raw_delta
        return Tile(u, raw_delta, delta, delta * u, B, C, z)

    def skip(self, tile, y):
        """Adds the input times D, in place."""
        return y if self.D is None else y.addcmul_(tile.u, self.D)

    def gate(self, tile, y):
        """Multiplies by SiLU of z, in place."""
        return y if tile.z is None else y.mul_(F.silu(tile.z))


class Buffers:
    """Cuts a scan into tiles and chunks, and holds the memory for one of each.

    Arguments
    ---------
    inputs : Inputs
    chunk : int
        Steps in a chunk.
    count : int
        How many tensors of a chunk's size are needed at a time.
    """

    def __init__(self, inputs, chunk, count):
        batch, _, time = inputs.given[0].shape
        floats = _tile_size(inputs.A.device)
        sequences = min(batch, max(1, floats // inputs.A.numel()))
        self.parts = _slices(batch, sequences)
        self.chunks = _slices(time, chunk)
        self.exponent = inputs.A * math.log2(math.e)
        size = min(chunk, time) * sequences * inputs.A.numel()
        self.memory = [inputs.A.new_empty(size) for _ in range(count)]
        self._views = {}

    def zeros(self, tile):
        """A state, ``[sequences, state, dim]``."""
        return self.exponent.new_zeros(tile.u.shape[1], *self.exponent.shape)

    def room(self, which, tile, steps):
        """One of the chunk-sized tensors, and the same as a tuple of its steps.

        Returns
        -------
        torch.Tensor
            ``[steps, sequences, state, dim]``
        tuple of torch.Tensor
            ``[sequences, state, dim]`` each.
        """
        key = which, steps.stop - steps.start, tile.u.shape[1]
        if key not in self._views:  # making views costs as much as small products
            shape = *key[1:], *self.exponent.shape
            whole = self.memory[which][: math.prod(shape)].view(shape)
            self._views[key] = whole, whole.unbind()
        return self._views[key]

    def run(self, tile, steps, state):
        """Goes through the steps of a chunk, from the state before them.

        Returns
        -------
        decay, states : torch.Tensor
            ``[steps, sequences, state, dim]``, good until the next call.
        """
        decay, factors = self.room(0, tile, steps)
        states, each_state = self.room(1, tile, steps)
        # exp2 is several times as fast as exp on some CPUs.
        torch.mul(tile.delta[steps].unsqueeze(2), self.exponent, out=decay).exp2_()
        outer(tile.B[steps], tile.drive[steps], out=states)
        for factor, now in zip(factors, each_state, strict=True):
            state = now.addcmul_(factor, state)
        return decay, states


def time_first(x, part, dtype):
    """``[batch, channels, time]`` → ``[time, sequences, channels]``, a copy."""
    return x[part].permute(2, 0, 1).to(dtype).contiguous()


def batch_first(x):
    """``[time, sequences, channels]`` → ``[sequences, channels, time]``, a view."""
    return x.permute(1, 2, 0)


def outer(columns, rows, out):
    """``[…, state]`` and ``[…, dim]`` → ``[…, state, dim]``."""
    return torch.mul(columns.unsqueeze(-1), rows.unsqueeze(-2), out=out)


def rows_times(rows, matrices):
    """``[steps, sequences, i]`` and ``[…, i, j]`` → ``[steps, sequences, j]``.

    A row in front is ten times as fast on CPU as a column behind.
    """
    products = torch.bmm(rows.flatten(0, 1).unsqueeze(1), matrices.flatten(0, 1))
    return products.view(*rows.shape[:2], -1)


def _slices(total, size):
    return [slice(i, min(i + size, total)) for i in range(0, total, size)]


def _tile_size(device):
    if device.type != "cpu":
        return _ACCELERATOR_TILE
    threads = torch.get_num_threads()
    return _CPU_TILE if threads == 1 else _THREAD_TILE * threads
