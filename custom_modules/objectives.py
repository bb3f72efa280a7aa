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
    with torch.autocast(estimates.device.type, enabled=False):
        return si_sdr_of_products(*inner_products(estimates, targets, lengths)).to(dtype)


def si_sdr_of_products(reference: Tensor, power: Tensor, inner: Tensor) -> Tensor:
    """:func:`pairwise_si_sdr` of what :func:`inner_products` returns."""
    scale = inner / (reference + EPS)
    projection = scale.square() * reference
    residual = (power - 2 * scale * inner + projection).clamp_min(0)
    ratio = projection / (residual + EPS)
    return 10 * torch.log10(ratio + EPS)


def inner_products(
    estimates: Tensor, targets: Tensor, lengths: Tensor | None = None, centred: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Energies of targets and of estimates, and their products, summed over time.

    ``[batch, targets, 1]``, ``[batch, 1, estimates]``, ``[batch, targets, estimates]``, in
    float64, of signals without their means if ``centred``. Call it outside autocast.
    """
    sources = targets.shape[2]
    products = _Products.apply(targets, estimates, lengths, centred)
    energy = products.diagonal(dim1=1, dim2=2)
    reference, power = energy[:, :sources, None], energy[:, None, sources:]
    return reference, power, products[:, :sources, sources:]


def pit_si_sdr_loss(
    estimates: Tensor, targets: Tensor, lengths: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Negative SI-SDR under the best assignment of estimates to targets, in dB.

    Yu et al. 2017, "Permutation invariant training", utterance level. As for
    :func:`si_sdr` → the loss, averaged over the sources, ``[batch]``; and the
    permutation ``[batch, sources]``, whose entry ``i`` is the estimate of target ``i``.
    What lies behind as many estimates as there are targets takes no part.
    """
    estimates = estimates[..., : targets.shape[2]]
    scores, permutation = best_of_pairs(pairwise_si_sdr(estimates, targets, lengths))
    return -scores.mean(dim=1), permutation


def best_of_pairs(scores: Tensor) -> tuple[Tensor, Tensor]:
    """The scores of the assignment with the highest mean, and it: ``[batch, sources]``.

    ``scores`` ``[batch, targets, estimates]``; entry ``i`` is the estimate of target ``i``.
    """
    permutation = _best_permutation(scores.detach())
    return scores.gather(2, permutation.unsqueeze(2)).squeeze(2), permutation


class MultiStageLoss:
    """SI-SDR of the estimates, and of the spectra of what a decoder's stages begin with.

    SepReformer's: in training it returns those waveforms behind the estimates, as many of
    each stage. Theirs is the SNR of magnitudes, the target scaled as SI-SDR scales it, under
    an assignment of each stage's own; from ``decay_epoch`` on their weight falls by
    ``decay`` every five epochs. Source: Shin et al. 2024, "Separate and reconstruct",
    section 2.4.
    """

    def __init__(
        self,
        alpha: float = 0.4,  # weight of the stages' mean, of 1
        epoch_counter: Any = None,  # SpeechBrain's; without, the weight stays
        decay_epoch: int = 101,
        decay: float = 0.8,
        least: float = -30.0,  # dB; what is better is good enough
        n_fft: int = 512,  # samples in a frame, a quarter between frames
    ) -> None:
        self.alpha, self.epoch_counter, self.least = alpha, epoch_counter, least
        self.decay_epoch, self.decay, self.n_fft = decay_epoch, decay, n_fft

    def __call__(
        self, estimates: Tensor, targets: Tensor, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """As :func:`pit_si_sdr_loss`, of ``[batch, time, sources * (1 + stages)]``."""
        sources = targets.shape[2]
        estimates, *stages = estimates.split(sources, dim=2)
        loss, permutation = self._assign(pairwise_si_sdr(estimates, targets, lengths))
        if stages:
            scores = [self._magnitude_snr(stage, targets, lengths) for stage in stages]
            auxiliary = torch.stack([self._assign(score)[0] for score in scores]).mean(0)
            weight = self._weight()
            loss = (1 - weight) * loss + weight * auxiliary
        return loss, permutation

    def _assign(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        chosen, permutation = best_of_pairs(scores)
        return (-chosen).clamp_min(self.least).mean(dim=1), permutation

    def _weight(self) -> float:
        epoch = getattr(self.epoch_counter, "current", 0)
        if epoch < self.decay_epoch:
            return self.alpha
        return self.alpha * self.decay ** (1 + (epoch - self.decay_epoch) // 5)

    def _magnitude_snr(self, waveforms: Tensor, targets: Tensor, lengths: Tensor | None) -> Tensor:
        """SNR of the magnitudes of each pair, dB, ``[batch, targets, estimates]``."""
        with torch.autocast(targets.device.type, enabled=False):
            waveforms, targets = (_centre(x, lengths) for x in (waveforms, targets))
            energy = targets.square().sum(1)[:, :, None]
            scale = (targets.mT @ waveforms / (energy + EPS)).clamp_min(0.01)
            references, spectra = self._magnitudes(targets), self._magnitudes(waveforms)
            # [batch, targets, estimates]: squares of differences, multiplied out
            power = references.square().sum(2)[:, :, None] * scale.square()
            residual = power - 2 * scale * (references @ spectra.mT)
            residual = (residual + spectra.square().sum(2)[:, None]).clamp_min(0)
            return 10 * torch.log10(power / (residual + EPS) + EPS)

    def _magnitudes(self, waveforms: Tensor) -> Tensor:
        """``[batch, time, sources]`` → ``[batch, sources, points]``; zero has no gradient."""
        signals = waveforms.mT
        hop = self.n_fft // 4
        missing = max(self.n_fft - signals.shape[2], (self.n_fft - signals.shape[2]) % hop)
        signals = torch.nn.functional.pad(signals, (0, missing))
        window = torch.hann_window(self.n_fft, dtype=signals.dtype, device=signals.device)
        frames = signals.unfold(2, self.n_fft, hop) * window
        power = torch.view_as_real(torch.fft.rfft(frames)).square().sum(-1).flatten(2)
        return torch.where(power > 0, power, 1).sqrt() * (power > 0)


def _centre(signals: Tensor, lengths: Tensor | None) -> Tensor:
    """Without their means, in float32 or more; padding becomes zero."""
    signals = signals.to(torch.promote_types(signals.dtype, torch.float32))
    if lengths is None:
        return signals - signals.mean(1, keepdim=True)
    time = lengths.to(signals)[:, None, None]
    inside = torch.arange(signals.shape[1], device=signals.device)[None, :, None] < time
    signals = torch.where(inside, signals, 0)
    return torch.where(inside, signals - signals.sum(1, keepdim=True) / time, 0)


def reorder(estimates: Tensor, permutation: Tensor) -> Tensor:
    """Puts estimates ``[batch, time, sources]`` into the order of their targets."""
    return estimates.gather(2, permutation.unsqueeze(1).expand_as(estimates))


def is_silent(signals: Tensor) -> Tensor:
    """Which signals are constant: ``[batch, time, sources]`` → ``[batch, sources]``."""
    centred = signals - signals.mean(1, keepdim=True)
    return centred.square().sum(1) < SILENCE_ENERGY


class _Products(Function):
    """Inner products over time, if ``centred`` of signals without their means.

    ``[batch, time, sources]`` twice → ``[batch, both, both]``: all that SI-SDR needs,
    in one product, in float64, as its residual would cancel in float32. Autograd's own
    backward pass has the same bits, but takes three times as long.
    """

    @staticmethod
    def forward(
        ctx: Any, targets: Tensor, estimates: Tensor, lengths: Tensor | None, centred: bool
    ) -> Tensor:
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
        ctx.columns, ctx.centred = (slice(None, sources), slice(sources, None)), centred
        products = signals.mT @ signals
        return products - total.mT @ total / time if centred else products

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
            if ctx.centred:
                result += of_total[:, :, own]
            if inside is not None:
                result = torch.where(inside, result, result.new_zeros(()))
            gradients[i] = result.to(ctx.dtypes[i])
        return *gradients, None, None


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
