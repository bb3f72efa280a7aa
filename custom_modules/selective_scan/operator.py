"""What makes a differentiable PyTorch operator of a scan and its backward pass.

Being a ``torch.library`` operator, a scan is one opaque node to ``torch.compile``.
Its forward pass keeps the states at chunk boundaries alone; its backward pass
computes those within a chunk again. The gradient has no gradient of its own.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

#: Of the operators. The modules may be loaded a second time, under another package's
#: name, from an exported folder: registered again, an operator in use would be gone.
NAMESPACE = __name__.partition(".")[0]

#: Of each operator, for ``FlopCounterMode(custom_mapping=…)``. Not registered with
#: PyTorch: its module warns when it is imported where Triton is missing.
FLOP_FORMULAS: dict[Any, Callable[..., int]] = {}

_SCHEMA = (
    "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, "
    "Tensor? delta_bias, bool delta_softplus, SymInt chunk"
)


class Arguments(NamedTuple):
    """Of a scan: those of :func:`~custom_modules.selective_scan.selective_scan`."""

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor  # without groups, as C
    C: Tensor
    D: Tensor | None
    z: Tensor | None
    delta_bias: Tensor | None
    delta_softplus: bool
    chunk: int  # steps between the states that are kept

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """Of batch, channels, time and state."""
        return (*self.u.shape, self.A.shape[1])

    @property
    def state_dtype(self) -> torch.dtype:
        """float32, or float64 where ``u`` is."""
        return torch.promote_types(self.u.dtype, torch.float32)


class Gradients(NamedTuple):
    """Of the arguments that are tensors; empty ones for those that are None."""

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor
    z: Tensor
    delta_bias: Tensor

    def fill(self, **values: Tensor) -> "Gradients":
        for name, value in values.items():
            copy_to(getattr(self, name), value)
        return self


Outputs = tuple[Tensor, Tensor, Tensor]
Scan = Callable[..., tuple[Tensor, Tensor]]


def as_operator(
    name: str,
    forward: Callable[[Arguments, bool], Outputs],
    backward: Callable[[Tensor, Tensor, Tensor, Arguments], Gradients],
    chunk: int,
) -> Scan:
    """Registers two functions as an operator ``<NAMESPACE>::<name>`` and its gradient.

    ``forward`` is told whether to keep states and fills in :func:`new_outputs`;
    ``backward`` takes the gradients of output and last state and the kept states, and
    fills in :func:`new_gradients`. The scan takes the fields of :class:`Arguments` and
    returns the output and the last state, ``[batch, dim, state]``.
    """
    operator = torch.library.custom_op(
        f"{NAMESPACE}::{name}",
        lambda *x: forward(Arguments(*x[:-1]), x[-1]),
        mutates_args=(),
        schema=f"({_SCHEMA}, bool keep) -> (Tensor, Tensor, Tensor)",
    )
    operator.register_fake(lambda *x: new_outputs(Arguments(*x[:-1]), x[-1]))
    FLOP_FORMULAS[operator._opoverload.overloadpacket] = _count_flops
    _register_gradient(operator, _register_backward(name, backward))

    def scan(*given: Tensor | bool | None, chunk: int = chunk) -> tuple[Tensor, Tensor]:
        _refuse_tangents(name, given)
        keep = torch.is_grad_enabled() and any(
            isinstance(x, Tensor) and x.requires_grad for x in given
        )
        output, last_state, _ = operator(*given, chunk, keep)
        return output, last_state.transpose(1, 2)

    return scan


def _refuse_tangents(name: str, given: tuple[Tensor | bool | None, ...]) -> None:
    """Derivatives that go forwards would be zero without a word."""
    if torch.compiler.is_compiling():
        return
    for x in given:
        if isinstance(x, Tensor) and forward_ad.unpack_dual(x).tangent is not None:
            raise NotImplementedError(
                f"{NAMESPACE}::{name} has no forward-mode derivative; the selective "
                'scan with backend="reference" has one'
            )


def _count_flops(u: Sequence[int], _: object, A: Sequence[int], *__: Any, **___: Any) -> int:
    """From shapes; a multiplication with an addition is two."""
    # Three of these for each state and step: its decay, its input, its output.
    (batch, dim, time), state = u, A[1]
    return 2 * 3 * batch * dim * time * state


def _register_backward(name: str, backward: Callable[..., Gradients]) -> Any:
    operator = torch.library.custom_op(
        f"{NAMESPACE}::{name}_backward",
        lambda *x: list(backward(*x[:3], Arguments(*x[3:]))),
        mutates_args=(),
        schema=f"(Tensor grad_output, Tensor grad_last_state, Tensor kept, {_SCHEMA}) -> Tensor[]",
    )
    operator.register_fake(lambda *x: list(new_gradients(Arguments(*x[3:]))))

    def refuse(*_: Any) -> None:
        raise RuntimeError(
            f"{NAMESPACE}::{name}_backward cannot be differentiated again; the "
            'selective scan with backend="reference" can'
        )

    operator.register_autograd(refuse)
    return operator


def _register_gradient(operator: Any, backward: Callable[..., list[Tensor]]) -> None:
    """Tells autograd what to save, and what to call with it."""

    def save(ctx: Any, inputs: tuple, output: Outputs) -> None:
        *tensors, ctx.delta_softplus, ctx.chunk, _ = inputs
        ctx.save_for_backward(output[2], *tensors)
        ctx.set_materialize_grads(False)

    def differentiate(
        ctx: Any, grad_output: Tensor | None, grad_last_state: Tensor | None, _: None
    ) -> tuple[Tensor | None, ...]:
        kept, *tensors = ctx.saved_tensors
        if grad_output is None:
            grad_output = torch.zeros_like(tensors[0])
        if grad_last_state is None:
            grad_last_state = kept.new_zeros(kept.shape[1:])
        options = ctx.delta_softplus, ctx.chunk
        grads = backward(grad_output, grad_last_state, kept, *tensors, *options)
        pairs = zip(grads, tensors, strict=True)
        return *(None if x is None else grad for grad, x in pairs), None, None, None

    operator.register_autograd(differentiate, setup_context=save)


def new_outputs(arguments: Arguments, keep: bool) -> Outputs:
    """Room for output, last state, ``[batch, state, dim]``, and states before chunks.

    These are ``[chunks, batch, state, dim]``, of no chunks if none are kept.
    """
    batch, dim, time, state = arguments.sizes
    chunks = -(-time // arguments.chunk) if keep else 0
    u, dtype = arguments.u, arguments.state_dtype
    last_state = u.new_empty(batch, state, dim, dtype=dtype)
    kept = u.new_empty(chunks, batch, state, dim, dtype=dtype)
    return _new_signal(u), last_state, kept


def new_gradients(arguments: Arguments) -> Gradients:
    """Room for the gradients."""

    def like(x: Tensor | None) -> Tensor:
        if x is None:
            return arguments.u.new_empty(0)
        return _new_signal(x) if x.dim() == 3 else x.new_empty(x.shape)

    return Gradients(*(like(x) for x in arguments[:8]))


def copy_to(room: Tensor, values: Tensor) -> None:
    """Copies to where values belong, unless they lie there or are not asked for."""
    if room.numel() and room.data_ptr() != values.data_ptr():
        room.copy_(values)


def _new_signal(x: Tensor) -> Tensor:
    """``[batch, channels, time]``, channels next to each other in memory."""
    batch, channels, time = x.shape
    return x.new_empty(batch, time, channels).transpose(1, 2)
