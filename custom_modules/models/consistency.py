"""Sources that sum to the mixture, whatever separates it."""

import torch
from torch import Tensor, nn

from custom_modules.errors import InputError


def sum_to(mixture: Tensor, estimates: Tensor) -> Tensor:
    """The nearest sources that sum to the mixture: each gets an equal share of the rest.

    ``[batch, time]`` and ``[batch, time, sources]`` → the latter. Source: Wisdom et al. 2019,
    "Differentiable consistency constraints for improved deep speech enhancement", with
    their unweighted least squares, the default of the authors' code.
    """
    estimates = estimates.to(mixture)  # half precision would not sum up
    rest = mixture - estimates.sum(2)
    return estimates + rest.unsqueeze(2) / estimates.shape[2]


class MixtureConsistent(nn.Module):
    """A separator whose sources sum to the mixture, in training and after it.

    What it returns behind ``num_sources``, as of earlier stages, stays as it is.
    """

    def __init__(self, separator: nn.Module, num_sources: int | None = None) -> None:
        super().__init__()
        if num_sources == 1:
            raise InputError("MixtureConsistent: one source would be the mixture itself")
        self.separator, self.num_sources = separator, num_sources

    def forward(self, mixture: Tensor) -> Tensor:
        """``[batch, time]`` → ``[batch, time, sources]``."""
        estimates = self.separator(mixture)
        sources = sum_to(mixture, estimates[..., : self.num_sources])
        if sources.shape[2] == estimates.shape[2]:
            return sources
        return torch.cat([sources, estimates[..., self.num_sources :]], dim=2)


def without_consistency(separator: nn.Module) -> nn.Module:
    """What is in a :class:`MixtureConsistent`, or the separator itself."""
    return separator.separator if isinstance(separator, MixtureConsistent) else separator
