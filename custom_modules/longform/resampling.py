"""Sampling rates of streams, changed block by block."""

import math

import torch
from scipy.signal import firwin, resample_poly

#: Zero crossings of the filter on each side, and its stop band, as in resampy's
#: kaiser_best: aliases are 90 dB down.
_HALF_WIDTH = 48
_KAISER_BETA = 9.0
_ROLLOFF = 0.95


def resample_blocks(blocks, rate, new_rate):
    """Changes the sampling rate of a stream; the same as doing it at once.

    Arguments
    ---------
    blocks : iterable of torch.Tensor
        Parts of a stream, one after the other, ``[batch, time]``.
    rate, new_rate : int
        Hz.

    Yields
    ------
    torch.Tensor
        ``[batch, time]``; a stream of n samples becomes one of
        ``ceil(n * new_rate / rate)``.

    Example
    -------
    >>> blocks = torch.randn(1, 44100).split(5000, dim=1)
    >>> torch.cat(list(resample_blocks(blocks, 44100, 8000)), dim=1).shape
    torch.Size([1, 8000])
    """
    if rate == new_rate:
        yield from blocks
        return
    divisor = math.gcd(rate, new_rate)
    up, down = new_rate // divisor, rate // divisor
    taps = _filter(up, down)
    # Whole periods of both rates, so that blocks fit onto each other.
    context = down * math.ceil(_HALF_WIDTH * max(up, down) / up / down)
    held, past = None, 0  # the stream from `past` samples before what comes next
    for block in blocks:
        held = block if held is None else torch.cat([held, block], dim=1)
        ready = (held.shape[1] - past - context) // down * down
        if ready <= 0:
            continue
        whole = _resample(held[:, : past + ready + context], up, down, taps)
        yield whole[:, past // down * up :][:, : ready // down * up]
        kept = min(past + ready, context)
        held, past = held[:, past + ready - kept :], kept
    if held is not None and held.shape[1] > past:
        yield _resample(held, up, down, taps)[:, past // down * up :]


def _filter(up, down):
    """Kaiser-windowed sinc below the lower of the two Nyquist frequencies."""
    slower = max(up, down)
    taps = firwin(
        2 * _HALF_WIDTH * slower + 1,
        _ROLLOFF / slower,
        window=("kaiser", _KAISER_BETA),
    )
    return taps.astype("float32")


def _resample(signal, up, down, taps):
    resampled = resample_poly(signal.numpy(), up, down, axis=1, window=taps)
    return torch.from_numpy(resampled.astype("float32"))
