"""STOI and ESTOI against pystoi itself."""

from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from pystoi import stoi as pystoi

from custom_modules.metrics import StoiReference, Uncomputable

PAIR = Path(__file__).parent / "data" / "pesq_pair"


def speech_like(time, seed):
    """Noise that comes and goes, with silence in it."""
    random = np.random.default_rng(seed)
    envelope = np.clip(np.sin(np.arange(time) / 700 + seed), 0, None)
    return random.standard_normal((2, time)) * [envelope, np.full(time, 0.3)]


@pytest.mark.parametrize("rate", [8000, 10000, 16000])
@pytest.mark.parametrize("time", [15000, 32000, 32123])
def test_both_agree_with_pystoi(rate, time):
    target, noise = speech_like(time, seed=time + rate)
    reference = StoiReference(target, rate)
    for signal in (target + noise, target, 100 * noise, 0.5 * target + noise):
        stoi, estoi = reference.score(signal)
        assert stoi == pytest.approx(pystoi(target, signal, rate), abs=1e-9)
        expected = pystoi(target, signal, rate, extended=True)
        assert estoi == pytest.approx(expected, abs=1e-9)


def test_the_known_pair():
    target, signal = (
        sf.read(PAIR / f"{name}.wav")[0] for name in ("speech", "speech_bab_0dB")
    )
    stoi, estoi = StoiReference(target, 16000).score(signal)
    assert stoi == pytest.approx(0.6739177895331301, abs=1e-6)
    assert estoi == pytest.approx(0.39044999, abs=1e-6)


@pytest.mark.parametrize("time", [1, 200, 250, 1000, 3000])
@pytest.mark.filterwarnings("ignore:Not enough STFT frames")
def test_too_little_speech_is_refused_where_pystoi_only_warns(time):
    target, noise = speech_like(time, seed=1)
    if time > 250:
        assert pystoi(target, target + noise, 8000) == 1e-5
    with pytest.raises(Uncomputable, match="30 frames"):
        StoiReference(target, 8000).score(target + noise)


@pytest.mark.filterwarnings("ignore:Not enough STFT frames")
def test_the_limit_is_pystoi_s():
    decisions = set()
    for time in range(3200, 3500, 20):
        target, signal = np.random.default_rng(time).standard_normal((2, time))
        refused_by_pystoi = pystoi(target, signal, 8000) == 1e-5
        try:
            StoiReference(target, 8000)
            decisions.add((refused_by_pystoi, False))
        except Uncomputable:
            decisions.add((refused_by_pystoi, True))
    assert decisions == {(True, True), (False, False)}
