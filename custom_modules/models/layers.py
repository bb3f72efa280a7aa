"""Layers that several architectures share; what half precision cannot hold is float32."""

from math import log

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def float32(x: Tensor) -> Tensor:
    """Half precision to float32; float64 stays."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def rotate(x: Tensor, frequencies: Tensor) -> Tensor:
    """Turns neighbouring channels by angles that grow with time, in float32.

    ``[…, time, channels]`` to the same shape and dtype; frequencies ``[pairs]`` in rad per
    step, channels beyond the pairs stay. Source: Su et al. 2021, "RoFormer", section 3.4.2.
    """
    turned = 2 * len(frequencies)
    with torch.autocast(x.device.type, enabled=False):
        frequencies = float32(frequencies)
        times = torch.arange(x.shape[-2], device=x.device, dtype=frequencies.dtype)
        angles = times[:, None] * frequencies  # [time, pairs]
        cosines, sines = angles.cos(), angles.sin()
        left, right = float32(x[..., :turned]).unflatten(-1, (-1, 2)).unbind(-1)
        pairs = (left * cosines - right * sines, right * cosines + left * sines)
        rotated = torch.stack(pairs, dim=-1).flatten(-2).to(x.dtype)
    return torch.cat([rotated, x[..., turned:]], dim=-1)


def sinusoids(channels: int) -> Tensor:
    """Frequencies of Vaswani et al. 2017, section 3.5, ``[channels / 2]``, rad per step."""
    return 10_000 ** -(torch.arange(0, channels, 2) / channels)


class GlobalNorm(nn.GroupNorm):
    """One mean and variance over all channels and frames of an item, in float32."""

    def __init__(self, channels: int, eps: float = 1e-8) -> None:
        super().__init__(1, channels, eps)

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, channels, …]`` to the same shape."""
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(float32(x))


class FrameNorm(nn.Module):
    """InstanceNorm over time, in float32, which of one frame alone leaves the bias."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, channels, frames]`` to the same shape."""
        with torch.autocast(x.device.type, enabled=False):
            x = F.layer_norm(float32(x), x.shape[2:], eps=self.eps)
            return torch.addcmul(self.bias[:, None], self.weight[:, None], x)


class ScaleNorm(nn.Module):
    """Divides by the root mean square of the channels, in float32; one gain for all.

    Source: Hua et al. 2022, "Transformer quality in linear time", appendix.
    """

    def __init__(self, eps: float = 1e-5) -> None:  # the least that is divided by
        super().__init__()
        self.eps = eps
        self.gain = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        """``[…, channels]`` to the same shape."""
        with torch.autocast(x.device.type, enabled=False):
            x = float32(x)
            return x / root_mean_square(x).clamp_min(self.eps) * self.gain


def root_mean_square(x: Tensor) -> Tensor:
    """Over the last axis, which stays; its gradient at zero is zero, not NaN."""
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True) * x.shape[-1] ** -0.5


def largest(*sizes: int) -> int:
    """``max``, which a trace for ONNX follows: sizes are tensors there, and stay symbols.

    >>> largest(3, 5)
    5
    """
    if not torch.jit.is_tracing():
        return max(sizes)
    first, *others = (torch.as_tensor(size) for size in sizes)
    for other in others:
        first = torch.maximum(first, other)
    return first  # type: ignore[return-value]


def smallest(*sizes: int) -> int:
    """``min``, in the same way."""
    return -largest(*(-size for size in sizes))


def deviation(mixture: Tensor) -> Tensor:
    """Standard deviation of ``[batch, time]``, ``[batch, 1]``; a lone sample's is its level."""
    mixture = float32(mixture)
    if torch.jit.is_tracing():  # of any length: no branch
        squares = (mixture - mixture.mean(1, keepdim=True)).square().sum(1, keepdim=True)
        time = torch.as_tensor(mixture.shape[1])
        spread = (squares / (time - 1).clamp(min=1)).sqrt()
        return torch.where(time == 1, mixture[:, :1].abs(), spread)
    if mixture.shape[1] == 1:
        return mixture.abs()
    return mixture.std(dim=1, keepdim=True)


class BatchNorm(nn.Module):
    """Mean and variance of each channel over batch and frames, in float32.

    Statistics that are not finite are not kept, as a step with them is not taken; one frame
    alone, of which there are none, is normalised as in evaluation.
    """

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.running_mean: Tensor
        self.running_var: Tensor
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, channels, frames]`` to the same shape."""
        is_training = self.training and x.shape[0] * x.shape[2] > 1
        mean, var = self.running_mean, self.running_var
        if is_training:
            mean, var = mean.clone(), var.clone()
        affine = (self.weight, self.bias)
        with torch.autocast(x.device.type, enabled=False):
            x = F.batch_norm(float32(x), mean, var, *affine, is_training, self.momentum, self.eps)
        if is_training:
            for kept, new in ((self.running_mean, mean), (self.running_var, var)):
                kept.copy_(torch.where(new.isfinite(), new, kept))
        return x


class LayerScale(nn.Module):
    """A gain for each channel, small at first, so that branches start off.

    Source: Touvron et al. 2021, "Going deeper with image transformers".
    """

    def __init__(self, channels: int, gain: float = 1e-5) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.full((channels,), gain))

    def forward(self, x: Tensor) -> Tensor:
        """``[…, channels]`` to the same shape."""
        return x * self.gain


class Positions(nn.Module):
    """SpeechBrain's sinusoids for any length, computed: its table takes 51 MB a block."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.frequencies: Tensor  # rad per frame
        exponents = torch.arange(0, channels, 2).float() * -(log(10_000) / channels)
        self.register_buffer("frequencies", torch.exp(exponents), persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        """``[batch, frames, channels]`` → ``[1, frames, channels]``."""
        times = torch.arange(frames.shape[1], device=frames.device)
        angles = times.to(self.frequencies)[:, None] * self.frequencies
        return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)[None]
