"""Procedural scenes and events: finite, audible, different from each other."""

import numpy as np
import pytest

from custom_modules.corpus import events, scenes, sources, synth
from custom_modules.corpus.sources import Recording, Setup
from custom_modules.layout import SUBSETS


@pytest.mark.parametrize("rate", [8000, 16000])
@pytest.mark.parametrize("name", sorted(sources.scene_classes()))
def test_scene_is_steady_and_recordings_differ(name, rate):
    first, second = (
        scenes.render(Recording(f"procedural/{n}", name, 2 * rate), rate) for n in (0, 1)
    )
    assert np.isfinite(first).all()
    assert np.abs(first).max() == pytest.approx(0.5)
    # No stretch of a quarter of a second is silent.
    rms = np.sqrt(np.mean(first**2))
    assert np.abs(first.reshape(8, -1)).max(axis=1).min() > 0.05 * rms
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.6


def test_scenes_cover_every_class_in_every_subset(tmp_path):
    setup = Setup(tmp_path, 8000, 4.0, 1)
    split = scenes.ProceduralScenes(5).prepare(setup)
    paths = [r.path for subset in SUBSETS for r in split[subset]]
    assert len(paths) == len(set(paths)) == 5 * len(sources.scene_classes())
    for listed in split.values():
        assert {r.group for r in listed} == set(sources.scene_classes())


def test_scene_is_as_long_as_a_mixture_at_least(tmp_path):
    setup = Setup(tmp_path, 1000, 30.0, 1, subsets=("train",))
    source = scenes.ProceduralScenes(1, seconds=8.0)
    recording = source.prepare(setup)["train"][0]
    assert recording.samples == 30000
    assert source.read(recording, 100, 29900, 1000).shape == (29900,)


@pytest.mark.parametrize("rate", [8000, 16000])
@pytest.mark.parametrize("family", sorted(set(sources.event_families().values())))
def test_event_family_makes_a_sound_of_the_wanted_peak(family, rate, tmp_path):
    source = events.ProceduralEvents(3, quietest=0.1, loudest=0.2)
    setup = Setup(tmp_path, rate, 4.0, 1, subsets=("train",))
    listed = source.prepare(setup)["train"]
    families = sources.event_families()
    chosen = [r for r in listed if families[r.group] == family][:4]
    sounds = [source.read(r, 0, r.samples, rate) for r in chosen]
    for recording, sound in zip(chosen, sounds, strict=True):
        assert sound.shape == (recording.samples,)
        assert 0.0999 <= np.abs(sound).max() <= 0.2001
        assert sound[0] == sound[-1] == 0.0
        part = source.read(recording, 50, 100, rate)
        np.testing.assert_array_equal(part, sound[50:150])
    assert len({sound.tobytes() for sound in sounds}) == len(sounds)


def synthesiser(length):
    return synth.Synth(np.random.default_rng(0), length, 8000)


def test_noise_has_the_slope_it_was_asked_for():
    samples = synthesiser(1 << 17).noise(slope=-6.0)
    power = np.abs(np.fft.rfft(samples)) ** 2
    frequency = np.fft.rfftfreq(len(samples), 1 / 8000)

    def level(low):
        band = (frequency >= low) & (frequency < 1.1 * low)
        return 10 * np.log10(power[band].mean())

    assert level(2000) - level(500) == pytest.approx(-12, abs=1.0)


def test_noise_stays_between_its_edges():
    samples = synthesiser(1 << 15).noise(0, 1000, 2000)
    power = np.abs(np.fft.rfft(samples)) ** 2
    frequency = np.fft.rfftfreq(1 << 15, 1 / 8000)
    inside = power[(frequency > 1000) & (frequency < 2000)].mean()
    assert power[frequency < 100].mean() < 1e-2 * inside


def test_drift_stays_between_its_values():
    drift = synthesiser(800).wander(2.0, 0.5, 1.0)
    assert 0.5 <= drift.min() < drift.max() <= 1.0


def test_tone_leaves_out_partials_that_would_alias():
    rate, pitch = 8000, 1000.0
    samples = synthesiser(rate).tone(np.full(rate, pitch), 20)
    spectrum = np.abs(np.fft.rfft(samples))
    assert sorted(np.argsort(spectrum)[-3:]) == [1000, 2000, 3000]
    assert np.sort(spectrum)[-4] < 1e-6 * spectrum.max()


def test_resonance_peaks_at_its_frequency():
    click = np.eye(1, 8000)[0]
    spectrum = np.abs(np.fft.rfft(synth.resonate(click, 8000, 700.0, 50.0)))
    assert np.argmax(spectrum) == pytest.approx(700, abs=3)


def test_silence_stays_silence():
    assert not synth.unit(np.zeros(10)).any()
