"""A separator of two bands, whose order hangs on the mixture: what is known to be right."""

import torch
from scipy.signal import firwin
from torch import Tensor, nn

RATE = 8000


class Bands(nn.Module):
    """Low and high frequencies, at another level, and in either order and sign."""

    def __init__(self) -> None:
        super().__init__()
        low = torch.from_numpy(firwin(65, 900, fs=RATE)).float()
        high = -low
        high[32] += 1
        self.bands = nn.Conv1d(1, 2, 65, padding=32, bias=False)
        self.bands.weight.data = torch.stack([low, high])[:, None]

    def forward(self, mixture: Tensor) -> Tensor:
        """``[batch, time]`` → ``[batch, time, 2]``."""
        bands = 0.4 * self.bands(mixture[:, None]).mT
        swaps = mixture.mean(1) > 0
        swapped = torch.where(swaps[:, None, None], bands.flip(2), bands)
        return torch.where((mixture[:, -1] > 0)[:, None, None], -swapped, swapped)
