"""The selective scan as its definition reads: slow, and plain enough to trust."""

import torch
import torch.nn.functional as F
from torch import Tensor


def reference_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
) -> tuple[Tensor, Tensor]:
    """Steps through time in Python, one slice of whole-length tensors at a time.

    It is the form in which the scan was published (Gu and Dao 2023, algorithm 2 and
    equations 2a, 2b and 4, with the authors' simplification of the discretised B to
    delta times B). Each slice back-propagates through a tensor of the full length:
    the backward pass is quadratic in time.

    >>> steps, rates = torch.ones(1, 1, 3), torch.zeros(1, 1)
    >>> reference_scan(steps, steps, rates, steps, steps, None, None, None, False)
    (tensor([[[1., 2., 3.]]]), tensor([[[3.]]]))
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
