"""Building blocks of procedural sound: noise, envelopes, tones and grains.

All take a random generator, a length in samples and a rate in Hz, and return
``[time]`` samples. Levels are settled by whoever combines them.
"""

import numpy as np
from scipy.fft import irfft, next_fast_len, rfft
from scipy.signal import fftconvolve, lfilter

CURVE_RATE = 100  # Hz
SPECTRUM_CORNER = 20.0  # Hz: below it no block puts energy


def noise(rng, length, rate, slope=0.0, low=SPECTRUM_CORNER, high=20000.0):
    """Gaussian noise with a sloping spectrum between two edges.

    Arguments
    ---------
    rng : numpy.random.Generator
    length : int
        Samples.
    rate : int
        In Hz.
    slope : float
        In dB per octave: 0 white, -3 pink, -6 brown.
    low, high : float
        Edges in Hz, of 12 dB per octave.

    Returns
    -------
    numpy.ndarray
        ``[length]``, RMS 1.

    Example
    -------
    >>> samples = noise(np.random.default_rng(0), 8000, 8000, slope=-3)
    >>> float(np.sqrt(np.mean(samples**2)).round(6))
    1.0
    """
    size = next_fast_len(length, real=True)
    spectrum = rfft(rng.standard_normal(size))
    frequency = np.maximum(np.fft.rfftfreq(size, 1 / rate), SPECTRUM_CORNER)
    gain = (frequency / 1000.0) ** (slope / 6.0206)
    gain /= (1 + (low / frequency) ** 2) * (1 + (frequency / high) ** 2)
    gain[0] = 0.0
    return unit(irfft(spectrum * gain, size)[:length])


def unit(samples):
    """Scales to RMS 1; silence stays silence."""
    level = np.sqrt(np.mean(np.square(samples)))
    return samples / level if level > 0 else samples


def wander(rng, length, rate, speed, low, high):
    """A quantity that drifts at random between two values.

    Arguments
    ---------
    rng : numpy.random.Generator
    length, rate : int
    speed : float
        New targets per second.
    low, high : float
        Between which it stays.

    Returns
    -------
    numpy.ndarray
        ``[length]``

    Example
    -------
    >>> drift = wander(np.random.default_rng(0), 800, 8000, 2.0, 0.5, 1.0)
    >>> bool(drift.min() >= 0.5 and drift.max() <= 1.0)
    True
    """
    knots = rng.uniform(low, high, int(length / rate * speed) + 3)
    coarse = _coarse_times(length, rate) * speed
    index = coarse.astype(int)
    blend = 0.5 - 0.5 * np.cos(np.pi * (coarse - index))
    curve = (
        knots[index] * (1 - blend)
        + knots[np.minimum(index + 1, len(knots) - 1)] * blend
    )
    return _refined(curve, length, rate)


def _coarse_times(length, rate):
    """Slow curves are computed at 100 points a second, then interpolated."""
    return np.arange(0, length / rate + 1 / CURVE_RATE, 1 / CURVE_RATE)


def _refined(curve, length, rate):
    return np.interp(
        np.arange(length) * (CURVE_RATE / rate), np.arange(len(curve)), curve
    )


def swells(rng, length, rate, per_second, width):
    """An envelope of bumps at random times: waves, cars that pass, gusts.

    Arguments
    ---------
    rng : numpy.random.Generator
    length, rate : int
    per_second : float
        How many bumps.
    width : float
        Standard deviation of a bump in s.

    Returns
    -------
    numpy.ndarray
        ``[length]``, not negative.
    """
    seconds = length / rate
    margin = 2 * width
    number = max(1, rng.poisson(per_second * (seconds + 2 * margin)))
    centres = rng.uniform(-margin, seconds + margin, number)
    heights = rng.uniform(0.4, 1.0, number)
    coarse = _coarse_times(length, rate)
    bumps = np.exp(-0.5 * ((coarse[:, None] - centres) / width) ** 2) * heights
    return _refined(bumps.sum(axis=1), length, rate)


def tone(frequency, rate, partials, odd_only=False):
    """A harmonic tone whose pitch follows a curve.

    Arguments
    ---------
    frequency : numpy.ndarray
        ``[time]``, the fundamental in Hz.
    rate : int
        In Hz.
    partials : int
        How many, falling with 6 dB per octave; those above 0.45 of the rate are
        left out.
    odd_only : bool
        Whether to leave out the even ones, as a stopped pipe does.

    Returns
    -------
    numpy.ndarray
        ``[time]``
    """
    phase = 2 * np.pi * np.cumsum(frequency) / rate
    result = np.zeros(len(frequency))
    for number in range(1, partials + 1, 2 if odd_only else 1):
        if number * frequency.max() < 0.45 * rate:
            result += np.sin(number * phase) / number
    return result


def ring(rng, length, rate, frequencies, seconds):
    """Partials that ring and die away, the higher the faster: bells, strings.

    Arguments
    ---------
    rng : numpy.random.Generator
    length, rate : int
    frequencies : iterable of float
        In Hz; those above 0.45 of the rate are left out.
    seconds : float
        After which the lowest has lost 60 dB.

    Returns
    -------
    numpy.ndarray
        ``[length]``
    """
    time = np.arange(length) / rate
    result = np.zeros(length)
    lowest = min(frequencies)
    for frequency in frequencies:
        if frequency < 0.45 * rate:
            fade = np.exp(-6.9 * time / seconds * (frequency / lowest) ** 0.5)
            phase = rng.uniform(0, 2 * np.pi)
            result += fade * np.sin(2 * np.pi * frequency * time + phase)
    return result


def strokes(rng, length, rate, per_second, grain, spread_db=12.0):
    """A short sound, repeated at random times and levels: rain, steps, crackle.

    Arguments
    ---------
    rng : numpy.random.Generator
    length, rate : int
    per_second : float
        Mean number of repetitions.
    grain : numpy.ndarray
        ``[time]``, the sound.
    spread_db : float
        The quietest is so much below the loudest.

    Returns
    -------
    numpy.ndarray
        ``[length]``
    """
    number = max(1, rng.poisson(per_second * length / rate))
    impulses = np.zeros(length)
    times = rng.integers(0, length, number)
    levels = 10 ** (-rng.uniform(0, spread_db, number) / 20)
    np.add.at(impulses, times, levels * rng.choice([-1, 1], number))
    return fftconvolve(impulses, grain)[:length]


def burst(rng, rate, seconds, low, high):
    """Noise that dies away: the grain of knocks, clicks and drops.

    Arguments
    ---------
    rng : numpy.random.Generator
    rate : int
    seconds : float
        After which it has lost 60 dB; also its length.
    low, high : float
        Edges of its spectrum in Hz.

    Returns
    -------
    numpy.ndarray
        ``[seconds * rate]``
    """
    length = max(8, round(seconds * rate))
    fade = np.exp(-6.9 * np.arange(length) / length)
    return noise(rng, length, rate, 0.0, low, high) * fade


def resonate(samples, rate, frequency, width):
    """A resonance of two poles: one formant.

    Arguments
    ---------
    samples : numpy.ndarray
        ``[time]``
    rate : int
        In Hz.
    frequency, width : float
        Centre and bandwidth in Hz.

    Returns
    -------
    numpy.ndarray
        ``[time]``
    """
    radius = np.exp(-np.pi * width / rate)
    poles = [1.0, -2 * radius * np.cos(2 * np.pi * frequency / rate), radius**2]
    return lfilter([1.0 - radius], poles, samples)


def fade_edges(samples, rate, seconds=0.005):
    """Takes the clicks off the start and the end.

    Example
    -------
    >>> fade_edges(np.ones(5), rate=1, seconds=2)
    array([0. , 0.5, 1. , 0.5, 0. ])
    """
    length = len(samples)
    edge = max(1.0, seconds * rate)
    distance = np.minimum(np.arange(length), np.arange(length)[::-1])
    return samples * np.minimum(distance / edge, 1.0)
