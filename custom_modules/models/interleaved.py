"""TIGER's parts: sequences at many scales, and attention across all of them."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from custom_modules.models.layers import GlobalNorm, float32


class Path(nn.Module):
    """Multi-scale attention along each sequence, attention across them all, a residual."""

    def __init__(self, channels: int, hidden: int, scales: int, nhead: int, qk_dim: int) -> None:
        super().__init__()
        self.scales = MultiScale(channels, hidden, scales)
        self.queries = HeadProjection(channels, nhead, qk_dim)
        self.keys = HeadProjection(channels, nhead, qk_dim)
        self.values = HeadProjection(channels, nhead, channels // nhead)
        self.output = HeadProjection(channels, 1, channels)
        self.norm = nn.LayerNorm(channels)

    def forward(self, points: Tensor) -> Tensor:
        """``[batch, channels, sequences, time]`` to the same shape, along time."""
        sequences = points.transpose(1, 2)
        scaled = self.scales(sequences.flatten(0, 1)).unflatten(0, sequences.shape[:2])
        scaled = scaled.transpose(1, 2)
        # [batch, heads, time, channels of a head × sequences]
        query, key, value = (
            project(scaled).permute(0, 1, 4, 2, 3).flatten(3)
            for project in (self.queries, self.keys, self.values)
        )
        attended = F.scaled_dot_product_attention(query, key, value.to(query.dtype))
        attended = attended.unflatten(3, (-1, points.shape[2])).permute(0, 1, 3, 4, 2)
        changed = scaled + self.output(attended.flatten(1, 2)).squeeze(1)
        with torch.autocast(points.device.type, enabled=False):
            return points + self.norm(float32(changed).movedim(1, 3)).movedim(3, 1)


class HeadProjection(nn.Module):
    """A linear layer, PReLU and a norm over channels, per head."""

    def __init__(self, channels: int, nhead: int, head_channels: int) -> None:
        super().__init__()
        self.linear = nn.Conv2d(channels, nhead * head_channels, 1)
        self.slope = nn.Parameter(torch.full((nhead,), 0.25))
        self.gain = nn.Parameter(torch.ones(nhead, head_channels))
        self.offset = nn.Parameter(torch.zeros(nhead, head_channels))

    def forward(self, points: Tensor) -> Tensor:
        """``[batch, channels, …, …]`` → ``[batch, heads, channels of a head, …, …]``."""
        heads = self.linear(points).unflatten(1, self.gain.shape)
        heads = float32(F.prelu(heads, self.slope)).movedim(2, 4)
        with torch.autocast(points.device.type, enabled=False):
            heads = F.layer_norm(heads, heads.shape[4:])
            gain, offset = self.gain[:, None, None], self.offset[:, None, None]
            return torch.addcmul(offset, gain, heads).movedim(4, 2)


class MultiScale(nn.Module):
    """What ever coarser scales see together selects what is kept of each (section 3.3)."""

    def __init__(self, channels: int, hidden: int, scales: int) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Conv1d(channels, hidden, 1), GlobalNorm(hidden), nn.PReLU())
        strides = [1] + [2] * (scales - 1)
        self.coarser = nn.ModuleList(
            nn.Sequential(
                nn.Conv1d(hidden, hidden, 5, s, padding=2, groups=hidden), GlobalNorm(hidden)
            )
            for s in strides
        )
        self.together = nn.Sequential(
            nn.Sequential(nn.Conv1d(hidden, hidden, 1, bias=False), GlobalNorm(hidden)),
            *(nn.Conv1d(hidden, hidden, 5, padding=2, groups=hidden), nn.ReLU()),
            nn.Sequential(nn.Conv1d(hidden, hidden, 1, bias=False), GlobalNorm(hidden)),
        )
        self.selections = nn.ModuleList(Selection(hidden, 1) for _ in strides)
        self.joins = nn.ModuleList(Selection(hidden, 5) for _ in strides[1:])
        self.leave = nn.Conv1d(hidden, channels, 1)
        if scales > 2:
            # As in the reference, which way up begins one scale too late: what the
            # coarsest selects is used by nothing.
            self.selections[-1].requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, channels, time]`` to the same shape."""
        scale, scales = self.enter(x), []
        for make_coarser in self.coarser:
            scales.append(scale := make_coarser(scale))
        shortest = scale.shape[2]
        pooled = torch.stack([F.adaptive_avg_pool1d(s, [shortest]) for s in scales]).sum(0)
        seen = self.together(pooled)
        used = scales[:-1] if len(scales) > 2 else scales
        selected = [select(s, seen) for select, s in zip(self.selections, used, strict=False)]
        joined = selected[len(scales) - 3] if self.joins else selected[0]
        for number in reversed(range(len(self.joins))):
            joined = self.joins[number](selected[number], joined)
        return x + self.leave(joined)


class Selection(nn.Module):
    """Gates a scale by another one, and adds that; both without bias, per channel."""

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__()
        self.kept, self.gate, self.added = (
            nn.Sequential(
                nn.Conv1d(
                    *(channels, channels, kernel_size),
                    padding=kernel_size // 2,
                    groups=channels,
                    bias=False,
                ),
                GlobalNorm(channels),
            )
            for _ in range(3)
        )

    def forward(self, scale: Tensor, other: Tensor) -> Tensor:
        """``[batch, channels, time]`` and ``[batch, channels, other time]`` → the first."""
        time = scale.shape[2]
        gate = F.interpolate(self.gate(other).sigmoid(), time)
        return self.kept(scale) * gate + F.interpolate(self.added(other), time)
