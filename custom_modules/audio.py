"""Reading and writing samples, and the few measures that mixing needs."""

import math
from math import gcd

import numpy as np
import soundfile
import soundfile as sf
import torch
from scipy.signal import firwin, resample_poly

from custom_modules.errors import InputError
from custom_modules.files import atomic_path
from custom_modules.layout import LIMIT

#: What separation and the corpus generator take for recordings in a folder.
SUFFIXES = (
    *(
        ".wav",
        ".flac",
        ".mp3",
        ".ogg",
        ".oga",
        ".opus",
        ".aif",
        ".aiff",
        ".w64",
        ".caf",
    ),
)
FULL_SCALE = 32768  # soundfile reads int16 samples as value / 32768
FRAME_SECONDS = 0.02
ACTIVITY_RANGE_DB = 40.0


def read_header(path):
    """A recording's length and rate, from its header and its last sample.

    Arguments
    ---------
    path : str or pathlib.Path
        Anything that soundfile opens: wav, flac, ogg, mp3 …

    Returns
    -------
    seconds : float
    rate : int
        In Hz.

    Raises
    ------
    InputError
        If it is no recording, or empty, or ends before its header says so.
    """
    try:
        with soundfile.SoundFile(path) as file:
            frames, rate = file.frames, file.samplerate
            # A truncated file betrays itself at its end, and not in its header.
            file.seek(max(frames - 1, 0))
            last = file.read(1)
    except (soundfile.SoundFileError, OSError) as error:
        raise InputError(f"{path}: {_reason(error)}; mend or remove it") from error
    if not len(last):
        raise InputError(f"{path}: is empty or cut off; mend or remove it")
    return frames / rate, rate


def read_span(path, start, length, rate):
    """A stretch of a recording, mono, at another rate.

    Arguments
    ---------
    path : str or pathlib.Path
        A recording of any rate and number of channels.
    start : int
        First sample, counted at ``rate``.
    length : int
        Samples wanted, counted at ``rate``.
    rate : int
        Sampling rate of the result in Hz.

    Returns
    -------
    numpy.ndarray
        ``[length]``; zeros where the recording has ended.

    Raises
    ------
    InputError
        If it cannot be read, or holds samples that are not finite.
    """
    try:
        with soundfile.SoundFile(path) as file:
            own_rate = file.samplerate
            first = min(round(start * own_rate / rate), file.frames)
            file.seek(first)
            samples = file.read(-(-length * own_rate // rate), always_2d=True)
    except (soundfile.SoundFileError, OSError) as error:
        raise InputError(f"{path}: {_reason(error)}; mend or remove it") from error
    if not np.isfinite(samples).all():
        raise InputError(
            f"{path}: holds samples that are not finite; mend or remove it"
        )
    return fit(resample(samples.mean(axis=1), own_rate, rate), length)


def _reason(error):
    """What soundfile says, without the path that it repeats."""
    return str(error).rsplit(": ", 1)[-1].strip().rstrip(".") or "cannot be read"


def resample(samples, old_rate, new_rate):
    """Changes the sampling rate, with an anti-aliasing filter.

    Arguments
    ---------
    samples : numpy.ndarray
        ``[time]``.
    old_rate, new_rate : int
        In Hz.

    Returns
    -------
    numpy.ndarray
        ``[time * new_rate / old_rate]``, rounded up.

    Example
    -------
    >>> resample(np.zeros(441), 44100, 8000).shape
    (80,)
    """
    if old_rate == new_rate or not len(samples):
        return samples
    common = gcd(old_rate, new_rate)
    return resample_poly(samples, new_rate // common, old_rate // common)


def fit(samples, length):
    """Cuts or zero-pads at the end.

    Example
    -------
    >>> fit(np.ones(2), 3)
    array([1., 1., 0.])
    """
    return np.pad(samples[:length], (0, max(0, length - len(samples))))


def rms(samples):
    """Root of the mean square. Not by ``np.dot``: BLAS kernels differ in rounding.

    Example
    -------
    >>> rms(np.array([1.0, -1.0]))
    1.0
    """
    return float(np.sqrt(np.mean(np.square(samples))))


def from_db(level):
    """A level in dB as an amplitude ratio.

    Example
    -------
    >>> from_db(20)
    10.0
    """
    return 10.0 ** (level / 20.0)


def limit(samples):
    """The hard limiter of the published script, at ±0.999.

    Example
    -------
    >>> limit(np.array([0.5, -2.0]))
    array([ 0.5  , -0.999])
    """
    return np.clip(samples, -LIMIT, LIMIT)


def active_frames(samples, rate):
    """In which frames of 20 ms somebody speaks.

    A frame is active if its level is within 40 dB of the loudest frame's.

    Arguments
    ---------
    samples : numpy.ndarray
        ``[time]``.
    rate : int
        In Hz.

    Returns
    -------
    numpy.ndarray
        Booleans, ``[frames]``; a last incomplete frame is left out.

    Example
    -------
    >>> active_frames(np.repeat([1.0, 0.0, 0.5], 160), 8000)
    array([ True, False,  True])
    """
    size = max(1, round(FRAME_SECONDS * rate))
    frames = samples[: len(samples) // size * size].reshape(-1, size)
    power = np.mean(np.square(frames), axis=1)
    if not power.size:
        return np.zeros(0, bool)
    return (power > 0) & (power >= power.max() * 10 ** (-ACTIVITY_RANGE_DB / 10))


def quantise(samples):
    """Rounds to 16 bit.

    Arguments
    ---------
    samples : numpy.ndarray
        ``[time]``, within ±0.999.

    Returns
    -------
    numpy.ndarray
        int16, ``[time]``.

    Example
    -------
    >>> quantise(np.array([0.5, -0.999]))
    array([ 16384, -32735], dtype=int16)
    """
    return np.round(samples * FULL_SCALE).astype(np.int16)


def write_pcm16(path, samples, rate):
    """Writes a mono wav file, whole or not at all.

    Arguments
    ---------
    path : pathlib.Path
        The file; its folder is created if missing.
    samples : numpy.ndarray
        int16, ``[time]``.
    rate : int
        In Hz.

    Raises
    ------
    InputError
        If it cannot be written.
    """
    with atomic_path(path) as partial:
        try:
            soundfile.write(partial, samples, rate, subtype="PCM_16", format="WAV")
        except soundfile.SoundFileError as error:
            raise OSError(_reason(error)) from error


def cancel(mix, layers):
    """Adds layers to a mix with their phase inverted.

    Arguments
    ---------
    mix : numpy.ndarray
        ``[time]``.
    layers : iterable of numpy.ndarray
        What to cancel, each ``[time]``.

    Returns
    -------
    numpy.ndarray
        ``[time]``; the inputs stay as they were.

    Example
    -------
    >>> import numpy as np
    >>> cancel(np.float32([3, 4]), [np.float32([1, 1]), np.float32([1, 0])])
    array([1., 3.], dtype=float32)
    """
    mixture = mix.copy()
    for layer in layers:
        mixture -= layer
    return mixture


def read_layer(path, start, frames):
    """Reads a part of a layer.

    Arguments
    ---------
    path : str
        A file of one channel.
    start : int
        The first sample.
    frames : int
        How many samples.

    Returns
    -------
    numpy.ndarray
        float32, ``[time]``; sums and differences of PCM_16 stay exact in it.

    Raises
    ------
    InputError
        If the file has gone since it was prepared, or is damaged.
    """
    try:
        samples, _ = sf.read(path, frames=frames, start=start, dtype="float32")
    except (sf.LibsndfileError, OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); prepare again") from error
    if samples.shape != (frames,):
        raise InputError(
            f"{path}: not as it was prepared, {samples.shape} samples from {start} on "
            f"instead of {frames}; restore it, or remove the manifests to prepare again"
        )
    return samples


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
