"""TF-GridNet's block with Mamba for its LSTMs: what SPMamba is made of.

Start reading at :class:`GridBlock`. Channels lie innermost throughout,
``[batch, frames, freqs, channels]``.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from custom_modules.models.mamba import BidirectionalMamba

#: Points at a time along a path: on a CPU few enough for its allocator to reuse
#: memory, elsewhere enough to fill the device.
CPU_POINTS = 1 << 13
DEVICE_POINTS = 1 << 16


class GridBlock(nn.Module):
    """One block: along frequency, along time, then attention between frames.

    Source: Wang et al. 2023, "TF-GridNet", section III-C to III-E.

    Arguments
    ---------
    channels, kernel_size, stride, n_freqs, n_head, qk_dim : int
        As for :class:`SPMamba`.
    eps : float
    scan_backend : str
    checkpoint_parts : bool
        In training, keep the inputs of the two paths and of the attention alone,
        and compute the rest again in the backward pass.

    Example
    -------
    >>> block = GridBlock(4, 4, 1, n_freqs=33, n_head=2, qk_dim=64)
    >>> block(torch.randn(2, 21, 33, 4)).shape
    torch.Size([2, 21, 33, 4])
    """

    def __init__(
        self,
        channels,
        kernel_size,
        stride,
        n_freqs,
        n_head,
        qk_dim,
        eps=1e-5,
        scan_backend="auto",
        checkpoint_parts=False,
    ):
        super().__init__()
        self.checkpoint_parts = checkpoint_parts
        path = (channels, kernel_size, stride, eps, scan_backend)
        self.along_freqs = GridPath(*path)
        self.along_frames = GridPath(*path)
        self.attention = FrameAttention(channels, n_freqs, n_head, qk_dim, eps)

    def forward(self, points):
        """``[batch, frames, freqs, channels]`` to the same shape."""
        frames, freqs = points.shape[1:3]
        # Filled up once for both paths: what is beyond the edges takes part in the
        # second path with what the first has made of it.
        missing = (self.along_freqs.missing(freqs), self.along_frames.missing(frames))
        points = F.pad(points, (0, 0, 0, missing[0], 0, missing[1]))
        points = self._run_path(self.along_freqs, points)
        points = points.transpose(1, 2)
        points = self._run_path(self.along_frames, points).transpose(1, 2)
        return self._run(self.attention, points[:, :frames, :freqs])

    def _run_path(self, path, points):
        """Along each sequence; some sequences at a time where memory counts."""
        on_cpu = points.device.type == "cpu"
        if not on_cpu and not self.checkpoint_parts:
            return self._run(path, points)
        most = CPU_POINTS if on_cpu else DEVICE_POINTS
        sequences = max(1, most // (points.shape[0] * points.shape[2]))
        slices = points.split(sequences, dim=1)
        return torch.cat([self._run(path, part) for part in slices], dim=1)

    def _run(self, part, points):
        if self.checkpoint_parts and torch.is_grad_enabled():
            return checkpoint(part, points, use_reentrant=False)
        return part(points)


class GridPath(nn.Module):
    """Bidirectional Mamba along one axis, with a residual connection.

    Neighbouring points are taken together as one step, and a transposed
    convolution lays the steps over each other again. Steps must end where the axis
    ends; :meth:`missing` says how many points that takes.

    Arguments
    ---------
    channels, kernel_size, stride : int
        As for :class:`SPMamba`.
    eps : float
    scan_backend : str

    Example
    -------
    >>> GridPath(4, kernel_size=4, stride=2)(torch.randn(2, 3, 18, 4)).shape
    torch.Size([2, 3, 18, 4])
    """

    def __init__(self, channels, kernel_size, stride, eps=1e-5, scan_backend="auto"):
        super().__init__()
        self.kernel_size, self.stride = kernel_size, stride
        self.norm = nn.LayerNorm(channels, eps=eps)
        width = channels * kernel_size
        self.mamba = BidirectionalMamba(width, expand=4, scan_backend=scan_backend)
        self.linear = nn.ConvTranspose1d(2 * width, channels, kernel_size, stride)

    def forward(self, points):
        """``[batch, others, time, channels]`` to the same shape, along time."""
        steps = self.norm(points).flatten(0, 1)
        steps = steps.unfold(1, self.kernel_size, self.stride).flatten(2)
        change = self.linear(self.mamba(steps).transpose(1, 2)).transpose(1, 2)
        return points + change.unflatten(0, points.shape[:2])

    def missing(self, time):
        """Points to be added to an axis, for its last step to be whole."""
        return max(self.kernel_size - time, (self.kernel_size - time) % self.stride)


class FrameAttention(nn.Module):
    """Attention between frames, all frequencies at once, with a residual.

    Source: Wang et al. 2023, "TF-GridNet", section III-E.

    Arguments
    ---------
    channels, n_freqs, n_head, qk_dim : int
        As for :class:`SPMamba`.
    eps : float

    Example
    -------
    >>> FrameAttention(4, 33, n_head=2, qk_dim=64)(torch.randn(2, 9, 33, 4)).shape
    torch.Size([2, 9, 33, 4])
    """

    def __init__(self, channels, n_freqs, n_head, qk_dim, eps=1e-5):
        super().__init__()
        if channels % n_head:
            raise ValueError(f"{channels} channels cannot be cut into {n_head} heads")
        qk_channels = math.ceil(qk_dim / n_freqs)
        self.queries = HeadProjection(channels, n_head, qk_channels, n_freqs, eps)
        self.keys = HeadProjection(channels, n_head, qk_channels, n_freqs, eps)
        self.values = HeadProjection(channels, n_head, channels // n_head, n_freqs, eps)
        self.output = HeadProjection(channels, 1, channels, n_freqs, eps)

    def forward(self, points):
        """``[batch, frames, freqs, channels]`` to the same shape."""
        # [batch, heads, frames, channels of a head, freqs]
        query, key, value = self.queries(points), self.keys(points), self.values(points)
        attended = F.scaled_dot_product_attention(
            query.flatten(3), key.flatten(3), value.flatten(3)
        )
        attended = attended.unflatten(3, value.shape[3:])
        attended = attended.permute(0, 2, 4, 1, 3).flatten(3)
        return points + self.output(attended)[:, 0].transpose(2, 3)


class HeadProjection(nn.Module):
    """A linear layer, PReLU and a norm over channels and frequencies, per head.

    Arguments
    ---------
    channels : int
        Of the input.
    n_head : int
        Heads.
    head_channels : int
        Channels of a head.
    n_freqs : int
        Frequencies.
    eps : float

    Example
    -------
    >>> HeadProjection(4, 2, 3, n_freqs=33)(torch.randn(2, 9, 33, 4)).shape
    torch.Size([2, 2, 9, 3, 33])
    """

    def __init__(self, channels, n_head, head_channels, n_freqs, eps=1e-5):
        super().__init__()
        self.eps = eps
        self.linear = nn.Linear(channels, n_head * head_channels)
        self.slope = nn.Parameter(torch.full((n_head,), 0.25))
        self.gain = nn.Parameter(torch.ones(n_head, 1, head_channels, n_freqs))
        self.offset = nn.Parameter(torch.zeros(n_head, 1, head_channels, n_freqs))

    def forward(self, points):
        """``[batch, frames, freqs, channels]`` → ``[batch, heads, frames, …]``."""
        heads = self.linear(points).unflatten(3, (len(self.slope), -1))
        heads = heads.permute(0, 3, 1, 4, 2)  # [batch, heads, frames, channels, freqs]
        heads = F.prelu(heads, self.slope)
        with torch.autocast(points.device.type, enabled=False):
            heads = F.layer_norm(heads.float(), heads.shape[3:], eps=self.eps)
            return torch.addcmul(self.offset, self.gain, heads)
