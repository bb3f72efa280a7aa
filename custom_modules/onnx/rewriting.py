"""Parts of separators in a form that torch.onnx can write, computing the same."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from custom_modules.models.gridnet import Spectrogram
from custom_modules.models.layers import largest


class ConvolvedSpectrogram(nn.Module):
    """A :class:`~custom_modules.models.gridnet.Spectrogram` without complex numbers.

    Frames and their transform are one convolution, and back one transposed one.
    """

    def __init__(self, spectrogram: Spectrogram) -> None:
        super().__init__()
        self.n_fft, self.stride = spectrogram.frames
        self.shortest = spectrogram.shortest
        window = spectrogram.window.double()
        bins = torch.fft.rfft(torch.eye(self.n_fft, dtype=torch.float64)).T  # [freqs, n_fft]
        units = torch.eye(len(bins), dtype=torch.complex128)
        backs = [torch.fft.irfft(unit, self.n_fft) for unit in (units, 1j * units)]
        self.analysis: Tensor
        self.synthesis: Tensor
        self.power: Tensor
        self._add_kernel("analysis", torch.cat([bins.real, bins.imag]) * window)
        self._add_kernel("synthesis", torch.cat(backs) * window)
        self._add_kernel("power", window[None].square())

    def _add_kernel(self, name: str, rows: Tensor) -> None:
        self.register_buffer(name, rows[:, None].float())

    def forward(self, waveforms: Tensor) -> Tensor:
        """``[batch, time]`` → ``[batch, real and imaginary, frames, freqs]``."""
        missing = largest(0, self.shortest - waveforms.shape[1])
        waveforms, edge = F.pad(waveforms, (0, missing)).unsqueeze(1), self.n_fft // 2
        waveforms = F.pad(waveforms, (edge, edge), mode="reflect")
        bins = F.conv1d(waveforms, self.analysis, stride=self.stride)
        return bins.unflatten(1, (2, -1)).transpose(2, 3)

    def invert(self, spectrograms: Tensor, time: int) -> Tensor:
        """``[batch, 2 sources, frames, freqs]`` → ``[batch, time, sources]``."""
        batch, frames = spectrograms.shape[0], spectrograms.shape[2]
        bins = spectrograms.unflatten(1, (-1, 2)).transpose(3, 4).flatten(2, 3).flatten(0, 1)
        waveforms = F.conv_transpose1d(bins, self.synthesis, stride=self.stride)
        windows = torch.ones(1, 1, frames)
        power = F.conv_transpose1d(windows, self.power, stride=self.stride)
        waveforms, edge = (waveforms / power.clamp(min=1e-11)).squeeze(1), self.n_fft // 2
        # Long strides leave the end to no frame: it is silent.
        missing = largest(0, edge + time - waveforms.shape[1])
        waveforms = F.pad(waveforms, (0, missing))[:, edge : edge + time]
        return waveforms.unflatten(0, (batch, -1)).transpose(1, 2)


#: What torch.onnx cannot write → what takes its place.
_REWRITES: dict[type, Callable[[Any], nn.Module]] = {Spectrogram: ConvolvedSpectrogram}


def rewrite(separator: nn.Module) -> nn.Module:
    """Replaces what the table names, in place; scans become an operator that can be written."""
    for module in list(separator.modules()):
        if hasattr(module, "scan_backend"):
            module.scan_backend = "eager"  # type: ignore[assignment]
        for name, child in module.named_children():
            if make := _REWRITES.get(type(child)):
                setattr(module, name, make(child))
    return separator


def find_scans(separator: nn.Module) -> list[str]:
    """The namespaces of selective scans: that of the package which a model comes from."""
    scanning = {type(m).__module__ for m in separator.modules() if hasattr(m, "scan_backend")}
    return sorted({name.partition(".")[0] for name in scanning})
