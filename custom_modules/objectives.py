"""SI-SDR and its permutation-invariant loss.

Both are evaluated in float32 (float64 stays float64) outside autocast, never
change their inputs, and have finite values and gradients for silence.
"""

from itertools import permutations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

#: Keeps ratios and logarithms finite; SpeechBrain's value, so that both agree.
#: It is absolute: below an amplitude of about 1e-3 it begins to show.
EPS = 1e-8

#: Up to here all permutations are compared at once (6! = 720); beyond, the
#: Hungarian algorithm finds the best one without listing them.
MAX_LISTED_SOURCES = 6


def si_sdr(estimates, targets, lengths=None):
    """Scale-invariant signal-to-distortion ratio, after removing the mean.

    Source: Le Roux et al. 2019, "SDR – half-baked or well done?", eq. 5.

    Arguments
    ---------
    estimates : torch.Tensor
        Estimated sources, ``[batch, time, sources]``.
    targets : torch.Tensor
        Reference sources, ``[batch, time, sources]``, or broadcastable to it.
    lengths : torch.Tensor, optional
        True lengths in samples, ``[batch]``. What lies beyond is padding and
        takes no part. By default everything counts.

    Returns
    -------
    torch.Tensor
        dB, ``[batch, sources]``. -80 dB where the target or the estimate is
        silent: finite, and with a gradient of zero.

    Example
    -------
    >>> target = torch.tensor([1.0, -1.0, 1.0, -1.0]).view(1, 4, 1)
    >>> noise = torch.tensor([1.0, 1.0, -1.0, -1.0]).view(1, 4, 1)
    >>> si_sdr(3 * target + 0.3 * noise, target)  # a tenth of the amplitude
    tensor([[20.0000]])
    """
    estimates, targets = torch.broadcast_tensors(estimates, targets)
    return pairwise_si_sdr(estimates, targets, lengths).diagonal(dim1=1, dim2=2)


def pairwise_si_sdr(estimates, targets, lengths=None):
    """SI-SDR of every estimate against every target.

    Arguments
    ---------
    estimates : torch.Tensor
        Estimated sources, ``[batch, time, sources]``.
    targets : torch.Tensor
        Reference sources, ``[batch, time, sources]``.
    lengths : torch.Tensor, optional
        True lengths in samples, ``[batch]``.

    Returns
    -------
    torch.Tensor
        dB, ``[batch, target, estimate]``.

    Example
    -------
    >>> sources = torch.randn(1, 1000, 3)
    >>> pairwise_si_sdr(sources, sources).argmax(-1)
    tensor([[0, 1, 2]])
    """
    dtype = torch.promote_types(estimates.dtype, torch.float32)
    sources = targets.shape[2]
    with torch.autocast(estimates.device.type, enabled=False):
        covariance = _covariance(torch.cat([targets, estimates], dim=2), lengths)
        energy = covariance.diagonal(dim1=1, dim2=2)
        reference, power = energy[:, :sources, None], energy[:, None, sources:]
        inner = covariance[:, :sources, sources:]
        scale = inner / (reference + EPS)
        projection = scale.square() * reference
        residual = (power - 2 * scale * inner + projection).clamp_min(0)
        ratio = projection / (residual + EPS)
        return (10 * torch.log10(ratio + EPS)).to(dtype)


def pit_si_sdr_loss(estimates, targets, lengths=None):
    """Negative SI-SDR under the best assignment of estimates to targets.

    Source: Yu et al. 2017, "Permutation invariant training", utterance level.

    Arguments
    ---------
    estimates : torch.Tensor
        Estimated sources, ``[batch, time, sources]``, in any order.
    targets : torch.Tensor
        Reference sources, ``[batch, time, sources]``; any number of sources.
    lengths : torch.Tensor, optional
        True lengths in samples, ``[batch]``.

    Returns
    -------
    loss : torch.Tensor
        Negative SI-SDR in dB, averaged over the sources, ``[batch]``.
    permutation : torch.Tensor
        ``[batch, sources]``; entry ``i`` is the estimate that belongs to
        target ``i``, as :func:`reorder` takes it.

    Example
    -------
    >>> sources = torch.randn(1, 1000, 2)
    >>> loss, permutation = pit_si_sdr_loss(sources.flip(-1), sources)
    >>> permutation
    tensor([[1, 0]])
    >>> bool(loss < -60)
    True
    """
    scores = pairwise_si_sdr(estimates, targets, lengths)
    permutation = _best_permutation(scores.detach())
    chosen = scores.gather(2, permutation.unsqueeze(2)).squeeze(2)
    return -chosen.mean(dim=1), permutation


def reorder(estimates, permutation):
    """Puts estimates into the order of their targets.

    Arguments
    ---------
    estimates : torch.Tensor
        ``[batch, time, sources]``.
    permutation : torch.Tensor
        ``[batch, sources]``, from :func:`pit_si_sdr_loss`.

    Returns
    -------
    torch.Tensor
        ``[batch, time, sources]``.

    Example
    -------
    >>> reorder(torch.tensor([[[1.0, 2.0]]]), torch.tensor([[1, 0]]))
    tensor([[[2., 1.]]])
    """
    return estimates.gather(2, permutation.unsqueeze(1).expand_as(estimates))


def _covariance(signals, lengths):
    """Inner products over time of signals without their means, [batch, s, s].

    Everything that SI-SDR needs, in one matrix product. In float64, as its
    residual is a difference that would cancel in float32.
    """
    # Apple's GPUs know no float64.
    on_mps = signals.device.type == "mps"
    signals = signals.to(torch.float32 if on_mps else torch.float64)
    time = signals.shape[1]
    if lengths is not None:
        time = lengths.to(signals)[:, None, None]
        samples = torch.arange(signals.shape[1], device=signals.device)
        # where, not a product: what lies in the padding may be NaN
        inside = samples[None, :, None] < time
        signals = torch.where(inside, signals, signals.new_zeros(()))
    total = signals.sum(dim=1, keepdim=True)
    return signals.transpose(1, 2) @ signals - total.transpose(1, 2) @ total / time


def _best_permutation(scores):
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
