"""STOI and ESTOI of many signals against one target.

``pystoi`` computes one of the two for one signal at a time and prepares the
target anew for each. An evaluation asks for both, of the estimate, the mixture
and the oracle, in up to five variants with one target; sharing what they have in
common makes it about three times as fast. The parts are ``pystoi``'s.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from pystoi import utils
from pystoi.stoi import BETA, DYN_RANGE, FS, N_FRAME, NFFT, OBM, N

from custom_modules.metrics import Uncomputable

_HOP = N_FRAME // 2
_WINDOW = np.hanning(N_FRAME + 2)[1:-1]
_CLIP = 1 + 10 ** (-BETA / 20)


class StoiReference:
    """A target, prepared for scoring signals against it.

    Source: Taal et al. 2011 (STOI); Jensen and Taal 2016 (ESTOI).

    Arguments
    ---------
    target : numpy.ndarray
        Clean speech, ``[time]``.
    sample_rate : int
        Hz.

    Raises
    ------
    Uncomputable
        If fewer than 30 frames (0.4 s) of it are not silent.

    Example
    -------
    >>> from pystoi import stoi as pystoi
    >>> noise = np.random.default_rng(1).standard_normal((2, 16000))
    >>> stoi, estoi = StoiReference(noise[0], 8000).score(noise[0] + 0.3 * noise[1])
    >>> bool(abs(stoi - pystoi(noise[0], noise[0] + 0.3 * noise[1], 8000)) < 1e-9)
    True
    """

    def __init__(self, target, sample_rate):
        self.sample_rate = sample_rate
        frames = self._frames(target)
        if not len(frames):
            raise Uncomputable("fewer than 30 frames of speech")
        energies = 20 * np.log10(np.linalg.norm(frames, axis=1) + utils.EPS)
        self._heard = energies > energies.max() - DYN_RANGE
        self._segments = self._to_segments(frames)
        self._direction = _to_unit(self._segments)
        self._normalised = _normalise(self._segments)

    def score(self, signal):
        """STOI and ESTOI of a signal.

        Arguments
        ---------
        signal : numpy.ndarray
            ``[time]``, as long as the target.

        Returns
        -------
        stoi, estoi : float
        """
        segments = self._to_segments(self._frames(signal))
        scale = _norm(self._segments) / (_norm(segments) + utils.EPS)
        clipped = np.minimum(segments * scale, self._segments * _CLIP)
        stoi = np.mean(np.sum(_to_unit(clipped) * self._direction, axis=2))
        products = np.sum(self._normalised * _normalise(segments), axis=(1, 2))
        return float(stoi), float(np.mean(products) / N)

    def _frames(self, signal):
        """Windowed frames at 10 kHz, ``[frames, samples]``."""
        signal = signal.astype(np.float64)
        if self.sample_rate != FS:
            signal = utils.resample_oct(signal, FS, self.sample_rate)
        if len(signal) <= N_FRAME:
            return np.zeros((0, N_FRAME))
        return _cut(signal) * _WINDOW

    def _to_segments(self, frames):
        """Third-octave envelopes where the target speaks, [segments, bands, 30]."""
        signal = utils._overlap_and_add(frames[self._heard], _HOP)
        if len(signal) - N_FRAME <= (N - 1) * _HOP:
            raise Uncomputable("fewer than 30 frames of speech")
        spectrum = np.fft.rfft(_cut(signal) * _WINDOW, n=NFFT)
        bands = np.sqrt(np.matmul(OBM, np.square(np.abs(spectrum)).T))
        return sliding_window_view(bands, N, axis=1).transpose(1, 0, 2)


def _cut(signal):
    """Overlapping frames; like pystoi without the last one if it just fits."""
    return sliding_window_view(signal, N_FRAME)[:-1:_HOP]


def _norm(segments):
    return np.linalg.norm(segments, axis=2, keepdims=True)


def _to_unit(segments):
    centred = segments - segments.mean(axis=2, keepdims=True)
    return centred / (_norm(centred) + utils.EPS)


def _normalise(segments):
    """Rows, then columns, without their mean and of unit norm.

    ``pystoi`` adds noise at the level of rounding, so that nothing is divided by
    0; what is constant becomes 0 here, and results repeat.
    """
    rows = _to_unit(segments)
    columns = rows - rows.mean(axis=1, keepdims=True)
    return columns / (np.linalg.norm(columns, axis=1, keepdims=True) + utils.EPS)
