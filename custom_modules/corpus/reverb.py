"""A plate reverberator, as one impulse response.

Source: J. Dattorro, "Effect Design Part 1: Reverberator and Other Filters",
JAES 45(9), 1997, figure 1 and table 2. The published PolSESS script uses MATLAB's
``reverberator``, which is of the same family and gives the parameters their
names; the plate's slow modulation is left out, so that it is linear and
time-invariant and an impulse response says everything.
"""

from collections.abc import Mapping
from functools import lru_cache, partial

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


def draw_room(ranges: Mapping[str, tuple[float, float]], rng: Generator) -> dict[str, float]:
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


def impulse_response(room: Mapping[str, float], length: int, rate: int) -> np.ndarray:
    """The plate's impulse response, fully wet, without pre-delay, ``[length]``.

    Of a room count ``highCut``, the corner of the input's low-pass in Hz;
    ``diffusion``, the gain of the input's all-pass filters, 0 to below 1; ``decay``,
    0 to 1, how *fast* the tail dies (a car has 0.97, a hall 0.3); and ``freqDamp``, how
    much faster high frequencies do, 0 to below 1. The mean of the two output channels.
    It starts with silence: no tap of the plate is nearer than 4 ms.
    """
    size = next_fast_len(max(length, DESIGN_RATE // 4), real=True)
    wrapped = irfft(_transfer_function(room, size, rate), size)
    return wrapped[:length] * _radius(size) ** np.arange(length)


def wet(samples: np.ndarray, response: np.ndarray, pre_delay: float, rate: int) -> np.ndarray:
    """The reverberation alone of a signal, as long as it; pre-delay in s.

    >>> click = np.eye(1, 5)[0]
    >>> wet(click, np.array([0.0, 1.0, 0.5]), pre_delay=2.0, rate=1).round(9)
    array([0. , 0. , 0. , 1. , 0.5])
    """
    delay = min(round(pre_delay * rate), len(samples))
    tail = fftconvolve(samples, response)[: len(samples) - delay]
    return np.concatenate([np.zeros(delay), tail])


def _transfer_function(room: Mapping[str, float], size: int, rate: int) -> np.ndarray:
    """The plate, two loops that feed each other, on a circle, ``[size // 2 + 1]``.

    On a circle of radius r > 1 a tail longer than the FFT comes back damped by
    r to the power of the FFT's size: an infinite response needs no longer FFT.
    """
    delay = partial(_delay, size=size, rate=rate)
    one_sample = delay(DESIGN_RATE / rate)

    def all_pass(samples: int, gain: float) -> np.ndarray:
        z = delay(samples)
        return (gain + z) / (1.0 + gain * z)

    pole = np.exp(-2.0 * np.pi * min(room["highCut"] / rate, 0.5))
    source = (1.0 - pole) / (1.0 - pole * one_sample)
    for samples in INPUT_DIFFUSERS:
        source = source * all_pass(samples, room["diffusion"])
    keep, damp = 1.0 - room["decay"], room["freqDamp"]
    damper = (1.0 - damp) / (1.0 - damp * one_sample)
    lines = []  # of each loop: what enters delay 1, all-pass 2, delay 2, the other loop
    for first, delay_1, second, delay_2 in LOOPS:
        line_1 = all_pass(first, DECAY_DIFFUSION[0])
        inner = line_1 * delay(delay_1) * damper * keep
        state_2 = inner / (1.0 + DECAY_DIFFUSION[1] * delay(second))
        line_2 = inner * all_pass(second, DECAY_DIFFUSION[1])
        lines.append((line_1, state_2, line_2, line_2 * delay(delay_2) * keep))
    ends = [loop[3] for loop in lines]
    loop_gain = 1.0 / (1.0 - ends[0] * ends[1])
    feeds = [source * (1.0 + end) * loop_gain for end in reversed(ends)]
    taps = np.zeros_like(source)
    for loop, line, samples in TAPS:
        tap = feeds[loop] * lines[loop][line - 1] * delay(abs(samples))
        taps += np.sign(samples) * tap
    return 0.5 * TAP_GAIN * taps


def _radius(size: int) -> float:
    return WRAP_DAMPING ** (-1.0 / size)


@lru_cache(maxsize=64)
def _delay(design_samples: float, size: int, rate: int) -> np.ndarray:
    """z to the power of minus a delay."""
    angle = 2j * np.pi * np.arange(size // 2 + 1) / size
    samples = max(round(design_samples * rate / DESIGN_RATE), 1)
    return np.exp(-(np.log(_radius(size)) + angle) * samples)
