"""SPMamba's parts; channels lie innermost, ``[batch, frames, freqs, channels]``."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from custom_modules.models.layers import largest
from custom_modules.models.mamba import BidirectionalMamba

#: Points at a time along a path: on a CPU few enough for its allocator to reuse
#: memory, elsewhere enough to fill the device.
CPU_POINTS = 1 << 13
DEVICE_POINTS = 1 << 16


class Spectrogram(nn.Module):
    """Complex spectrograms of waveforms of any length, and back, in float32."""

    def __init__(self, n_fft: int, stride: int) -> None:
        super().__init__()
        self.frames = n_fft, stride  # in samples
        self.shortest = n_fft // 2 + 1  # of which frames at the edges see a reflection
        self.window: Tensor
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    def forward(self, waveforms: Tensor) -> Tensor:
        """``[batch, time]`` → ``[batch, real and imaginary, frames, freqs]``."""
        with torch.autocast(waveforms.device.type, enabled=False):
            waveforms = waveforms.float()
            missing = self.shortest - waveforms.shape[1]
            if missing > 0:
                waveforms = F.pad(waveforms, (0, missing))
            spectrogram = torch.stft(
                waveforms, *self.frames, window=self.window, return_complex=True
            )
        return torch.view_as_real(spectrogram).permute(0, 3, 2, 1)

    def invert(self, spectrograms: Tensor, time: int) -> Tensor:
        """``[batch, 2 sources, frames, freqs]`` → ``[batch, time, sources]``."""
        with torch.autocast(spectrograms.device.type, enabled=False):
            parts = spectrograms.float().unflatten(1, (-1, 2))
            parts = parts.permute(0, 1, 4, 3, 2).contiguous()
            waveforms = torch.istft(
                torch.view_as_complex(parts).flatten(0, 1),
                *self.frames,
                window=self.window,
                length=max(time, self.shortest),
            )
        return waveforms.unflatten(0, parts.shape[:2])[:, :, :time].transpose(1, 2)


class GridBlock(nn.Module):
    """One block: along frequency, along time, then attention between frames.

    Source: Wang et al. 2023, "TF-GridNet", section III-C to III-E.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int,
        stride: int,
        n_freqs: int,
        n_head: int,
        qk_dim: int,
        eps: float = 1e-5,
        scan_backend: str = "auto",
        checkpoint_parts: bool = False,  # computed again in the backward pass
    ) -> None:
        super().__init__()
        self.checkpoint_parts = checkpoint_parts
        path = (channels, kernel_size, stride, eps, scan_backend)
        self.along_freqs = GridPath(*path)
        self.along_frames = GridPath(*path)
        self.attention = FrameAttention(channels, n_freqs, n_head, qk_dim, eps)

    def forward(self, points: Tensor) -> Tensor:
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

    def _run_path(self, path: nn.Module, points: Tensor) -> Tensor:
        """Along each sequence; some sequences at a time where memory counts."""
        on_cpu = points.device.type == "cpu"
        if torch.jit.is_tracing() or (not on_cpu and not self.checkpoint_parts):
            return self._run(path, points)
        most = CPU_POINTS if on_cpu else DEVICE_POINTS
        sequences = max(1, most // (points.shape[0] * points.shape[2]))
        slices = points.split(sequences, dim=1)
        return torch.cat([self._run(path, part) for part in slices], dim=1)

    def _run(self, part: nn.Module, points: Tensor) -> Tensor:
        if self.checkpoint_parts and torch.is_grad_enabled():
            return checkpoint(part, points, use_reentrant=False)
        return part(points)


class GridPath(nn.Module):
    """Bidirectional Mamba along one axis, with a residual connection.

    Neighbouring points are one step; steps must end where the axis ends.
    """

    def __init__(
        self, channels: int, kernel_size: int, stride: int, eps: float, backend: str
    ) -> None:
        super().__init__()
        self.kernel_size, self.stride = kernel_size, stride
        self.norm = nn.LayerNorm(channels, eps=eps)
        width = channels * kernel_size
        self.mamba = BidirectionalMamba(width, expand=4, scan_backend=backend)
        self.linear = nn.ConvTranspose1d(2 * width, channels, kernel_size, stride)

    def forward(self, points: Tensor) -> Tensor:
        """``[batch, others, time, channels]`` to the same shape, along time."""
        steps = self.norm(points).flatten(0, 1)
        steps = steps.unfold(1, self.kernel_size, self.stride).flatten(2)
        change = self.linear(self.mamba(steps).transpose(1, 2)).transpose(1, 2)
        return points + change.unflatten(0, points.shape[:2])

    def missing(self, time: int) -> int:
        """Points to be added to an axis, for its last step to be whole."""
        return largest(self.kernel_size - time, (self.kernel_size - time) % self.stride)


class FrameAttention(nn.Module):
    """Attention between frames, all frequencies at once, with a residual."""

    def __init__(
        self, channels: int, n_freqs: int, n_head: int, qk_dim: int, eps: float = 1e-5
    ) -> None:
        super().__init__()
        if channels % n_head:
            raise ValueError(f"{channels} channels cannot be cut into {n_head} heads")
        qk_channels = math.ceil(qk_dim / n_freqs)
        self.queries = HeadProjection(channels, n_head, qk_channels, n_freqs, eps)
        self.keys = HeadProjection(channels, n_head, qk_channels, n_freqs, eps)
        self.values = HeadProjection(channels, n_head, channels // n_head, n_freqs, eps)
        self.output = HeadProjection(channels, 1, channels, n_freqs, eps)

    def forward(self, points: Tensor) -> Tensor:
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
    """A linear layer, PReLU and a norm over channels and frequencies, per head."""

    def __init__(
        self, channels: int, n_head: int, head_channels: int, n_freqs: int, eps: float
    ) -> None:
        super().__init__()
        self.eps = eps
        self.linear = nn.Linear(channels, n_head * head_channels)
        self.slope = nn.Parameter(torch.full((n_head,), 0.25))
        self.gain = nn.Parameter(torch.ones(n_head, 1, head_channels, n_freqs))
        self.offset = nn.Parameter(torch.zeros(n_head, 1, head_channels, n_freqs))

    def forward(self, points: Tensor) -> Tensor:
        """``[batch, frames, freqs, channels]`` → ``[batch, heads, frames, …]``."""
        heads = self.linear(points).unflatten(3, (len(self.slope), -1))
        heads = heads.permute(0, 3, 1, 4, 2)  # [batch, heads, frames, channels, freqs]
        heads = F.prelu(heads, self.slope)
        with torch.autocast(points.device.type, enabled=False):
            heads = F.layer_norm(heads.float(), heads.shape[3:], eps=self.eps)
            return torch.addcmul(self.offset, self.gain, heads)
