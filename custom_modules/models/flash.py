"""MossFormer2's parts; channels lie innermost, ``[batch, frames, channels]``."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from custom_modules.models.layers import FrameNorm, ScaleNorm, float32, rotate, sinusoids, smallest


class ScaledPositions(nn.Module):
    """Sines, then cosines, of the frame's number, times a learned scale."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.frequencies: Tensor
        self.register_buffer("frequencies", sinusoids(channels))

    def forward(self, frames: Tensor) -> Tensor:
        """``[batch, frames, channels]`` → ``[frames, channels]``, float32."""
        frequencies = float32(self.frequencies)
        times = torch.arange(frames.shape[1], device=frames.device, dtype=frequencies.dtype)
        angles = times[:, None] * frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=1) * self.scale


class ProjectionConv(nn.Module):
    """A norm, a projection, SiLU, and a depthwise convolution around it."""

    def __init__(
        self, norm: nn.Module, channels: int, out_channels: int, kernel_size: int, dropout: float
    ) -> None:
        super().__init__()
        self.norm, self.linear = norm, nn.Linear(channels, out_channels)
        convolution = (out_channels, out_channels, kernel_size)
        self.conv = nn.Conv1d(
            *convolution, padding=kernel_size // 2, groups=out_channels, bias=False
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, frames: Tensor) -> Tensor:
        """``[batch, frames, channels]`` → ``[batch, frames, out_channels]``."""
        hidden = F.silu(self.linear(self.norm(frames)))
        return self.dropout(hidden + self.conv(hidden.mT).mT)


class GatedAttention(nn.Module):
    """FLASH: exact attention within groups of frames, linear attention over all.

    Without softmax: a squared ReLU there, nothing here. Sums over frames and squares
    exceed float16, so that attention is float32 throughout. Source: Hua et al. 2022,
    "Transformer quality in linear time"; Zhao and Ma 2023, "MossFormer", section 2.2.
    """

    def __init__(
        self, channels: int, group_size: int, qk_channels: int, kernel_size: int, dropout: float
    ) -> None:
        super().__init__()
        self.group_size = group_size
        conv = (kernel_size, dropout)
        self.to_hidden = ProjectionConv(ScaleNorm(), channels, 4 * channels, *conv)
        self.to_qk = ProjectionConv(ScaleNorm(), channels, qk_channels, *conv)
        self.qk_gain = nn.Parameter(torch.empty(4, qk_channels).normal_(std=0.02))
        self.qk_offset = nn.Parameter(torch.zeros(4, qk_channels))
        self.dropout = nn.Dropout(dropout)
        self.to_out = ProjectionConv(ScaleNorm(), 2 * channels, channels, *conv)

    def forward(self, frames: Tensor, rotary: Tensor) -> Tensor:
        """``[batch, frames, channels]`` to the same shape."""
        left, right = frames.chunk(2, dim=2)
        shifted = torch.cat([F.pad(left, (0, 0, 1, -1)), right], dim=2)  # by one frame
        hidden, qk = self.to_hidden(shifted), self.to_qk(shifted)
        with torch.autocast(frames.device.type, enabled=False):
            hidden, qk = float32(hidden), float32(qk).unsqueeze(1)
            heads = torch.addcmul(self.qk_offset[:, None], self.qk_gain[:, None], qk)
            attended_v, attended_u = self._attend(rotate(heads, rotary), hidden).chunk(2, dim=2)
            value, gate = hidden.chunk(2, dim=2)
            gated = attended_u * value * torch.sigmoid(attended_v * gate)
        return frames + self.to_out(gated)

    def _attend(self, heads: Tensor, values: Tensor) -> Tensor:
        """``[batch, 4, frames, qk]``, ``[batch, frames, channels]`` → the latter's shape."""
        time = values.shape[1]
        query, all_query, key, all_key = heads.unbind(1)
        over_all = all_query @ (all_key.mT @ values / time)
        size = smallest(self.group_size, time)
        # Keys of zero add nothing, so what fills the last group needs no mask.
        query, key, values = (
            F.pad(x, (0, 0, 0, -time % size)).unflatten(1, (-1, size)) for x in (query, key, values)
        )
        weights = F.relu(query @ key.mT / self.group_size).square()
        return (self.dropout(weights) @ values).flatten(1, 2)[:, :time] + over_all


class GatedFSMN(nn.Module):
    """A gated memory of some frames on both sides, in fewer channels."""

    def __init__(
        self, channels: int, inner: int, order: int, depth: int, kernel_size: int, dropout: float
    ) -> None:
        super().__init__()
        self.squeeze = nn.Sequential(nn.Linear(channels, inner), nn.PReLU(), nn.LayerNorm(inner))
        conv = (inner, inner, kernel_size, dropout)
        self.to_u = ProjectionConv(nn.LayerNorm(inner), *conv)
        self.to_v = ProjectionConv(nn.LayerNorm(inner), *conv)
        self.memory = nn.Sequential(
            nn.Linear(inner, inner), nn.ReLU(), nn.Linear(inner, inner, bias=False)
        )
        taps = 2 * order - 1
        self.convs = nn.ModuleList(DenseConv(inner, taps, i) for i in range(depth))
        self.expand = nn.Sequential(nn.LayerNorm(inner), nn.Linear(inner, channels))

    def forward(self, frames: Tensor) -> Tensor:
        """``[batch, frames, channels]`` to the same shape."""
        squeezed = self.squeeze(frames)
        u, v = self.to_u(squeezed), self.to_v(squeezed)
        remembered = seen = self.memory(u).mT
        for conv in self.convs:
            remembered = conv(seen)
            seen = torch.cat([remembered, seen], dim=1)
        return frames + self.expand(squeezed + v * (u + remembered.mT))


class DenseConv(nn.Sequential):
    """The n-th dilated convolution, over its predecessors' results and their input.

    As in the reference, a group has ``n + 1`` channels next to each other of all these,
    not the same channel of each.
    """

    def __init__(self, channels: int, taps: int, n: int) -> None:
        conv = nn.Conv1d(
            channels * (n + 1),
            channels,
            taps,
            dilation=2**n,
            padding=2**n * (taps // 2),
            groups=channels,
            bias=False,
        )
        super().__init__(conv, FrameNorm(channels), nn.PReLU(channels))
