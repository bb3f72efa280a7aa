"""A plate reverberator, as one impulse response.

Source: J. Dattorro, "Effect Design Part 1: Reverberator and Other Filters",
JAES 45(9), 1997, figure 1 and table 2. The published PolSESS script uses MATLAB's
``reverberator``, which is of the same family and gives the parameters their
names; the plate's slow modulation is left out, so that it is linear and
time-invariant and an impulse response says everything.

The plate is two loops that feed each other. Its transfer function is evaluated on a
circle, and one inverse FFT gives the impulse response.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.random import Generator
from scipy.fft import irfft, next_fast_len
from scipy.signal import fftconvolve

from custom_modules import layout

#: Delays in samples at the rate of Dattorro's design.
DESIGN_RATE = 29761
INPUT_DIFFUSERS = (142, 107, 379, 277)
#: Per loop: first all-pass, first delay, second all-pass, second delay.
LOOPS = ((672, 4453, 1800, 3720), (908, 4217, 2656, 3163))
# fmt: off
#: Where the two output channels are tapped (table 2), as (loop, line, delay), lines of
#: a loop counted as in LOOPS; a negative delay is that of a tap to be subtracted.
TAPS = (
    (1, 1, 266), (1, 1, 2974), (1, 2, -1913), (1, 3, 1996),  # left
    (0, 1, -1990), (0, 2, -187), (0, 3, -1066),
    (0, 1, 353), (0, 1, 3627), (0, 2, -1228), (0, 3, 2673),  # right
    (1, 1, -2111), (1, 2, -335), (1, 3, -121),
)
# fmt: on
TAP_GAIN = 0.6
DECAY_DIFFUSION = (-0.7, 0.5)  # Dattorro's first one enters with its sign turned

#: Speaker 2 is at most so much of speaker 1's offset earlier.
PRE_DELAY_ADVANCE = 0.3

#: By how much the evaluation circle damps the tail that wraps around (120 dB).
WRAP_DAMPING = 1e-6


@dataclass(frozen=True)
class Room:
    """What a PolSESS row says about its room."""

    high_cut: float  # corner of the input's low-pass in Hz, at most Nyquist
    diffusion: float  # gain of the input's all-pass filters, 0 to below 1
    #: MATLAB's ``DecayFactor``, 0 to 1: how *fast* the tail dies. A car has 0.97, a
    #: hall 0.3.
    decay: float
    freq_damp: float  # how much faster high frequencies die, 0 to below 1


def draw_room(
    ranges: Mapping[str, tuple[float, float]], rng: Generator
) -> dict[str, float]:
    """Draws the parameters of a room and the pre-delays of the sources.

    ``ranges`` are those of a `SceneClass`. The result has the names of the CSV's
    columns and is rounded as in the CSV, so that the row and the audio say the same.
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


def impulse_response(room: Room, length: int, rate: int) -> np.ndarray:
    """The plate's impulse response, fully wet, without pre-delay, ``[length]``.

    The mean of the two output channels. It starts with silence: no tap of the plate
    is nearer than 4 ms.
    """
    size = next_fast_len(max(length, DESIGN_RATE // 4), real=True)
    wrapped = irfft(_Plate(size, rate).output(room), size)
    return wrapped[:length] * _radius(size) ** np.arange(length)


def wet(
    samples: np.ndarray, response: np.ndarray, pre_delay: float, rate: int
) -> np.ndarray:
    """The reverberation alone of a signal, as long as it; pre-delay in s.

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

    def __init__(self, size: int, rate: int) -> None:
        self.rate = rate
        self.delay = _delays(size, rate)
        self.one_sample = self.delay(DESIGN_RATE / rate)

    def output(self, room: Room) -> np.ndarray:
        """The spectrum of the mean of both channels, ``[size // 2 + 1]``."""
        lines = [self._lines(room, *loop) for loop in LOOPS]
        source = self._input(room)
        ends = [loop[3] for loop in lines]
        loop_gain = 1.0 / (1.0 - ends[0] * ends[1])
        feeds = [source * (1.0 + end) * loop_gain for end in reversed(ends)]
        taps = np.zeros_like(source)
        for loop, line, delay in TAPS:
            tap = feeds[loop] * lines[loop][line - 1] * self.delay(abs(delay))
            taps += np.sign(delay) * tap
        return 0.5 * TAP_GAIN * taps

    def _lines(
        self, room: Room, first: int, delay_1: int, second: int, delay_2: int
    ) -> tuple[np.ndarray, ...]:
        """What enters delay 1, all-pass 2, delay 2, and the other loop."""
        keep = 1.0 - room.decay
        damper = (1.0 - room.freq_damp) / (1.0 - room.freq_damp * self.one_sample)
        line_1 = self._all_pass(first, DECAY_DIFFUSION[0])
        inner = line_1 * self.delay(delay_1) * damper * keep
        state_2 = inner / (1.0 + DECAY_DIFFUSION[1] * self.delay(second))
        line_2 = inner * self._all_pass(second, DECAY_DIFFUSION[1])
        return line_1, state_2, line_2, line_2 * self.delay(delay_2) * keep

    def _input(self, room: Room) -> np.ndarray:
        """What enters both loops: a low-pass and all-pass filters."""
        pole = np.exp(-2.0 * np.pi * min(room.high_cut / self.rate, 0.5))
        source = (1.0 - pole) / (1.0 - pole * self.one_sample)
        for delay in INPUT_DIFFUSERS:
            source = source * self._all_pass(delay, room.diffusion)
        return source

    def _all_pass(self, delay: int, gain: float) -> np.ndarray:
        z = self.delay(delay)
        return (gain + z) / (1.0 + gain * z)


def _radius(size: int) -> float:
    return WRAP_DAMPING ** (-1.0 / size)


@lru_cache(maxsize=2)
def _delays(size: int, rate: int) -> Callable[[float], np.ndarray]:
    """A function that gives z to the power of minus a delay, and remembers it."""
    angle = 2j * np.pi * np.arange(size // 2 + 1) / size
    exponent = -(np.log(_radius(size)) + angle)

    @lru_cache(maxsize=64)
    def delay(design_samples: float) -> np.ndarray:
        return np.exp(exponent * max(round(design_samples * rate / DESIGN_RATE), 1))

    return delay
