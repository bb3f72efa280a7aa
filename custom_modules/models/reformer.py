"""SepReformer's parts; channels lie innermost, ``[items, frames, channels]``."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from custom_modules.models.layers import BatchNorm, GlobalNorm, LayerScale


class Positions(nn.Module):
    """A vector for each distance between two frames; all attention shares it."""

    def __init__(self, channels: int, max_distance: int) -> None:
        super().__init__()
        self.max_distance = max_distance  # frames, beyond which distances are alike
        self.vectors = nn.Embedding(2 * max_distance, channels)

    def forward(self, frames: int) -> Tensor:
        """``[2 frames - 1, channels]``, from a key so many frames later to one earlier."""
        distances = torch.arange(frames - 1, -frames, -1, device=self.vectors.weight.device)
        distances = distances.clamp(-self.max_distance, self.max_distance - 1)
        return self.vectors(distances + self.max_distance)


class Attention(nn.Module):
    """Multi-head attention behind a norm, without a residual connection."""

    def __init__(self, channels: int, n_head: int, dropout: float) -> None:
        super().__init__()
        self.n_head, self.dropout = n_head, dropout
        self.norm = nn.LayerNorm(channels)
        self.queries = nn.Linear(channels, channels)
        self.keys = nn.Linear(channels, channels)
        self.values = nn.Linear(channels, channels)
        self.output = nn.Linear(channels, channels)
        self.scale = LayerScale(channels)

    def forward(self, x: Tensor, positions: Tensor | None = None) -> Tensor:
        """``[items, tokens, channels]`` to the same shape; ``positions`` as above."""
        x = self.norm(x)
        query, key, value = (
            layer(x).unflatten(2, (self.n_head, -1)).transpose(1, 2)
            for layer in (self.queries, self.keys, self.values)
        )
        scores = None
        if positions is not None:
            scores = _align(query @ positions.to(query.dtype).T) * query.shape[3] ** -0.5
        dropout = self.dropout if self.training else 0.0
        x = F.scaled_dot_product_attention(query, key, value, scores, dropout)
        x = self.output(x.transpose(1, 2).flatten(2))
        return self.scale(F.dropout(x, self.dropout, self.training))


def _align(scores: Tensor) -> Tensor:
    """Scores of distances to scores of keys.

    ``[…, frames, 2 frames - 1]`` → ``[…, frames, frames]``, each row shifted by one more.

    >>> _align(torch.tensor([[1, 2, 3], [1, 2, 3]]))
    tensor([[2, 3],
            [1, 2]])
    """
    frames = scores.shape[-2]
    rows = F.pad(scores, (0, 1)).flatten(-2)[..., frames - 1 : -1]
    return rows.unflatten(-1, (frames, -1))[..., :frames]


class FeedForward(nn.Module):
    """Gated convolutional feed-forward network, with a residual connection."""

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.expand = nn.Linear(channels, 6 * channels)
        self.conv = nn.Conv1d(6 * channels, 6 * channels, 3, padding=1, groups=6 * channels)
        self.contract = nn.Linear(3 * channels, channels)
        self.scale = LayerScale(channels)
        self.dropout = nn.Dropout(dropout)
        self.is_checkpointed = False  # True computes it again in the backward pass

    def forward(self, x: Tensor) -> Tensor:
        """``[items, frames, channels]`` to the same shape."""
        if self.is_checkpointed and torch.is_grad_enabled():
            return checkpoint(self._run, x, use_reentrant=False)
        return self._run(x)

    def _run(self, x: Tensor) -> Tensor:
        hidden = self.conv(self.expand(self.norm(x)).mT).mT
        hidden = self.contract(self.dropout(F.glu(hidden)))
        return x + self.scale(self.dropout(hidden))


class GlobalBlock(nn.Module):
    """Attention over a few averages of frames, which gates let through, then feed-forward."""

    def __init__(self, channels: int, n_head: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(channels, n_head, dropout)
        self.gate = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, channels))
        self.feed_forward = FeedForward(channels, dropout)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        """``[items, frames, channels]`` to the same shape; ``positions`` of the averages."""
        averages = F.adaptive_avg_pool1d(x.mT, [(positions.shape[0] + 1) // 2]).mT
        seen = F.interpolate(self.attention(averages, positions).mT, x.shape[1]).mT
        return self.feed_forward(x + torch.sigmoid(self.gate(x)) * seen)


class LocalBlock(nn.Module):
    """A convolution over neighbouring frames, then feed-forward."""

    def __init__(self, channels: int, conv_size: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.gate = nn.Linear(channels, 2 * channels)
        self.conv = nn.Conv1d(
            channels, channels, conv_size, padding=conv_size // 2, groups=channels
        )
        self.expand = nn.Linear(channels, 2 * channels)
        self.batch_norm = BatchNorm(2 * channels)
        self.contract = nn.Linear(2 * channels, channels)
        self.scale = LayerScale(channels)
        self.dropout = nn.Dropout(dropout)
        self.feed_forward = FeedForward(channels, dropout)

    def forward(self, x: Tensor) -> Tensor:
        """``[items, frames, channels]`` to the same shape."""
        hidden = self.conv(F.glu(self.gate(self.norm(x))).mT).mT
        hidden = F.gelu(self.batch_norm(self.expand(hidden).mT).mT)
        hidden = self.dropout(self.contract(hidden))
        return self.feed_forward(x + self.scale(hidden))


class SpeakerBlock(nn.Module):
    """Attention between the speakers in each frame, then feed-forward."""

    def __init__(self, num_sources: int, channels: int, n_head: int, dropout: float) -> None:
        super().__init__()
        self.num_sources = num_sources
        self.attention = Attention(channels, n_head, dropout)
        self.feed_forward = FeedForward(channels, dropout)

    def forward(self, x: Tensor) -> Tensor:
        """``[batch * sources, frames, channels]`` to the same shape."""
        speakers = x.unflatten(0, (-1, self.num_sources)).transpose(1, 2)
        seen = self.attention(speakers.flatten(0, 1)).view_as(speakers)
        return self.feed_forward((speakers + seen).transpose(1, 2).flatten(0, 1))


class Stage(nn.Module):
    """Global and local blocks in turn, behind a speaker block each where there are speakers."""

    def __init__(
        self,
        channels: int,
        n_head: int,
        conv_size: int,
        dropout: float,
        depth: int,
        num_sources: int | None = None,  # among which there is attention
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()
        for _ in range(depth):
            block = nn.ModuleList(
                [GlobalBlock(channels, n_head, dropout), LocalBlock(channels, conv_size, dropout)]
            )
            if num_sources is not None:
                block.append(SpeakerBlock(num_sources, channels, n_head, dropout))
            self.blocks.append(block)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        """``[items, frames, channels]`` to the same shape."""
        for blocks in self.blocks:
            for block in blocks.children():
                x = block(x, positions) if isinstance(block, GlobalBlock) else block(x)
        return x


class Downsampling(nn.Module):
    """Half as many frames, by a convolution."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, channels, size, 2, size // 2, groups=channels)
        self.norm = BatchNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """``[items, frames, channels]`` → ``[items, frames / 2, channels]``."""
        return F.gelu(self.norm(self.conv(x.mT))).mT


class SpeakerSplit(nn.Module):
    """A sequence for each speaker, out of one for all."""

    def __init__(self, num_sources: int, channels: int, eps: float = 1e-8) -> None:
        super().__init__()
        self.num_sources = num_sources
        self.expand = nn.Linear(channels, 4 * channels * num_sources)
        self.contract = nn.Linear(2 * channels * num_sources, channels * num_sources)
        self.norm = GlobalNorm(channels, eps)

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, frames, channels]`` → ``[batch * sources, frames, channels]``."""
        x = self.contract(F.glu(self.expand(x))).mT
        return self.norm(x.unflatten(1, (self.num_sources, -1)).flatten(0, 1)).mT
