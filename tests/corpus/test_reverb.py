"""The plate against Dattorro's figure, run sample by sample."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from custom_modules.corpus import reverb, sources
from custom_modules.mmipc import generator

RATE = 8000
LENGTH = 8000


def room_of(high_cut, diffusion, decay, damp):
    return {"highCut": high_cut, "diffusion": diffusion, "decay": decay, "freqDamp": damp}


class Line:
    """A delay line that is written once and read anywhere, per sample."""

    def __init__(self, design_samples, rate):
        self.scale = rate / reverb.DESIGN_RATE
        self.size = self.samples(design_samples)
        self.buffer = [0.0] * 20000
        self.now = 0

    def samples(self, design_samples):
        return max(round(design_samples * self.scale), 1)

    def read(self, delay):
        return self.buffer[(self.now - delay) % len(self.buffer)]

    def tap(self, design_samples):
        return self.read(self.samples(design_samples))

    def end(self):
        return self.read(self.size)

    def push(self, value):
        self.buffer[self.now % len(self.buffer)] = value

    def step(self):
        self.now += 1


def all_pass(line, value, gain):
    state = value - gain * line.end()
    line.push(state)
    return gain * state + line.end()


def plate_by_samples(room, length, rate):
    """The figure as a loop over time; shares nothing with the module but numbers."""
    diffusers = [Line(d, rate) for d in (142, 107, 379, 277)]
    loops = [[Line(d, rate) for d in side] for side in reverb.LOOPS]
    pole = np.exp(-2 * np.pi * min(room["highCut"] / rate, 0.5))
    low, damped, ends = 0.0, [0.0, 0.0], [0.0, 0.0]
    output = np.zeros(length)
    for n in range(length):
        value = low = (1 - pole) * (n == 0) + pole * low
        for diffuser in diffusers:
            value = all_pass(diffuser, value, room["diffusion"])
        ends = [(1 - room["decay"]) * side[3].end() for side in loops]
        for k, side in enumerate(loops):
            line = all_pass(side[0], value + ends[1 - k], -0.7)
            side[1].push(line)
            d = room["freqDamp"]
            damped[k] = (1 - d) * side[1].end() + d * damped[k]
            side[3].push(all_pass(side[2], (1 - room["decay"]) * damped[k], 0.5))
        (_, a1, a2, a3), (_, b1, b2, b3) = loops
        left = b1.tap(266) + b1.tap(2974) - b2.tap(1913) + b3.tap(1996)
        left -= a1.tap(1990) + a2.tap(187) + a3.tap(1066)
        right = a1.tap(353) + a1.tap(3627) - a2.tap(1228) + a3.tap(2673)
        right -= b1.tap(2111) + b2.tap(335) + b3.tap(121)
        output[n] = 0.5 * 0.6 * (left + right)
        for line in [*diffusers, *loops[0], *loops[1]]:
            line.step()
    return output


@pytest.mark.parametrize(
    "room", [room_of(18000, 0.6, 0.95, 0.4), room_of(3000, 0.2, 0.3, 0.1)], ids=["car", "hall"]
)
def test_impulse_response_is_the_figure_run_sample_by_sample(room):
    expected = plate_by_samples(room, LENGTH, RATE)
    response = reverb.impulse_response(room, LENGTH, RATE)
    np.testing.assert_allclose(response, expected, atol=2e-6)


def test_response_does_not_depend_on_how_much_of_it_is_wanted():
    room = room_of(18000, 0.3, 0.3, 0.1)
    short = reverb.impulse_response(room, 8000, RATE)
    long = reverb.impulse_response(room, 64000, RATE)
    np.testing.assert_allclose(short, long[:8000], atol=1e-6)


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_no_direct_path(rate):
    response = reverb.impulse_response(room_of(18000, 0.5, 0.9, 0.5), rate, rate)
    first_tap = round(rate * 121 / reverb.DESIGN_RATE)
    assert np.abs(response[:first_tap]).max() < 1e-9
    assert np.abs(response).max() > 1e-3


def energy_after(response, seconds, rate=RATE):
    energy = np.square(response)
    return energy[round(seconds * rate) :].sum() / energy.sum()


@given(decay=st.floats(0.3, 0.9), damp=st.floats(0.1, 0.9))
def test_a_higher_decay_factor_dies_faster(decay, damp):
    slow, fast = (
        reverb.impulse_response(room_of(18000, 0.5, d, damp), 2 * RATE, RATE)
        for d in (decay, decay + 0.09)
    )
    assert energy_after(fast, 0.5) < energy_after(slow, 0.5)


def test_damping_takes_the_high_frequencies_of_the_tail():
    def brightness(damp):
        room = room_of(18000, 0.5, 0.5, damp)
        tail = reverb.impulse_response(room, 2 * RATE, RATE)[RATE // 2 :]
        power = np.abs(np.fft.rfft(tail)) ** 2
        return power[len(power) // 2 :].sum() / power.sum()

    assert brightness(0.8) < 0.2 * brightness(0.1)


def test_high_cut_above_nyquist_is_clamped():
    responses = [
        reverb.impulse_response(room_of(cut, 0.5, 0.9, 0.5), 4000, RATE) for cut in (4000, 20000)
    ]
    np.testing.assert_array_equal(*responses)


@given(delay=st.floats(0.0, 0.6))
def test_wet_layer_starts_after_the_pre_delay(delay):
    response = reverb.impulse_response(room_of(18000, 0.5, 0.9, 0.5), RATE, RATE)
    signal = np.random.default_rng(0).standard_normal(RATE // 2)
    wet = reverb.wet(signal, response, delay, RATE)
    silent = min(round(delay * RATE) + round(RATE * 121 / 29761), len(wet))
    assert len(wet) == len(signal)
    assert not silent or np.abs(wet[:silent]).max() < 1e-9


@pytest.mark.parametrize("name", sorted(sources.scene_classes()))
def test_rooms_are_drawn_from_their_ranges(name):
    ranges = sources.scene_classes()[name].room
    for index in range(200 if ranges else 0):
        drawn = reverb.draw_room(ranges, generator(name, index))
        low, high = ranges["pre_delay"]
        slack = 1e-5
        assert low - slack <= drawn["preDelayForEvent"] <= high + slack
        offset = drawn["preDelay1"] - low
        assert 0.7 * offset - slack <= drawn["preDelay2"] - low <= offset + slack
        pairs = {"highCut": "high_cut", "freqDamp": "freq_damp"}
        for column in ("highCut", "diffusion", "decay", "freqDamp"):
            low, high = ranges[pairs.get(column, column)]
            assert low <= drawn[column] <= high
