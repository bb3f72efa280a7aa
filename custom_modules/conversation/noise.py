"""A recording's steady noise, taken off before voices are told apart. It is not for ears."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from custom_modules.conversation.passages import Span, merge
from custom_modules.conversation.samples import Samples

_WINDOW_SECONDS = 0.064
#: Of so much around speech nothing is learnt; less of all is not enough; more tells no more, s.
_MARGIN, _LEAST, _MOST = 0.2, 1.0, 120.0
#: Power is subtracted so many times, and so much is left of it.
_TIMES, _LEFT = 4.0, 0.01


class SteadyNoise:
    """Spectral subtraction (Boll 1979) of what is heard while nobody speaks."""

    def __init__(self, recording: Samples, heard: Sequence[Span]) -> None:
        self.size = 4 * max(1, round(_WINDOW_SECONDS * recording.rate / 4))
        self.window = torch.hann_window(self.size)
        pauses = _pauses(recording, heard)
        self.power: Tensor | None = None
        if sum(end - start for start, end in pauses) >= _LEAST:
            spectra = [self._spectrum(_read(recording, span)).abs().square() for span in pauses]
            self.power = torch.cat(spectra, dim=1).median(dim=1, keepdim=True).values

    def less(self, waveform: np.ndarray) -> np.ndarray:
        """``[time]`` → ``[time]``; as it was where too little is known of the noise."""
        if self.power is None or len(waveform) < self.size:
            return waveform
        spectrum = self._spectrum(waveform)
        share = _TIMES * self.power / spectrum.abs().square().clamp(min=1e-12)
        spectrum = spectrum * (1 - share).clamp(min=_LEFT).sqrt()
        quiet: np.ndarray = torch.istft(
            spectrum, self.size, self.size // 4, window=self.window, length=len(waveform)
        ).numpy()
        return quiet

    def _spectrum(self, waveform: np.ndarray) -> Tensor:
        return torch.stft(
            torch.from_numpy(waveform),
            self.size,
            self.size // 4,
            window=self.window,
            return_complex=True,
        )


def _pauses(recording: Samples, heard: Sequence[Span]) -> list[Span]:
    """Where nobody speaks, evenly over the recording where there is more than enough."""
    spoken = merge((start - _MARGIN, end + _MARGIN) for start, end in heard)
    edges = [0.0, *(edge for span in spoken for edge in span), recording.seconds]
    between = zip(edges[::2], edges[1::2], strict=True)
    pauses = [(a, min(b, a + _LEAST)) for a, b in between if b - a > 4 * _WINDOW_SECONDS]
    step = max(1, round(sum(b - a for a, b in pauses) / _MOST))
    return pauses[::step]


def _read(recording: Samples, span: Span) -> np.ndarray:
    start, end = span
    return recording.read(round(start * recording.rate), round(end * recording.rate))
