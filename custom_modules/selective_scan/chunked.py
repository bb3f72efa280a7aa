"""The selective scan in eager PyTorch, on any device: ``eager``.

It goes through a few sequences, a tile, and a few steps, a chunk, at a time. In a
chunk everything is done for all steps at once but for the recurrence, one
multiply-add per step. Time comes first and channels last, ``[time, sequences, dim]``;
states are ``[steps, sequences, state, dim]``. A tile's step fits in a CPU's
second-level cache, and the buffers for a chunk are used again and again.

With the states h, their gradients g and decay a, step t of the scan is
h[t] = a[t] h[t-1] + B[t] drive[t] and y[t] = C[t] · h[t]. Hence
g[t] = C[t] grad_y[t] + a[t+1] g[t+1], which runs backwards through time.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from custom_modules.selective_scan import operator
from custom_modules.selective_scan.operator import Arguments, Gradients, Outputs

CHUNK = 8  # steps between the states that are kept
#: Floats in one step of a tile: the buffers for a chunk stay in a CPU's cache.
_CPU_TILE = 1 << 14
#: The same for each of several threads; PyTorch splits no smaller products.
_THREAD_TILE = 1 << 15
#: An accelerator has to be filled, and each step costs a launch.
_ACCELERATOR_TILE = 1 << 23


class _Tile(NamedTuple):
    """Some sequences, time first, in the precision of the states."""

    u: Tensor  # [time, sequences, dim], as all but B and C
    raw_delta: Tensor  # with its bias, before softplus
    delta: Tensor
    drive: Tensor  # delta times u
    B: Tensor  # [time, sequences, state], as C
    C: Tensor
    z: Tensor | None


class _Work:
    """Parameters in the precision of the states, and memory for a chunk of a tile."""

    def __init__(self, arguments: Arguments, buffers: int) -> None:
        self.arguments, self.dtype = arguments, arguments.state_dtype
        self.A = arguments.A.to(self.dtype).t().contiguous()  # [state, dim]
        self.exponent = self.A * math.log2(math.e)
        self.D = self._cast(arguments.D)
        self.delta_bias = self._cast(arguments.delta_bias)
        batch, _, time, _ = arguments.sizes
        sequences = min(batch, max(1, _tile_size(self.A.device) // self.A.numel()))
        self.parts = _slices(batch, sequences)
        self.chunks = _slices(time, arguments.chunk)
        size = min(arguments.chunk, time) * sequences * self.A.numel()
        self.memory = [self.A.new_empty(size) for _ in range(buffers)]
        self._views: dict[tuple[int, int, int], tuple[Tensor, tuple[Tensor, ...]]] = {}

    def _cast(self, x: Tensor | None) -> Tensor | None:
        return None if x is None else x.to(self.dtype)

    def time_first(self, x: Tensor, part: slice) -> Tensor:
        """``[batch, channels, time]`` → ``[time, sequences, channels]``, a copy."""
        return x[part].permute(2, 0, 1).to(self.dtype).contiguous()

    def tile(self, part: slice) -> _Tile:
        given = self.arguments
        u, raw_delta, B, C = (
            self.time_first(x, part) for x in (given.u, given.delta, given.B, given.C)
        )
        z = None if given.z is None else self.time_first(given.z, part)
        if self.delta_bias is not None:
            raw_delta = raw_delta + self.delta_bias
        delta = F.softplus(raw_delta) if given.delta_softplus else raw_delta
        return _Tile(u, raw_delta, delta, delta * u, B, C, z)

    def zeros(self, tile: _Tile) -> Tensor:
        """A state, ``[sequences, state, dim]``."""
        return self.A.new_zeros(tile.u.shape[1], *self.A.shape)

    def room(self, which: int, tile: _Tile, steps: slice) -> tuple[Tensor, tuple[Tensor, ...]]:
        """One of the chunk-sized buffers, and the same as a tuple of its steps."""
        key = which, steps.stop - steps.start, tile.u.shape[1]
        if key not in self._views:  # making views costs as much as small products
            shape = *key[1:], *self.A.shape
            whole = self.memory[which][: math.prod(shape)].view(shape)
            self._views[key] = whole, whole.unbind()
        return self._views[key]

    def run(self, tile: _Tile, steps: slice, state: Tensor) -> tuple[Tensor, Tensor]:
        """Decay and states of a chunk, from the state before it, in buffers 0 and 1."""
        decay, factors = self.room(0, tile, steps)
        states, each_state = self.room(1, tile, steps)
        # exp2 is several times as fast as exp on some CPUs.
        torch.mul(tile.delta[steps].unsqueeze(2), self.exponent, out=decay).exp2_()
        _outer(tile.B[steps], tile.drive[steps], out=states)
        for factor, now in zip(factors, each_state, strict=True):
            state = now.addcmul_(factor, state)
        return decay, states

    def skip(self, tile: _Tile, y: Tensor) -> Tensor:
        """Adds the input times D, in place."""
        return y if self.D is None else y.addcmul_(tile.u, self.D)


def _forward(arguments: Arguments, keep: bool) -> Outputs:
    work = _Work(arguments, buffers=2)
    output, last_state, kept = operator.new_outputs(arguments, keep)
    with torch.autocast(output.device.type, enabled=False):
        for part in work.parts:
            tile = work.tile(part)
            y = torch.empty_like(tile.u)
            state = work.zeros(tile)
            for index, steps in enumerate(work.chunks):
                if keep:
                    kept[index, part] = state
                _, states = work.run(tile, steps, state)
                y[steps] = _rows_times(tile.C[steps], states)
                state.copy_(states[-1])
            last_state[part] = state
            output[part] = _batch_first(_gate(tile, work.skip(tile, y)))
    return output, last_state, kept


def _backward(
    grad_output: Tensor, grad_last_state: Tensor, kept: Tensor, arguments: Arguments
) -> Gradients:
    work = _Work(arguments, buffers=3)
    gradients = operator.new_gradients(arguments)
    A, D, delta_bias = torch.zeros_like(work.A), *work.A.new_zeros(2, work.A.shape[1])
    with torch.autocast(grad_output.device.type, enabled=False):
        for part in work.parts:
            tile = work.tile(part)
            of_tile = _TileGradients(work, tile, work.time_first(grad_output, part))
            carry = work.zeros(tile).copy_(grad_last_state[part])
            for index in reversed(range(len(work.chunks))):
                of_tile.add_chunk(work.chunks[index], kept[index, part], carry)
            of_tile.finish()
            for name in ("u", "delta", "B", "C") + (() if tile.z is None else ("z",)):
                getattr(gradients, name)[part] = _batch_first(getattr(of_tile, name))
            A += of_tile.A.sum(0)
            D += (of_tile.grad_y * tile.u).sum((0, 1))
            delta_bias += of_tile.delta.sum((0, 1))
    return gradients.fill(A=A.t(), D=D, delta_bias=delta_bias)


chunked_scan = operator.as_operator("selective_scan", _forward, _backward, CHUNK)


class _TileGradients:
    """Gradients of one tile, filled from its last chunk to its first."""

    def __init__(self, work: _Work, tile: _Tile, grad_output: Tensor) -> None:
        self.work, self.tile, self.grad_output = work, tile, grad_output
        self.grad_y = _gate(tile, grad_output.clone())  # linear in y
        self.y, self.drive, self.delta = (torch.empty_like(tile.u) for _ in range(3))
        self.u, self.z = self.drive, self.y  # become these at last
        self.B, self.C = torch.empty_like(tile.B), torch.empty_like(tile.C)
        self.A = work.zeros(tile)
        self.each_delta = tile.delta.unsqueeze(2).unbind()
        self.ones = torch.ones_like(tile.B)

    def add_chunk(self, steps: slice, start: Tensor, carry: Tensor) -> None:
        """Fills in the gradients of a chunk; ``start`` is the state before it.

        ``carry``, the gradient of the state after it, becomes that of ``start``.
        """
        tile, grad_y = self.tile, self.grad_y[steps]
        decay, states = self.work.run(tile, steps, start)
        _, factors = self.work.room(0, tile, steps)
        grads, each_grad = self.work.room(2, tile, steps)
        _outer(tile.C[steps], grad_y, out=grads)
        later = each_grad[-1].add_(carry)
        for now, factor in zip(each_grad[-2::-1], factors[:0:-1], strict=True):
            later = now.addcmul_(factor, later)
        torch.mul(decay[0], later, out=carry)

        self.y[steps] = _rows_times(tile.C[steps], states)
        self.C[steps] = _rows_times(grad_y, states.transpose(2, 3))
        self.B[steps] = _rows_times(tile.drive[steps], grads.transpose(2, 3))
        self.drive[steps] = _rows_times(tile.B[steps], grads)

        exponent = grads.mul_(decay)  # gradient of delta times A
        exponent[0].mul_(start)
        exponent[1:].mul_(states[:-1])
        for now, delta in zip(each_grad, self.each_delta[steps], strict=True):
            self.A.addcmul_(now, delta)
        self.delta[steps] = _rows_times(self.ones[steps], exponent.mul_(self.work.A))

    def finish(self) -> None:
        """Adds what goes past the states; call it after the first chunk."""
        tile, work = self.tile, self.work
        self.delta.addcmul_(self.drive, tile.u)
        if work.arguments.delta_softplus:
            self.delta.mul_(torch.sigmoid(tile.raw_delta))
        self.drive.mul_(tile.delta)
        if work.D is not None:
            self.u.addcmul_(self.grad_y, work.D)
        if tile.z is not None:
            slope = torch.sigmoid(tile.z)
            slope = slope * (1 + tile.z * (1 - slope))  # of SiLU
            work.skip(tile, self.y).mul_(self.grad_output).mul_(slope)


def _gate(tile: _Tile, y: Tensor) -> Tensor:
    """Multiplies by SiLU of z, in place."""
    return y if tile.z is None else y.mul_(F.silu(tile.z))


def _batch_first(x: Tensor) -> Tensor:
    """``[time, sequences, channels]`` → ``[sequences, channels, time]``, a view."""
    return x.permute(1, 2, 0)


def _outer(columns: Tensor, rows: Tensor, out: Tensor) -> Tensor:
    """``[…, state]`` and ``[…, dim]`` → ``[…, state, dim]``."""
    return torch.mul(columns.unsqueeze(-1), rows.unsqueeze(-2), out=out)


def _rows_times(rows: Tensor, matrices: Tensor) -> Tensor:
    """``[steps, sequences, i]`` and ``[…, i, j]`` → ``[steps, sequences, j]``.

    A row in front is ten times as fast on CPU as a column behind.
    """
    products = torch.bmm(rows.flatten(0, 1).unsqueeze(1), matrices.flatten(0, 1))
    return products.view(*rows.shape[:2], -1)


def _slices(total: int, size: int) -> list[slice]:
    return [slice(i, min(i + size, total)) for i in range(0, total, size)]


def _tile_size(device: torch.device) -> int:
    if device.type != "cpu":
        return _ACCELERATOR_TILE
    threads = torch.get_num_threads()
    return _CPU_TILE if threads == 1 else _THREAD_TILE * threads
