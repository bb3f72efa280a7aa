"""What makes a differentiable PyTorch operator of a scan and its backward pass.

Being a ``torch.library`` operator, a scan is one opaque node to ``torch.compile``.
Its forward pass keeps the states at chunk boundaries alone; its backward pass
computes those within a chunk again. The gradient has no gradient of its own.
"""

import torch
from torch import Tensor
from torch.autograd import forward_ad

#: Of the operators. The modules may be loaded a second time, under another package's
#: name, from an exported folder: registered again, an operator in use would be gone.
NAMESPACE = __name__.partition(".")[0]

#: Of each operator, for ``FlopCounterMode(custom_mapping=…)``. Not registered with
#: PyTorch: its module warns when it is imported where Triton is missing.
FLOP_FORMULAS = {}


def as_operator(name, forward, backward):
    """Registers two functions as an operator ``<NAMESPACE>::<name>`` and its gradient.

    Arguments
    ---------
    name : str
    forward : callable
        Takes ``u, delta, A, B, C, D, z, delta_bias, delta_softplus`` as
        :func:`custom_modules.selective_scan.selective_scan` does, without groups,
        then ``chunk``, the steps between states, and ``keep``; returns what
        :func:`new_outputs` makes, filled in.
    backward : callable
        Takes the gradients of output and last state (or None), the kept states and
        all arguments of ``forward`` up to ``chunk``; returns what
        :func:`new_gradients` makes, filled in.

    Returns
    -------
    callable
        Takes the arguments of ``forward`` up to ``chunk``; returns the output and
        the last state, ``[batch, dim, state]``, float32 (float64 if ``u`` is).
    """
    operator = _register_forward(name, forward)
    _register_gradient(operator, _register_backward(name, backward))

    def scan(*arguments):
        _refuse_tangents(name, arguments)
        keep = torch.is_grad_enabled() and any(
            isinstance(x, Tensor) and x.requires_grad for x in arguments
        )
        output, last_state, _ = operator(*arguments, keep)
        return output, last_state.transpose(1, 2)

    return scan


def _refuse_tangents(name, arguments):
    """Derivatives that go forwards would be zero without a word."""
    if torch.compiler.is_compiling():
        return
    for x in arguments:
        if isinstance(x, Tensor) and forward_ad.unpack_dual(x).tangent is not None:
            raise NotImplementedError(
                f"{NAMESPACE}::{name} has no forward-mode derivative; the selective "
                'scan with backend="reference" has one'
            )


def _register_forward(name, forward):
    @torch.library.custom_op(f"{NAMESPACE}::{name}", mutates_args=())
    def operator(
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
        return forward(u, delta, A, B, C, D, z, delta_bias, delta_softplus, chunk, keep)

    @operator.register_fake
    def _(u, delta, A, B, C, D, z, delta_bias, delta_softplus, chunk, keep):
        return new_outputs(u, A, chunk, keep)

    FLOP_FORMULAS[operator._opoverload.overloadpacket] = _count_flops
    return operator


def _count_flops(u, delta, A, *others, **kwargs):
    """From shapes; a multiplication with an addition is two."""
    # Three of these for each state and step: its decay, its input, its output.
    (batch, dim, time), state = u, A[1]
    return 2 * 3 * batch * dim * time * state


def _register_backward(name, backward):
    @torch.library.custom_op(f"{NAMESPACE}::{name}_backward", mutates_args=())
    def operator(
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
        arguments = (u, delta, A, B, C, D, z, delta_bias, delta_softplus, chunk)
        return backward(grad_output, grad_last_state, kept, *arguments)

    @operator.register_fake
    def _(grad_output, grad_last_state, kept, *arguments):
        return new_gradients(arguments[:8])

    def refuse(*_):
        raise RuntimeError(
            f"{NAMESPACE}::{name}_backward cannot be differentiated again; the "
            'selective scan with backend="reference" can'
        )

    operator.register_autograd(refuse)
    return operator


def _register_gradient(operator, backward):
    """Tells autograd what to save, and what to call with it."""

    def save(ctx, inputs, output):
        *tensors, ctx.delta_softplus, ctx.chunk, _ = inputs
        ctx.save_for_backward(output[2], *tensors)
        ctx.set_materialize_grads(False)

    def differentiate(ctx, grad_output, grad_last_state, _):
        kept, *tensors = ctx.saved_tensors
        if grad_output is None:
            grad_output = torch.zeros_like(tensors[0])
        grads = backward(
            grad_output, grad_last_state, kept, *tensors, ctx.delta_softplus, ctx.chunk
        )
        pairs = zip(grads, tensors, strict=True)
        return *(None if x is None else grad for grad, x in pairs), None, None, None

    operator.register_autograd(differentiate, setup_context=save)


def new_outputs(u, A, chunk, keep):
    """Room for what a forward pass returns.

    Arguments
    ---------
    u : torch.Tensor
        ``[batch, dim, time]``
    A : torch.Tensor
        ``[dim, state]``
    chunk : int
        Steps between kept states.
    keep : bool
        Whether any are kept.

    Returns
    -------
    output : torch.Tensor
        ``[batch, dim, time]``, channels next to each other in memory.
    last_state : torch.Tensor
        ``[batch, state, dim]``
    kept : torch.Tensor
        States before each chunk, ``[chunks, batch, state, dim]``; no chunks if none
        are kept.

    Example
    -------
    >>> u, A = torch.zeros(2, 3, 10), torch.zeros(3, 4)
    >>> [x.shape for x in new_outputs(u, A, chunk=8, keep=True)[1:]]
    [torch.Size([2, 4, 3]), torch.Size([2, 2, 4, 3])]
    """
    (batch, dim, time), state = u.shape, A.shape[1]
    dtype = torch.promote_types(u.dtype, torch.float32)
    chunks = -(-time // chunk) if keep else 0
    last_state = u.new_empty(batch, state, dim, dtype=dtype)
    kept = u.new_empty(chunks, batch, state, dim, dtype=dtype)
    return new_signal(u), last_state, kept


def new_signal(x):
    """Room for a tensor like ``x``, ``[batch, channels, time]``.

    Returns
    -------
    torch.Tensor
        Its channels lie next to each other in memory.
    """
    batch, channels, time = x.shape
    return x.new_empty(batch, time, channels).transpose(1, 2)


def new_gradients(tensors):
    """Room for the gradients of ``u, delta, A, B, C, D, z, delta_bias``.

    Arguments
    ---------
    tensors : tuple of torch.Tensor or None

    Returns
    -------
    list of torch.Tensor
        An empty one for None: operators return no None.
    """
    u = tensors[0]

    def like(x):
        if x is None:
            return u.new_empty(0)
        return new_signal(x) if x.dim() == 3 else x.new_empty(x.shape)

    return [like(x) for x in tensors]
