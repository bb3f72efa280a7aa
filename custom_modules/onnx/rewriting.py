"""Parts of separators in a form that torch.onnx can write, computing the same."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from custom_modules.models.gridnet import Spectrogram
from custom_modules.models.layers import largest


class ConvolvedSpectrogram(nn.Module):
    """:class:`~custom_modules.models.gridnet.Spectrogram` by convolutions, without complex numbers."""

    def __init__(self, spectrogram: Spectrogram) -> None:
        super().__init__()
        self.n_fft, self.stride = spectrogram.frames
        self.shortest = spectrogram.shortest
        window = spectrogram.window.double()
        # [real and imaginary × freqs, 1, n_fft]
        bins = torch.fft.rfft(torch.eye(self.n_fft, dtype=torch.float64)).T
        analysis = torch.cat([bins.real, bins.imag]) * window
        back = torch.fft.irfft(torch.eye(len(bins), dtype=torch.complex128), self.n_fft)
        back_imaginary = torch.fft.irfft(1j * torch.eye(len(bins), dtype=torch.complex128), self.n_fft)
        synthesis = torch.cat([back, back_imaginary]) * window
        for name, kernel in (("analysis", analysis), ("synthesis", synthesis), ("power", window[None] ** 2)):
            self.register_buffer(name, kernel[:, None].float())

    def forward(self, waveforms: Tensor) -> Tensor:
        """``[batch, time]`` → ``[batch, real and imaginary, frames, freqs]``."""
        missing = largest(0, self.shortest - waveforms.shape[1])
        waveforms = F.pad(waveforms, (0, missing)).unsqueeze(1)
        edge = self.n_fft // 2
        bins = F.conv1d(F.pad(waveforms, (edge, edge), mode="reflect"), self.analysis, stride=self.stride)
        return bins.unflatten(1, (2, -1)).transpose(2, 3)

    def invert(self, spectrograms: Tensor, time: int) -> Tensor:
        """``[batch, 2 sources, frames, freqs]`` → ``[batch, time, sources]``."""
        batch, frames = spectrograms.shape[0], spectrograms.shape[2]
        bins = spectrograms.unflatten(1, (-1, 2)).transpose(3, 4).flatten(2, 3).flatten(0, 1)
        waves = F.conv_transpose1d(bins, self.synthesis, stride=self.stride)
        ones = torch.ones(1, 1, frames)
        power = F.conv_transpose1d(ones, self.power, stride=self.stride)
        waves = (waves / power.clamp(min=1e-11)).squeeze(1)
        edge = self.n_fft // 2
        # What is behind the last frame's middle is not there, or silent.
        missing = largest(0, edge + time - waves.shape[1])
        waves = F.pad(waves, (0, missing))[:, edge : edge + time]
        return waves.unflatten(0, (batch, -1)).transpose(1, 2)


_REWRITES = {Spectrogram: ConvolvedSpectrogram}


def rewrite(separator: nn.Module) -> nn.Module:
    """Replaces what the table says, in place; the scan becomes an operator that can be written."""
    for module in list(separator.modules()):
        if hasattr(module, "scan_backend"):
            module.scan_backend = "eager"
        for name, child in module.named_children():
            if make := _REWRITES.get(type(child)):
                setattr(module, name, make(child))
    return separator
