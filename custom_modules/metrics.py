"""What an estimate is worth: SI-SDR, its improvement, and two references.

Removing the background alone raises SI-SDR on a noisy mixture without parting
the speakers. Two figures tell the difference: the background-removal oracle,
which answers the clean sum of the speakers for each of them, and the
speaker-to-speaker SI-SIR, which only separation raises.
"""

import torch

from custom_modules.objectives import pit_si_sdr_loss, reorder, si_sdr

#: A target below this energy is silent, and no ratio to it means anything.
SILENCE_ENERGY = 1e-8


def si_sir(estimates, targets):
    """Scale-invariant signal-to-interference ratio of each estimate.

    The estimate is projected on all targets together; what does not belong to
    its own target there is interference. Noise takes no part.

    Source: Le Roux et al. 2019, "SDR – half-baked or well done?", section 2.3.

    Arguments
    ---------
    estimates : torch.Tensor
        ``[batch, time, sources]``, in the order of their targets.
    targets : torch.Tensor
        ``[batch, time, sources]``, two sources or more.

    Returns
    -------
    torch.Tensor
        dB, float64, ``[batch, sources]``; NaN where a target is silent.

    Example
    -------
    >>> targets = torch.tensor([[[1.0, 1], [-1, 1], [1, -1], [-1, -1]]])
    >>> estimates = targets + 0.1 * targets.flip(-1)
    >>> si_sir(estimates, targets).round(decimals=2)
    tensor([[20., 20.]], dtype=torch.float64)
    """
    estimates, targets = estimates.double(), targets.double()
    estimates = estimates - estimates.mean(1, keepdim=True)
    targets = targets - targets.mean(1, keepdim=True)
    gram = targets.transpose(1, 2) @ targets  # [batch, sources, sources]
    inner = targets.transpose(1, 2) @ estimates  # [batch, target, estimate]
    own = inner.diagonal(dim1=1, dim2=2).square() / gram.diagonal(dim1=1, dim2=2)
    spanned = (inner * (torch.linalg.pinv(gram) @ inner)).sum(1)
    # Nested projections: their difference is orthogonal, so energies subtract.
    return 10 * torch.log10(own / (spanned - own).clamp_min(own * 1e-12))


def score(estimates, targets, mixture):
    """Scores of a batch, aligned by the best permutation.

    Arguments
    ---------
    estimates : torch.Tensor
        ``[batch, time, sources]``, in any order.
    targets : torch.Tensor
        ``[batch, time, sources]``.
    mixture : torch.Tensor
        ``[batch, time]``.

    Returns
    -------
    scores : dict of str to torch.Tensor
        dB, ``[batch, sources]``: ``si_sdr``, ``si_sdr_mixture`` and their
        difference ``si_sdri``; with two sources or more ``oracle_si_sdri``
        (background removal alone), ``si_sir``, ``si_sir_mixture`` and their
        difference ``si_siri``. NaN where a target is silent, the latter also where
        the other one is.
    aligned : torch.Tensor
        The estimates in the order of the targets.

    Example
    -------
    >>> targets = torch.randn(1, 8000, 2)
    >>> scores, _ = score(targets.flip(-1), targets, targets.sum(-1))
    >>> bool((scores["si_sdri"] > 60).all())
    True
    """
    _, permutation = pit_si_sdr_loss(estimates, targets)
    aligned = reorder(estimates, permutation)
    mixtures = mixture.unsqueeze(2).expand_as(targets)
    scores = {
        "si_sdr": si_sdr(aligned, targets),
        "si_sdr_mixture": si_sdr(mixtures, targets),
    }
    scores["si_sdri"] = scores["si_sdr"] - scores["si_sdr_mixture"]
    if targets.shape[2] > 1:
        speech = targets.sum(2, keepdim=True).expand_as(targets)
        scores["oracle_si_sdri"] = si_sdr(speech, targets) - scores["si_sdr_mixture"]
        scores["si_sir"] = si_sir(aligned, targets)
        scores["si_sir_mixture"] = si_sir(mixtures, targets)
        scores["si_siri"] = scores["si_sir"] - scores["si_sir_mixture"]
    silent = is_silent(targets)
    # A speaker who is not there cannot interfere: two-speaker figures mean nothing.
    alone = silent.any(1, keepdim=True)
    for name, values in scores.items():
        of_two = name not in ("si_sdr", "si_sdr_mixture", "si_sdri")
        hidden = silent | alone if of_two else silent
        scores[name] = values.masked_fill(hidden, float("nan"))
    return scores, aligned


def is_silent(signals):
    """Which signals are constant.

    Arguments
    ---------
    signals : torch.Tensor
        ``[batch, time, sources]``.

    Returns
    -------
    torch.Tensor
        bool, ``[batch, sources]``.

    Example
    -------
    >>> is_silent(torch.tensor([[[0.5, 1.0], [0.5, -1.0]]]))
    tensor([[ True, False]])
    """
    centred = signals - signals.mean(1, keepdim=True)
    return centred.square().sum(1) < SILENCE_ENERGY
