"""The one function of this package: it checks shapes and goes through groups."""

import torch

from custom_modules.selective_scan.backends import find_scan


def selective_scan(
    u,
    delta,
    A,
    B,
    C,
    D=None,
    z=None,
    delta_bias=None,
    delta_softplus=False,
    return_last_state=False,
    backend="auto",
):
    """The recurrence of a selective state space model, for each channel::

        h[t] = exp(delta[t] A) h[t-1] + delta[t] B[t] u[t]
        y[t] = (C[t] · h[t] + D u[t]) silu(z[t])

    The arguments are those of mamba_ssm's ``selective_scan_fn``. States and
    exponentials are float32 whatever autocast says (float64 where ``u`` is float64).
    The gradient cannot be differentiated again, except with ``"reference"``.

    Source: Gu and Dao 2023, "Mamba", algorithm 2.

    Arguments
    ---------
    u, delta : torch.Tensor
        Input and step sizes, ``[batch, dim, time]``, not empty.
    A : torch.Tensor
        Rates, ``[dim, state]``; negative ones decay.
    B, C : torch.Tensor
        Into and out of the state, ``[batch, state, time]`` or, for channels in
        equal groups, ``[batch, groups, state, time]``.
    D, delta_bias : torch.Tensor
        Weight of the input, and what is added to delta, ``[dim]``; None is 0.
    z : torch.Tensor
        Gate, ``[batch, dim, time]``; None lets everything pass.
    delta_softplus : bool
        Whether delta then goes through softplus.
    return_last_state : bool
        Whether to return the state after the last step, too.
    backend : str
        ``"torch"`` works anywhere: compiled by Numba for float32 and less on CPUs
        (``"numba"``), where that is installed, and else in PyTorch's own operations
        (``"eager"``). ``"triton"`` and, if installed, ``"mamba_ssm"`` are for CUDA;
        ``"reference"`` is a plain loop for tests. ``"auto"`` takes the fastest that
        works; the log says once which.

    Returns
    -------
    torch.Tensor
        Output, like ``u``; with ``return_last_state`` a tuple of it and the state,
        ``[batch, dim, state]``.

    Raises
    ------
    ValueError
        If shapes or devices do not fit each other, or there is no such backend.
    TypeError
        If an argument is no tensor of real floating-point numbers.
    BackendError
        A RuntimeError, if the backend cannot be used for these tensors.

    Example
    -------
    >>> u, delta, z = torch.randn(3, 2, 8, 50)
    >>> A, (B, C) = -torch.rand(8, 4), torch.randn(2, 2, 4, 50)
    >>> selective_scan(u, delta, A, B, C, z=z, delta_softplus=True).shape
    torch.Size([2, 8, 50])
    """
    tensors = [u, delta, A, B, C, D, z, delta_bias]
    _check(*tensors)
    scan = find_scan(backend, tensors, return_last_state)
    if B.dim() == 3:
        output, state = scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    else:
        output, state = _scan_groups(
            scan, (u, delta, z), (B, C), (A, D, delta_bias), delta_softplus
        )
    return (output, state) if return_last_state else output


def _check_kinds(tensors):
    """Raises with the first argument that is no real tensor on the device of u."""
    names = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")
    for name, x in zip(names, tensors, strict=True):
        if x is None and name in ("D", "z", "delta_bias"):
            continue
        if not isinstance(x, torch.Tensor) or not x.is_floating_point():
            kind = x.dtype if isinstance(x, torch.Tensor) else type(x).__name__
            raise TypeError(f"{name} must be a tensor of real floats, not {kind}")
        if x.device != tensors[0].device:
            raise ValueError(f"{name} is on {x.device}, but u on {tensors[0].device}")


def _check(u, delta, A, B, C, D, z, delta_bias):
    """Raises with the first argument whose kind, device or shape does not fit."""
    _check_kinds([u, delta, A, B, C, D, z, delta_bias])
    if u.dim() != 3 or not u.numel():
        raise ValueError(
            f"u must be [batch, dim, time] and not empty, not {list(u.shape)}"
        )
    if A.dim() != 2 or not A.shape[1]:
        raise ValueError(f"A must be [dim, state], not {list(A.shape)}")
    (batch, dim, time), state = u.shape, A.shape[1]
    groups = list(B.shape[1:2]) if B.dim() == 4 else []
    if groups and (groups[0] < 1 or dim % groups[0]):
        raise ValueError(f"{dim} channels cannot be cut into {groups[0]} groups")
    expected = {
        "delta": (delta, [batch, dim, time]),
        "A": (A, [dim, state]),
        "B": (B, [batch, *groups, state, time]),
        "C": (C, [batch, *groups, state, time]),
        "D": (D, [dim]),
        "z": (z, [batch, dim, time]),
        "delta_bias": (delta_bias, [dim]),
    }
    for name, (tensor, shape) in expected.items():
        if tensor is not None and list(tensor.shape) != shape:
            raise ValueError(f"{name} must be {shape}, not {list(tensor.shape)}")


def _scan_groups(scan, signals, projections, parameters, delta_softplus):
    """Scans group after group: channels next to each other share B and C."""
    groups = projections[0].shape[1]
    width = signals[0].shape[1] // groups
    outputs, states = [], []
    for group in range(groups):
        part = slice(group * width, (group + 1) * width)
        u, delta, z = (None if x is None else x[:, part] for x in signals)
        A, D, delta_bias = (None if x is None else x[part] for x in parameters)
        B, C = (x[:, group] for x in projections)
        output, state = scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
        outputs.append(output)
        states.append(state)
    return torch.cat(outputs, 1), torch.cat(states, 1)
