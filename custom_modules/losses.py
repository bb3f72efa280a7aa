"""Losses that bear silence, and the one table of the losses that have a name.

All are called as :func:`pit_si_sdr_loss` is, permutation-invariant, and leave out what a
model may return behind the sources. To add one, write it and an entry of :data:`LOSSES`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from custom_modules.errors import InputError, check_number
from custom_modules.objectives import (
    EPS,
    SILENCE_ENERGY,
    MultiStageLoss,
    best_of_pairs,
    inner_products,
    pit_si_sdr_loss,
    si_sdr_of_products,
)

#: ``(estimates [batch, time, sources], targets, lengths=None)`` → loss ``[batch]``, dB;
#: permutation ``[batch, sources]``. With an attribute ``takes_mixture`` that is true it
#: takes the ``mixture``, ``[batch, time]``, by that name, too.
Loss = Callable[..., tuple[Tensor, Tensor]]

_NEPERS = math.log(10) / 10  # of power, in a decibel


class SilenceBearingLoss(ABC):
    """A negative ratio in dB under the best assignment, finite and limited for silence.

    Where a target is silent, passing the mixture through already earns all there is to
    earn, and models learnt to leave an output silent for it. So the score of an example
    with a silent target approaches ``silent_limit`` and never passes it. Beyond
    ``clamp`` a score counts no more, and has a gradient of zero. Both are in dB; None is no
    limit. Without ``mixture``, ``[batch, time]``, it is the sum of the targets.
    """

    takes_mixture = True
    centred = False  # whether means of signals take no part
    limit = math.inf  # dB, that any score approaches

    def __init__(self, clamp: float | None = None, silent_limit: float | None = 5.0) -> None:
        for option, value in (("clamp", clamp), ("silent_limit", silent_limit)):
            if value is not None:
                check_number(f"{type(self).__name__}: {option}", value, least=0, most=1000)
        self.clamp, self.silent_limit = clamp, silent_limit

    def __call__(
        self,
        estimates: Tensor,
        targets: Tensor,
        lengths: Tensor | None = None,
        mixture: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """As :func:`pit_si_sdr_loss`."""
        estimates = estimates[..., : targets.shape[2]]
        dtype = torch.promote_types(estimates.dtype, torch.float32)
        with torch.autocast(estimates.device.type, enabled=False):
            mixture = targets.sum(2) if mixture is None else mixture
            products = inner_products(estimates, targets, lengths, self.centred)
            silent = products[0][:, :, 0] < SILENCE_ENERGY
            scores, permutation = self._scores(products, silent, _energy(mixture, lengths))
        return -scores.to(dtype), permutation

    @abstractmethod
    def _scores(
        self, products: tuple[Tensor, Tensor, Tensor], silent: Tensor, mixture: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Score and permutation, of inner products, silent targets, the mixture's energy."""

    def _limited(self, scores: Tensor, has_silence: Tensor) -> Tensor:
        """Of scores in dB, ``[batch, …]``, of examples with a silent target or without."""
        of_silence = math.inf if self.silent_limit is None else self.silent_limit
        limits = torch.where(has_silence, min(of_silence, self.limit), self.limit)
        scores = soft_limit(scores, limits.view(-1, *[1] * (scores.ndim - 1)))
        return scores if self.clamp is None else scores.clamp_max(self.clamp)


class SaSdr(SilenceBearingLoss):
    """Source-aggregated SDR: energy of all targets over that of all errors.

    A silent target only adds what its estimate leaves; where all are silent, the mixture
    is what errors are compared with. Levels count, other than for SI-SDR. Source: von
    Neumann et al. 2022, "SA-SDR: a novel loss function for separation of meeting style
    data", eq. 7.
    """

    def _scores(
        self, products: tuple[Tensor, Tensor, Tensor], silent: Tensor, mixture: Tensor
    ) -> tuple[Tensor, Tensor]:
        errors, permutation = best_of_pairs(-_errors(*products))
        signal = products[0].sum((1, 2))
        signal = torch.where(silent.all(1), mixture, signal)
        scores = _ratio(signal, -errors.sum(1))
        return self._limited(scores, silent.any(1)), permutation


class ThresholdedSnr(SilenceBearingLoss):
    """SNR of each source up to ``snr_max`` dB, averaged: signal over error plus τ signal.

    A silent target's is the mixture's energy over what its estimate leaves. Source:
    Wisdom et al. 2021, "What's all the FUSS about free universal sound separation
    data?", eq. 2 and 3.
    """

    def __init__(
        self, snr_max: float = 30.0, clamp: float | None = None, silent_limit: float | None = 5.0
    ) -> None:
        super().__init__(clamp, silent_limit)
        check_number("ThresholdedSnr: snr_max", snr_max, least=0, most=1000)
        self.limit = snr_max

    def _scores(
        self, products: tuple[Tensor, Tensor, Tensor], silent: Tensor, mixture: Tensor
    ) -> tuple[Tensor, Tensor]:
        signal = torch.where(silent[:, :, None], mixture[:, None, None], products[0])
        pairs = self._limited(_ratio(signal, _errors(*products)), silent.any(1))
        scores, permutation = best_of_pairs(pairs)
        return scores.mean(1), permutation


class SiSdr(SilenceBearingLoss):
    """SI-SDR averaged over the targets that are not silent, with limits; 0 if all are.

    Without a silent target or a clamp it is :func:`pit_si_sdr_loss`.
    """

    centred = True

    def _scores(
        self, products: tuple[Tensor, Tensor, Tensor], silent: Tensor, mixture: Tensor
    ) -> tuple[Tensor, Tensor]:
        pairs = self._limited(si_sdr_of_products(*products), silent.any(1))
        # No estimate of silence has an SI-SDR: none is better than the others.
        scores, permutation = best_of_pairs(pairs.masked_fill(silent[:, :, None], 0))
        return scores.sum(1) / (~silent).sum(1).clamp_min(1), permutation


class MultiLoss:
    """A weighted sum of losses, each under its own best assignment.

    So each is what it is alone, and any loss can be one of them, also by its name; the
    permutation is that of the first. Half SA-SDR, which counts a loud talker for more,
    and half thresholded SNR, which counts all alike, unless others are named.
    """

    takes_mixture = True

    def __init__(
        self,
        losses: Sequence[str | Loss] = ("sa_sdr", "thresholded_snr"),
        weights: Sequence[float] | None = None,  # alike, and 1 in all, if none are given
    ) -> None:
        weights = [1 / max(len(losses), 1)] * len(losses) if weights is None else weights
        if not losses or len(weights) != len(losses):
            raise InputError(
                f"MultiLoss: {len(weights)} weights for {len(losses)} losses; give each one"
            )
        for weight in weights:
            check_number("MultiLoss: weights", weight, least=0)
        self.parts = [(w, find_loss(x)) for w, x in zip(weights, losses, strict=True)]

    def __call__(
        self,
        estimates: Tensor,
        targets: Tensor,
        lengths: Tensor | None = None,
        mixture: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """As :func:`pit_si_sdr_loss`."""
        signals = (estimates, targets, lengths, mixture)
        results = [loss_of(loss, *signals) for _, loss in self.parts]
        weighted = [w * r[0] for (w, _), r in zip(self.parts, results, strict=True)]
        return torch.stack(weighted).sum(0), results[0][1]


#: ``--loss=NAME`` → what makes it. Objects of an hparams file need no entry.
LOSSES: dict[str, Callable[[], Loss]] = {
    "si_sdr": lambda: pit_si_sdr_loss,
    "clamped_si_sdr": lambda: SiSdr(clamp=30),
    "sa_sdr": SaSdr,
    "thresholded_snr": ThresholdedSnr,
    "snr": lambda: ThresholdedSnr(snr_max=1000),  # dB: no threshold that anything reaches
    "multi": MultiLoss,
}


def find_loss(loss: Any) -> Loss:
    """A loss by its name, or the object that an hparams file made; InputError else."""
    if isinstance(loss, str) and loss in LOSSES:
        return LOSSES[loss]()
    if isinstance(loss, str) or not callable(loss):
        raise InputError(
            f"--loss={loss}: choose one of {', '.join(LOSSES)}, or an object (!name:mine.loss)"
        )
    return loss


def check_loss(loss: Any, silent_talker: Any = None) -> None:
    """InputError of a loss that is none, or that learns nothing from silence though it shall."""
    found = find_loss(loss)
    if silent_talker and not _bears_silence(found):
        raise InputError(
            f"--silent_talker={silent_talker}: the loss learns nothing from silence; choose "
            "--loss=sa_sdr, thresholded_snr or multi"
        )


def _bears_silence(loss: Loss) -> bool:
    """Whether it learns from silent targets; of others' losses nobody knows."""
    if isinstance(loss, MultiLoss):
        return any(_bears_silence(part) for _, part in loss.parts)
    return loss is not pit_si_sdr_loss and not isinstance(loss, SiSdr | MultiStageLoss)


def loss_of(
    loss: Loss,
    estimates: Tensor,
    targets: Tensor,
    lengths: Tensor | None = None,
    mixture: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Calls a loss, with the mixture if it takes it."""
    more = {"mixture": mixture} if getattr(loss, "takes_mixture", False) else {}
    return loss(estimates, targets, lengths, **more)


def soft_limit(scores: Tensor, limits: Tensor) -> Tensor:
    """Scores that approach a limit, dB: a ratio gets that share τ of the signal as error.

    ``-10 log10(10^(-score / 10) + 10^(-limit / 10))``, finite for any of them.

    >>> soft_limit(torch.tensor([-20.0, 30.0, 80.0]), torch.tensor(30.0)).round(decimals=2)
    tensor([-20.0000,  26.9900,  30.0000])
    """
    limits = limits.to(scores)
    return -torch.logaddexp(-_NEPERS * scores, -_NEPERS * limits) / _NEPERS


def _ratio(signal: Tensor, error: Tensor) -> Tensor:
    return 10 * torch.log10((signal + EPS) / (error + EPS))


def _errors(reference: Tensor, power: Tensor, inner: Tensor) -> Tensor:
    """Energy of the difference of each pair, ``[batch, targets, estimates]``."""
    return (power - 2 * inner + reference).clamp_min(0)


def _energy(signals: Tensor, lengths: Tensor | None) -> Tensor:
    """``[batch, time]`` → ``[batch]``, in float64."""
    reference, _, _ = inner_products(signals[:, :, None], signals[:, :, None], lengths, False)
    return reference[:, 0, 0]
