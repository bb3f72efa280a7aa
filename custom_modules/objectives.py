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
    with torch.autocast(estimates.device.type, enabled=False):
        estimates, targets = (
            _zero_mean(estimates, lengths),
            _zero_mean(targets, lengths),
        )
        return _si_sdr_of_centred(estimates, targets)


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
    with torch.autocast(estimates.device.type, enabled=False):
        estimates, targets = (
            _zero_mean(estimates, lengths),
            _zero_mean(targets, lengths),
        )
        return _si_sdr_of_centred(estimates[:, :, None, :], targets[:, :, :, None])


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


def _zero_mean(signals, lengths):
    """Removes the mean over time, and whatever lies beyond the true length."""
    signals = signals.to(torch.promote_types(signals.dtype, torch.float32))
    if lengths is None:
        return signals - signals.mean(dim=1, keepdim=True)
    time = torch.arange(signals.shape[1], device=signals.device)
    mask = (time < lengths.to(signals.device)[:, None]).to(signals).unsqueeze(2)
    mean = (signals * mask).sum(dim=1, keepdim=True) / mask.sum(dim=1, keepdim=True)
    return (signals - mean) * mask


def _si_sdr_of_centred(estimates, targets):
    """SI-SDR over dimension 1 of signals without a mean; the rest broadcasts."""
    scale = (estimates * targets).sum(1) / (targets.square().sum(1) + EPS)
    projection = scale.unsqueeze(1) * targets
    # The explicit residual, not ‖e‖² - ‖p‖²: that difference cancels in float32.
    residual = (estimates - projection).square().sum(1)
    return 10 * torch.log10(projection.square().sum(1) / (residual + EPS) + EPS)


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
