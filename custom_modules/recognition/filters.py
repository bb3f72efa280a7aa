"""Augmentation of a recogniser's training: voices through filters."""

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
        place = torch.log1p(hertz / 700) / math.log1p(self.sample_rate / 1400) * (self.points - 1)
        below = place.long().clamp_max(self.points - 2)
        gains = (2 * torch.rand(len(signals), self.points) - 1) * self.gain_db
        curves = torch.lerp(gains[:, below], gains[:, below + 1], place - below)
        factors = (10 ** (curves / 20)).to(signals)
        return torch.fft.irfft(spectra * factors, n=signals.shape[1])
