"""The selective scan as its definition reads: slow, and plain enough to trust."""

import torch
import torch.nn.functional as F


def reference_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus):
    """Steps through time in Python, one slice of whole-length tensors at a time.

    It is the form in which the scan was published. Each slice back-propagates
    through a tensor of the full length, so its backward pass is quadratic in
    time. For tests and benchmarks.

    Source: Gu and Dao 2023, "Mamba", algorithm 2 and equations 2a, 2b and 4 (with
    the authors' simplification of the discretised B to delta times B).

    Arguments
    ---------
    u, delta, A, B, C, D, z, delta_bias, delta_softplus
        As for :func:`custom_modules.selective_scan.selective_scan`; D, z and
        delta_bias may be None, B and C have no groups.

    Returns
    -------
    output : torch.Tensor
        ``[batch, dim, time]``
    last_state : torch.Tensor
        ``[batch, dim, state]``

    Example
    -------
    >>> steps = torch.ones(1, 1, 3)
    >>> output, state = reference_scan(
    ...     steps, steps, torch.zeros(1, 1), steps, steps, None, None, None, False
    ... )
    >>> output  # without decay the state counts
    tensor([[[1., 2., 3.]]])
    """
    dtype = torch.promote_types(u.dtype, torch.float32)
    given = u.dtype
    u, delta, A, B, C = (x.to(dtype) for x in (u, delta, A, B, C))
    if delta_bias is not None:
        delta = delta + delta_bias.to(dtype)[:, None]
    if delta_softplus:
        delta = F.softplus(delta)
    # [batch, dim, time, state]
    decay = torch.exp(delta.unsqueeze(3) * A.unsqueeze(1))
    drive = (delta * u).unsqueeze(3) * B.transpose(1, 2).unsqueeze(1)
    state = torch.zeros_like(decay[:, :, 0])
    outputs = []
    for step in range(u.shape[2]):
        state = decay[:, :, step] * state + drive[:, :, step]
        outputs.append((state * C[:, :, step].unsqueeze(1)).sum(2))
    output = torch.stack(outputs, dim=2)
    if D is not None:
        output = output + u * D.to(dtype)[:, None]
    if z is not None:
        output = output * F.silu(z.to(dtype))
    return output.to(given), state
