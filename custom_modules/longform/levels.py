"""How loud the sources are: SI-SDR leaves that open, so the mixture decides."""

import torch
import torch.nn.functional as F

from custom_modules.errors import InputError

NORMALIZATIONS = ("mixture", "peak", "none")

_FRAME_SECONDS = 0.05
#: How far the sum may stay below the mixture (-3 dB).
_LEAST_SHARE = 0.5**0.5


def check_normalize(normalize):
    """Refuses names that mean nothing.

    Raises
    ------
    InputError
        If it is none of :data:`NORMALIZATIONS`.
    """
    if normalize not in NORMALIZATIONS:
        known = ", ".join(NORMALIZATIONS)
        raise InputError(f"normalize={normalize!r} is unknown; there are {known}")


class MixtureLevel:
    """The gain with which the sources sum to about the mixture's level.

    It is the least-squares one, which keeps speech at the level that it has within
    noise, of all that was heard so far: a pause does not change it.

    Arguments
    ---------
    sample_rate : int

    Example
    -------
    >>> level = MixtureLevel(8000)
    >>> mixture = torch.randn(8000)
    >>> round(level.gain(mixture, mixture / 4), 3)
    4.0
    >>> round(level.gain(mixture, torch.zeros(8000)), 3)
    4.0
    """

    def __init__(self, sample_rate):
        self.frame = max(1, round(_FRAME_SECONDS * sample_rate))
        self.sums = torch.zeros(4, dtype=torch.float64)

    def gain(self, mixture, total):
        """Takes a chunk in.

        Arguments
        ---------
        mixture, total : torch.Tensor
            The chunk's mixture and the sum of its sources, ``[time]``.

        Returns
        -------
        float
        """
        mixture, total = self._frames(mixture), self._frames(total)
        power, mixture_power = total.square().sum(1), mixture.square().sum(1)
        self.sums += torch.stack(
            [
                (mixture * total).sum(),
                power.sum(),
                # Frames count by the power of the sources: where there is noise
                # alone, the mixture's level says nothing about theirs.
                (mixture_power * power).sum(),
                power.square().sum(),
            ]
        )
        product, energy, joint, squares = self.sums.tolist()
        if not (energy > 0 and squares > 0):
            return 1.0
        return max(product / energy, _LEAST_SHARE * (joint / squares) ** 0.5)

    def _frames(self, signal):
        signal = signal.double()
        return F.pad(signal, (0, -len(signal) % self.frame)).view(-1, self.frame)


def scale_to_peak(sources):
    """Scales each source to a peak of 1, as SpeechBrain does; silence stays.

    Arguments
    ---------
    sources : torch.Tensor
        ``[batch, time, sources]``.

    Returns
    -------
    torch.Tensor

    Example
    -------
    >>> scale_to_peak(torch.tensor([[[0.5, 0.0], [-0.25, 0.0]]]))
    tensor([[[ 1.0000,  0.0000],
             [-0.5000,  0.0000]]])
    """
    if not sources.shape[1]:
        return sources
    peak = sources.abs().amax(1, keepdim=True)
    return sources / torch.where(peak > 0, peak, 1)
