"""A plate reverberator, as one impulse response.

Source: J. Dattorro, "Effect Design Part 1: Reverberator and Other Filters",
JAES 45(9), 1997, figure 1 and table 2. The published PolSESS script uses MATLAB's
``reverberator``, which is of the same family and gives the parameters their
names; the plate's slow modulation is left out, so that it is linear and
time-invariant and an impulse response says everything.

The plate is two loops that feed each other. Instead of running through time
sample by sample, its transfer function is written down and evaluated on a
circle; one inverse FFT then gives the impulse response.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.fft import irfft, next_fast_len
from scipy.signal import fftconvolve

from custom_modules import layout

#: Delays in samples at the rate of Dattorro's design.
DESIGN_RATE = 29761
INPUT_DIFFUSERS = (142, 107, 379, 277)
#: Per loop: first all-pass, first delay, second all-pass, second delay.
LOOPS = ((672, 4453, 1800, 3720), (908, 4217, 2656, 3163))
#: Where the two output channels are tapped (table 2), as (sign, loop, line,
#: delay); lines count within a loop as in LOOPS.
TAPS = (
    (+1, 1, 1, 266),
    (+1, 1, 1, 2974),
    (-1, 1, 2, 1913),
    (+1, 1, 3, 1996),
    (-1, 0, 1, 1990),
    (-1, 0, 2, 187),
    (-1, 0, 3, 1066),
    (+1, 0, 1, 353),
    (+1, 0, 1, 3627),
    (-1, 0, 2, 1228),
    (+1, 0, 3, 2673),
    (-1, 1, 1, 2111),
    (-1, 1, 2, 335),
    (-1, 1, 3, 121),
)
TAP_GAIN = 0.6
DECAY_DIFFUSION = (-0.7, 0.5)  # Dattorro's first one enters with its sign turned

#: Speaker 2 is at most so much of speaker 1's offset earlier.
PRE_DELAY_ADVANCE = 0.3

#: By how much the evaluation circle damps the tail that wraps around (120 dB).
WRAP_DAMPING = 1e-6


@dataclass(frozen=True)
class Room:
    """What a PolSESS row says about its room.

    Arguments
    ---------
    high_cut : float
        Corner of the input's low-pass in Hz, at most the Nyquist frequency.
    diffusion : float
        Gain of the input's all-pass filters, 0 to below 1.
    decay : float
        MATLAB's ``DecayFactor``, 0 to 1: how *fast* the tail dies. A car has
        0.97, a hall 0.3.
    freq_damp : float
        How much faster high frequencies die, 0 to below 1.
    """

    high_cut: float
    diffusion: float
    decay: float
    freq_damp: float


def draw_room(ranges, rng):
    """Draws the parameters of a room and the pre-delays of the sources.

    Arguments
    ---------
    ranges : dict of str to tuple of float
        See :class:`custom_modules.corpus.sources.SceneClass`.
    rng : numpy.random.Generator

    Returns
    -------
    dict of str to float
        By the names of the CSV's columns, rounded as they are written there, so
        that the row and the audio say the same. Pre-delays in s, high cut in Hz.

    Example
    -------
    >>> from custom_modules.corpus.sources import scene_classes
    >>> car = scene_classes()["car"].room
    >>> drawn = draw_room(car, np.random.default_rng(1))
    >>> drawn["preDelay2"] <= drawn["preDelay1"] <= 0.05
    True
    """
    low, high = ranges["pre_delay"]
    offset = rng.uniform(0, high - low)
    advance = rng.uniform(0, PRE_DELAY_ADVANCE) * offset
    drawn = {
        "preDelayForEvent": rng.uniform(low, high),
        "preDelay1": low + offset,
        "preDelay2": low + offset - advance,
        "highCut": rng.uniform(*ranges["high_cut"]),
        "diffusion": rng.uniform(*ranges["diffusion"]),
        "decay": rng.uniform(*ranges["decay"]),
        "freqDamp": rng.uniform(*ranges["freq_damp"]),
    }
    return {name: float(layout.number(value)) for name, value in drawn.items()}


def impulse_response(room, length, rate):
    """The plate's impulse response, fully wet, without pre-delay.

    Arguments
    ---------
    room : Room
        Its parameters.
    length : int
        Samples to return.
    rate : int
        Sampling rate in Hz.

    Returns
    -------
    numpy.ndarray
        ``[length]``, the mean of the two output channels. It starts with
        silence: no tap of the plate is nearer than 4 ms.

    Example
    -------
    >>> room = Room(high_cut=18000, diffusion=0.5, decay=0.9, freq_damp=0.5)
    >>> response = impulse_response(room, 8000, 8000)
    >>> bool(np.abs(response[:32]).max() < 1e-6)
    True
    """
    size = next_fast_len(max(length, DESIGN_RATE // 4), real=True)
    plate = _Plate(size, rate)
    spectrum = plate.output(room)
    wrapped = irfft(spectrum, size)
    return wrapped[:length] * plate.radius ** np.arange(length)


def wet(samples, response, pre_delay, rate):
    """The reverberation alone of a signal in a room.

    Arguments
    ---------
    samples : numpy.ndarray
        ``[time]``, the dry signal.
    response : numpy.ndarray
        ``[time]`` from :func:`impulse_response`.
    pre_delay : float
        In s.
    rate : int
        Sampling rate in Hz.

    Returns
    -------
    numpy.ndarray
        ``[time]``, as long as ``samples``; what would follow is cut off.

    Example
    -------
    >>> click = np.eye(1, 5)[0]
    >>> wet(click, np.array([0.0, 1.0, 0.5]), pre_delay=2.0, rate=1).round(9)
    array([0. , 0. , 0. , 1. , 0.5])
    """
    delay = min(round(pre_delay * rate), len(samples))
    tail = fftconvolve(samples, response)[: len(samples) - delay]
    return np.concatenate([np.zeros(delay), tail])


class _Plate:
    """The plate's transfer function on a circle around the unit circle.

    On a circle of radius r > 1 a tail longer than the FFT comes back damped by
    r to the power of the FFT's size: an infinite response needs no longer FFT.
    """

    def __init__(self, size, rate):
        self.rate = rate
        self.radius = WRAP_DAMPING ** (-1.0 / size)
        self._delay = _delays(size, rate)

    def output(self, room):
        """The spectrum of the mean of both channels, ``[size // 2 + 1]``."""
        lines = self._lines(room)
        feeds = self._feeds(room, [loop[3] for loop in lines])
        taps = 0.0
        for sign, loop, line, delay in TAPS:
            taps = taps + sign * feeds[loop] * lines[loop][line - 1] * self._z(delay)
        return 0.5 * TAP_GAIN * taps

    def _z(self, samples):
        return self._delay(samples)

    def _lines(self, room):
        """Per loop: what enters delay 1, all-pass 2, delay 2, and the other loop."""
        keep = 1.0 - room.decay
        damper = (1.0 - room.freq_damp) / (1.0 - room.freq_damp * self._one_sample())
        result = []
        for first, delay_1, second, delay_2 in LOOPS:
            line_1 = self._all_pass(first, DECAY_DIFFUSION[0])
            inner = line_1 * self._z(delay_1) * damper * keep
            state_2 = inner / (1.0 + DECAY_DIFFUSION[1] * self._z(second))
            line_2 = inner * self._all_pass(second, DECAY_DIFFUSION[1])
            result.append((line_1, state_2, line_2, line_2 * self._z(delay_2) * keep))
        return result

    def _feeds(self, room, ends):
        """What enters each loop: the input, and the end of the other loop."""
        source = self._low_pass(room.high_cut)
        for delay in INPUT_DIFFUSERS:
            source = source * self._all_pass(delay, room.diffusion)
        loop_gain = 1.0 / (1.0 - ends[0] * ends[1])
        return [source * (1.0 + ends[1 - loop]) * loop_gain for loop in (0, 1)]

    def _all_pass(self, delay, gain):
        z = self._z(delay)
        return (gain + z) / (1.0 + gain * z)

    def _low_pass(self, corner):
        pole = np.exp(-2.0 * np.pi * min(corner / self.rate, 0.5))
        return (1.0 - pole) / (1.0 - pole * self._one_sample())

    def _one_sample(self):
        return self._z(DESIGN_RATE / self.rate)


@lru_cache(maxsize=2)
def _delays(size, rate):
    """A function that gives z to the power of minus a delay, and remembers it."""
    radius = WRAP_DAMPING ** (-1.0 / size)
    exponent = -(np.log(radius) + 2j * np.pi * np.arange(size // 2 + 1) / size)

    @lru_cache(maxsize=64)
    def delay(design_samples):
        return np.exp(exponent * max(round(design_samples * rate / DESIGN_RATE), 1))

    return delay
