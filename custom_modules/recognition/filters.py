"""Augmentation of a recogniser's training: voices through filters, and of other throats."""

import math

import torch
from torch import Tensor, nn


class RandomFilter(nn.Module):
    """Filters each signal ``[batch, time]`` by a random smooth response.

    Its gains, uniform in ±``gain_db``, stand at ``points`` frequencies, evenly in mel from 0 Hz
    to the Nyquist frequency, and linearly in dB between. After FilterAugment (Nam, Kim and
    Park 2022).
    """

    def __init__(self, sample_rate: int, points: int = 8, gain_db: float = 10.0) -> None:
        super().__init__()
        self.sample_rate, self.points, self.gain_db = sample_rate, points, gain_db

    def forward(self, signals: Tensor) -> Tensor:
        spectra = torch.fft.rfft(signals)
        hertz = torch.linspace(0, self.sample_rate / 2, spectra.shape[1])
        place = _of_mel(hertz, self.sample_rate) * (self.points - 1)
        below = place.long().clamp_max(self.points - 2)
        gains = (2 * torch.rand(len(signals), self.points) - 1) * self.gain_db
        curves = torch.lerp(gains[:, below], gains[:, below + 1], place - below)
        factors = (10 ** (curves / 20)).to(signals)
        return torch.fft.irfft(spectra * factors, n=signals.shape[1])


class RandomWarp(nn.Module):
    """Moves the formants of each example of mel features ``[batch, frames, mels]``.

    What is at a frequency comes to a multiple of it, log-uniform from 1 / ``most`` to
    ``most``; time stays. Vocal tract length perturbation, after Jaitly and Hinton (2013).
    """

    def __init__(self, sample_rate: int, most: float = 1.2) -> None:
        super().__init__()
        self.sample_rate, self.most = sample_rate, most

    def forward(self, features: Tensor) -> Tensor:
        bands = features.shape[2]
        # Bands' centres are evenly in mel between 0 Hz and the Nyquist frequency.
        hertz = _hertz(torch.arange(1, bands + 1) / (bands + 1), self.sample_rate)
        factors = self.most ** (2 * torch.rand(len(features), 1) - 1)
        source = _of_mel(hertz / factors, self.sample_rate) * (bands + 1) - 1
        source = source.clamp(0, bands - 1).to(features.device)
        below = source.long().clamp_max(bands - 2)

        def bands_at(places: Tensor) -> Tensor:
            return features.gather(2, places[:, None].expand_as(features))

        return torch.lerp(bands_at(below), bands_at(below + 1), (source - below)[:, None])


def _of_mel(hertz: Tensor, sample_rate: int) -> Tensor:
    """Where frequencies are in mel, as parts of the Nyquist frequency's."""
    return torch.log1p(hertz / 700) / math.log1p(sample_rate / 1400)


def _hertz(of_mel: Tensor, sample_rate: int) -> Tensor:
    """The inverse of :func:`_of_mel`."""
    return 700 * torch.expm1(of_mel * math.log1p(sample_rate / 1400))
