"""Reading and writing samples, and the few measures that mixing needs."""

from math import gcd

import numpy as np
import soundfile
from scipy.signal import resample_poly

from custom_modules.errors import InputError
from custom_modules.files import atomic_path
from custom_modules.layout import LIMIT

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
