"""TF-Locoformer's parts; channels lie innermost, ``[batch, frames, freqs, channels]``."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from custom_modules.models.layers import float32, largest, root_mean_square, rotate


class LocoformerBlock(nn.Module):
    """One path along frequency and one along time, in either order."""

    def __init__(
        self,
        channels: int,
        groups: int | None,
        n_heads: int,
        attention_dim: int,
        ffn_dims: Sequence[int],
        ffn_kernel: int,
        ffn_stride: int,
        frequency_first: bool,
        dropout: float,
        eps: float,
    ) -> None:
        super().__init__()
        self.frequency_first = frequency_first
        sizes = (channels, groups, n_heads, attention_dim, ffn_dims, ffn_kernel, ffn_stride)
        self.along_freqs = LocoformerPath(*sizes, dropout, eps)
        self.along_frames = LocoformerPath(*sizes, dropout, eps)

    def forward(self, points: Tensor, rotary_freqs: Tensor, rotary_frames: Tensor) -> Tensor:
        """``[batch, frames, freqs, channels]`` to the same shape."""
        if self.frequency_first:
            points = self.along_freqs(points, rotary_freqs)
        points = self.along_frames(points.transpose(1, 2), rotary_frames).transpose(1, 2)
        return points if self.frequency_first else self.along_freqs(points, rotary_freqs)


class LocoformerPath(nn.Module):
    """Convolutions, attention, convolutions, each with a norm before and a residual."""

    def __init__(
        self,
        channels: int,
        groups: int | None,
        n_heads: int,
        attention_dim: int,
        ffn_dims: Sequence[int],
        ffn_kernel: int,
        ffn_stride: int,
        dropout: float,
        eps: float,
    ) -> None:
        super().__init__()

        def residual(part: nn.Module) -> nn.Sequential:
            norm = RMSGroupNorm(channels, groups, eps) if groups else nn.LayerNorm(channels, eps)
            return nn.Sequential(norm, part, nn.Dropout(dropout))

        *before, after = (
            residual(ConvSwiGLU(channels, dim, ffn_kernel, ffn_stride, dropout)) for dim in ffn_dims
        )
        self.before, self.after = nn.ModuleList(before), after
        self.norm = residual(nn.Identity())[0]
        self.attention = RotaryAttention(channels, n_heads, attention_dim, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, points: Tensor, rotary: Tensor) -> Tensor:
        """``[batch, others, time, channels]`` to the same shape, along time."""
        x = points.flatten(0, 1)
        for convolutions in self.before:
            x = x + convolutions(x)
        x = x + self.dropout(self.attention(self.norm(x), rotary))
        x = x + self.after(x)
        return x.unflatten(0, points.shape[:2])


class RMSGroupNorm(nn.Module):
    """Divides groups of channels by their root mean square, at each point, in float32.

    Source: Saijo et al. 2024, section III-C.
    """

    def __init__(self, channels: int, groups: int, eps: float) -> None:
        super().__init__()
        self.groups, self.eps = groups, eps
        self.gain = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """``[…, channels]`` to the same shape."""
        with torch.autocast(x.device.type, enabled=False):
            x = float32(x).unflatten(-1, (self.groups, -1))
            return (x / (root_mean_square(x) + self.eps)).flatten(-2) * self.gain


class ConvSwiGLU(nn.Module):
    """A convolution to gated channels, and a transposed one back.

    Source: Saijo et al. 2024, section III-B.
    """

    def __init__(
        self, channels: int, hidden: int, kernel_size: int, stride: int, dropout: float
    ) -> None:
        super().__init__()
        self.kernel_size, self.stride = kernel_size, stride
        self.conv = nn.Conv1d(channels, 2 * hidden, kernel_size, stride)
        self.dropout = nn.Dropout(dropout)
        self.deconv = nn.ConvTranspose1d(hidden, channels, kernel_size, stride)

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, time, channels]`` to the same shape."""
        time, overlap = x.shape[1], self.kernel_size - self.stride
        # The first and last points are in as many windows as those between, all whole.
        right = overlap + (self.kernel_size - time - 2 * overlap) % self.stride
        right = largest(right, self.kernel_size - time - overlap)
        value, gate = self.conv(F.pad(x, (0, 0, overlap, right)).mT).chunk(2, dim=1)
        out = self.deconv(self.dropout(value * F.silu(gate)))
        return out[:, :, overlap : overlap + time].mT


class RotaryAttention(nn.Module):
    """Self-attention without biases; positions turn queries and keys."""

    def __init__(self, channels: int, n_heads: int, attention_dim: int, dropout: float) -> None:
        super().__init__()
        self.n_heads, self.dropout = n_heads, dropout
        self.qkv = nn.Linear(channels, 3 * attention_dim, bias=False)
        self.output = nn.Linear(attention_dim, channels, bias=False)

    def forward(self, x: Tensor, rotary: Tensor) -> Tensor:
        """``[batch, time, channels]`` to the same shape."""
        heads = self.qkv(x).unflatten(2, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4)
        query, key = rotate(heads[:2], rotary)  # [batch, heads, time, channels of a head]
        dropped = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(query, key, heads[2], dropout_p=dropped)
        return self.output(attended.transpose(1, 2).flatten(2))
