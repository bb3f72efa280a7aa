"""SI-SDR and its permutation-invariant loss, outside autocast and finite for silence.

They are float32 (float64 stays float64).
"""

from itertools import permutations
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

#: Keeps ratios and logarithms finite; SpeechBrain's value, so that both agree.
#: It is absolute: below an amplitude of about 1e-3 it begins to show.
EPS = 1e-8

#: Up to here all permutations are compared at once (6! = 720); beyond, the
#: Hungarian algorithm finds the best one without listing them.
MAX_LISTED_SOURCES = 6

#: A signal with less energy than this, its mean removed, is silent.
SILENCE_ENERGY = 1e-8


def si_sdr(estimates: Tensor, targets: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Scale-invariant signal-to-distortion ratio without means, in dB.

    Le Roux et al. 2019, "SDR – half-baked or well done?", eq. 5.
    ``[batch, time, sources]`` twice, or what can be broadcast → ``[batch, sources]``;
    ``lengths`` in samples, ``[batch]``, beyond which is padding. -80 dB where target
    or estimate is silent: finite, and with a gradient of zero.
    """
    estimates, targets = torch.broadcast_tensors(estimates, targets)
    return pairwise_si_sdr(estimates, targets, lengths).diagonal(dim1=1, dim2=2)


def pairwise_si_sdr(estimates: Tensor, targets: Tensor, lengths: Tensor | None = None) -> Tensor:
    """:func:`si_sdr` of each pair, ``[batch, targets, estimates]``."""
    dtype = torch.promote_types(estimates.dtype, torch.float32)
    sources = targets.shape[2]
    with torch.autocast(estimates.device.type, enabled=False):
        covariance = _Covariance.apply(targets, estimates, lengths)
        energy = covariance.diagonal(dim1=1, dim2=2)
        reference, power = energy[:, :sources, None], energy[:, None, sources:]
        inner = covariance[:, :sources, sources:]
        scale = inner / (reference + EPS)
        projection = scale.square() * reference
        residual = (power - 2 * scale * inner + projection).clamp_min(0)
        ratio = projection / (residual + EPS)
        return (10 * torch.log10(ratio + EPS)).to(dtype)


def pit_si_sdr_loss(
    estimates: Tensor, targets: Tensor, lengths: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Negative SI-SDR under the best assignment of estimates to targets, in dB.

    Yu et al. 2017, "Permutation invariant training", utterance level. As for
    :func:`si_sdr` → the loss, averaged over the sources, ``[batch]``; and the
    permutation ``[batch, sources]``, whose entry ``i`` is the estimate of target ``i``.
    """
    scores = pairwise_si_sdr(estimates, targets, lengths)
    permutation = _best_permutation(scores.detach())
    chosen = scores.gather(2, permutation.unsqueeze(2)).squeeze(2)
    return -chosen.mean(dim=1), permutation


def reorder(estimates: Tensor, permutation: Tensor) -> Tensor:
    """Puts estimates ``[batch, time, sources]`` into the order of their targets."""
    return estimates.gather(2, permutation.unsqueeze(1).expand_as(estimates))


def is_silent(signals: Tensor) -> Tensor:
    """Which signals are constant: ``[batch, time, sources]`` → ``[batch, sources]``."""
    centred = signals - signals.mean(1, keepdim=True)
    return centred.square().sum(1) < SILENCE_ENERGY


class _Covariance(Function):
    """Inner products over time of signals without their means.

    ``[batch, time, sources]`` twice → ``[batch, both, both]``: all that SI-SDR needs,
    in one product, in float64, as its residual would cancel in float32. Autograd's own
    backward pass has the same bits, but takes three times as long.
    """

    @staticmethod
    def forward(ctx: Any, targets: Tensor, estimates: Tensor, lengths: Tensor | None) -> Tensor:
        device, sources = targets.device, targets.shape[2]
        # Apple's GPUs know no float64.
        dtype = torch.float32 if device.type == "mps" else torch.float64
        shape = (*targets.shape[:2], sources + estimates.shape[2])
        signals = torch.empty(shape, dtype=dtype, device=device)
        signals[..., :sources], signals[..., sources:] = targets, estimates
        time: int | Tensor = targets.shape[1]
        inside = None
        if lengths is not None:
            time = lengths.to(signals)[:, None, None]
            inside = torch.arange(shape[1], device=device)[None, :, None] < time
            # where, not a product: what lies in the padding may be NaN
            signals = torch.where(inside, signals, signals.new_zeros(()))
        total = signals.sum(dim=1, keepdim=True)
        ctx.save_for_backward(signals, total, inside)
        ctx.time, ctx.dtypes = time, (targets.dtype, estimates.dtype)
        ctx.columns = slice(None, sources), slice(sources, None)
        return signals.mT @ signals - total.mT @ total / time

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        signals, total, inside = ctx.saved_tensors
        of_term = -gradient / ctx.time
        of_total = total @ of_term + (of_term @ total.mT).mT
        gradients: list[Tensor | None] = [None, None]
        for i in (i for i in (0, 1) if ctx.needs_input_grad[i]):
            own = ctx.columns[i]
            # Three sums in autograd's order, for its bits.
            result = signals @ gradient[:, :, own]
            result += signals @ gradient.mT[:, :, own]
            result += of_total[:, :, own]
            if inside is not None:
                result = torch.where(inside, result, result.new_zeros(()))
            gradients[i] = result.to(ctx.dtypes[i])
        return *gradients, None


def _best_permutation(scores: Tensor) -> Tensor:
    """The assignment with the highest mean score, ``[batch, sources]``."""
    sources = scores.shape[1]
    if sources > MAX_LISTED_SOURCES:
        # NaN would be refused; such a batch is dropped by its loss anyway.
        costs = scores.neg().nan_to_num(0.0).cpu().numpy()
        rows = [linear_sum_assignment(cost)[1] for cost in costs]
        return torch.as_tensor(np.stack(rows), device=scores.device)
    orders = torch.tensor(list(permutations(range(sources))), device=scores.device)
    targets = torch.arange(sources, device=scores.device)
    totals = scores[:, targets, orders].sum(dim=-1)  # [batch, orders]
    return orders[totals.argmax(dim=1)]
