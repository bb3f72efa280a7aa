"""A model that returns known signals, and recordings for it."""

import numpy as np
import torch


class Halves(torch.nn.Module):
    """The mixture, and half of it the other way round."""

    def forward(self, mixture):
        return torch.stack([mixture, -mixture / 2], dim=2)


def speechlike(seconds, rate, channels=1, peak=0.4):
    """Noise below 2 kHz, which any rate here can hold."""
    rng = np.random.default_rng(7)
    spectrum = np.fft.rfft(rng.normal(size=(round(seconds * rate), channels)), axis=0)
    spectrum[round(2000 * seconds) :] = 0
    signal = np.fft.irfft(spectrum, round(seconds * rate), axis=0)
    fade = np.minimum(1, np.arange(len(signal)) / (0.02 * rate))[:, None]
    signal *= fade * fade[::-1]
    return peak * signal / np.abs(signal).max()


def scaled(model, gain):
    """The same architecture with other weights."""
    other = torch.nn.Sequential(torch.nn.Linear(1, 1, bias=False), torch.nn.Flatten())
    torch.nn.init.constant_(other[0].weight, gain)
    model.mods["separator"] = torch.nn.Sequential(torch.nn.Unflatten(1, (-1, 1)), other, Halves())
    return model
