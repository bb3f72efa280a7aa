"""Activity, voices, who speaks when, utterances: each part of the chain alone."""

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.fft import rfft

from custom_modules.audio import resample
from custom_modules.conversation.activity import DETECTORS, Silero
from custom_modules.conversation.chain import Chain
from custom_modules.conversation.clustering import cluster
from custom_modules.conversation.diarization import diarize
from custom_modules.conversation.identity import Ecapa, Resemblyzer, load_embedding
from custom_modules.conversation.noise import SteadyNoise
from custom_modules.conversation.overlaps import assign
from custom_modules.conversation.packaged import packaged_file
from custom_modules.conversation.passages import Span, intersect, merge
from custom_modules.conversation.samples import Samples
from custom_modules.conversation.transcripts import LONGEST, SHORTEST, find_utterances
from custom_modules.errors import InputError
from tests.conversation.talks import RATE, Twice, talk

#: A man reads for three seconds; and with as much babble (tests/data/README.md).
SPEECH = Path(__file__).parents[1] / "data" / "pesq_pair" / "speech.wav"
BABBLE = SPEECH.with_name("speech_bab_0dB.wav")


@pytest.fixture(scope="module")
def voice():
    return Resemblyzer()


def speech(rate=16000, path=SPEECH):
    """The speech between two seconds of silence."""
    signal, own = sf.read(path)
    signal = resample(signal, own, rate)
    return np.pad(signal, 2 * rate).astype("float32"), len(signal) / rate


def seconds(spans):
    return sum(end - start for start, end in spans)


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("rate", [8000, 44100])
def test_speech_is_found_whatever_the_blocks(name, rate):
    detector = DETECTORS[name]()
    signal, length = speech(rate)
    whole = detector([signal], rate)
    assert whole[0][0] > 1.9 and whole[-1][1] < 2.2 + length
    assert 0.6 * length < seconds(whole) < length
    parts = [signal[place : place + 4999] for place in range(0, len(signal), 4999)]
    np.testing.assert_allclose(detector(parts, rate), whole, atol=0.04)
    assert detector([np.zeros(rate, "float32")], rate) == []
    assert detector([], rate) == []


def test_silero_hears_speech_within_babble_and_none_in_noise():
    signal, _length = speech(path=BABBLE)
    silero = Silero()
    clean, noisy = silero([speech()[0]], 16000), silero([signal], 16000)
    assert seconds(intersect(clean, noisy)) > 0.7 * seconds(clean)
    noise = np.random.default_rng(0).normal(0, 0.1, 5 * 16000).astype("float32")
    assert silero([noise], 16000) == []


def test_silero_leaves_the_threads_of_torch_as_they_are():
    """Its package sets them to one for the whole process when it is imported."""
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        Silero()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_what_is_not_installed_is_one_line():
    with pytest.raises(InputError, match="nowhere is not installed; run `pip install nowhere`"):
        packaged_file("nowhere", "a", "pip install nowhere")


def test_a_missing_scikit_learn_is_told_before_a_recording_is_read(monkeypatch):
    for module in ("sklearn", "sklearn.cluster"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match="pip install scikit-learn"):
        Chain(Twice(), activity="energy").check()
    Chain(Twice(), activity="energy", num_speakers=1).check()
    Chain(Twice(), activity="energy").check(diarization_is_given=True)
    with pytest.raises(InputError, match="is not a SpeechBrain folder"):
        load_embedding("ecapa:nowhere")
    for name in ("ecapa", "resemblyzer:x", "x"):
        with pytest.raises(InputError, match="--embedding"):
            load_embedding(name)


def test_mel_spectra_are_those_of_their_definition(voice):
    """Slaney's filters over power spectra of centred frames of 25 ms, every 10 ms."""
    signal = np.random.default_rng(0).normal(0, 0.1, 4000).astype("float32")
    frames = voice._frames(torch.from_numpy(signal)).numpy()
    signal *= 10 ** (-30 / 20) / np.sqrt(np.mean(signal**2))
    padded = np.pad(signal, 200)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    power = [np.abs(rfft(padded[i : i + 400] * window)) ** 2 for i in range(0, 4001, 160)]
    edges = np.array([_hertz(m) for m in np.linspace(0, _mel(8000), 42)])
    bins = np.arange(201) * 40.0
    rise = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    fall = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    filters = np.maximum(0, np.minimum(rise, fall)) * (2 / (edges[2:] - edges[:-2]))[:, None]
    np.testing.assert_allclose(frames, np.array(power) @ filters.T, rtol=1e-3, atol=1e-6)


def _mel(hertz):
    """Linear below 1 kHz, 27 to a factor of 6.4 above."""
    return hertz * 3 / 200 if hertz < 1000 else 15 + 27 * np.log(hertz / 1000) / np.log(6.4)


def _hertz(mel):
    return mel * 200 / 3 if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27)


def test_a_voice_is_itself_at_any_level_and_rate_and_no_other(voice):
    signal, rate = sf.read(SPEECH, dtype="float32")
    half = len(signal) // 2
    first, second = voice(signal[:half], rate), voice(signal[half:], rate)
    higher = voice(resample(signal, 5, 4), rate)  # as if said a quarter faster
    assert first @ second > 0.1 + max(first @ higher, second @ higher)
    assert np.linalg.norm(first) == pytest.approx(1)
    assert first @ voice(0.01 * signal[:half], rate) > 0.99
    assert first @ voice(resample(signal[:half], rate, 44100), 44100) > 0.99
    for length in (1, 100):
        assert np.isfinite(voice(signal[:length], rate)).all()


ECAPA = """
pretrained_path: !PLACEHOLDER
compute_features: !new:speechbrain.lobes.features.Fbank
    n_mels: 20
mean_var_norm: !new:speechbrain.processing.features.InputNormalization
    norm_type: sentence
    std_norm: False
embedding_model: !new:speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN
    input_size: 20
    channels: [16, 16, 16, 16, 48]
    kernel_sizes: [5, 3, 3, 3, 1]
    dilations: [1, 2, 3, 4, 1]
    attention_channels: 8
    lin_neurons: 12
classifier: !new:speechbrain.lobes.models.ECAPA_TDNN.Classifier
    input_size: 12
    out_neurons: 3
modules:
    compute_features: !ref <compute_features>
    mean_var_norm: !ref <mean_var_norm>
    embedding_model: !ref <embedding_model>
    classifier: !ref <classifier>
label_encoder: !new:speechbrain.dataio.encoder.CategoricalEncoder
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        embedding_model: !ref <embedding_model>
    paths:
        embedding_model: !ref <pretrained_path>/embedding_model.ckpt
"""


def test_ecapa_is_loaded_from_a_folder_of_speechbrain(tmp_path):
    from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN

    sizes = {"channels": [16, 16, 16, 16, 48], "attention_channels": 8, "lin_neurons": 12}
    network = ECAPA_TDNN(20, **sizes)
    torch.save(network.state_dict(), tmp_path / "embedding_model.ckpt")
    (tmp_path / "hyperparams.yaml").write_text(ECAPA)
    ecapa = load_embedding(f"ecapa:{tmp_path}")
    assert isinstance(ecapa, Ecapa)
    for own, loaded in zip(
        network.parameters(), ecapa.model.mods.embedding_model.parameters(), strict=True
    ):
        assert torch.equal(own, loaded)
    vector = ecapa(speech(8000)[0], 8000)
    assert vector.shape == (12,) and np.linalg.norm(vector) == pytest.approx(1)


def test_voices_are_clustered_by_number_or_by_distance():
    rng = np.random.default_rng(0)
    truth = np.array([0, 0, 1, 2, 1, 0, 2, 2, 1, 0])
    vectors = np.eye(8)[truth] + rng.normal(0, 0.05, (10, 8))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    long = np.full(10, 5.0)
    assert cluster(vectors, long, None, 0.5).tolist() == truth.tolist()
    assert cluster(vectors, long, 3, 0.0).tolist() == truth.tolist()
    assert len(set(cluster(vectors, long, 2, 0.0))) == 2
    assert set(cluster(vectors, long, 1, 0.0)) == {0}
    # Who says next to nothing is nobody, unless a number was asked for.
    brief = np.where(truth == 2, 0.01, 100.0)
    assert set(cluster(vectors, brief, None, 0.5)) == {0, 1}
    assert cluster(vectors, brief, 3, 0.5).tolist() == truth.tolist()


@pytest.mark.parametrize("number", [None, 3])
def test_an_outlier_takes_no_voice(number):
    """A cough is no talker, and does not make two talkers one."""
    rng = np.random.default_rng(1)
    truth = rng.permutation(np.repeat([0, 1, 2], 40))
    voices = rng.normal(size=(3, 64))
    cough = 5 * rng.normal(size=64)
    vectors = np.vstack([voices[truth] + rng.normal(0, 0.6, (120, 64)), cough])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = cluster(vectors, np.full(121, 0.8), number, 0.1)[:-1]
    _, names = np.unique(truth, return_index=True)
    names = {int(truth[first]): int(found[first]) for first in names}
    assert len(set(names.values())) == 3
    assert np.mean([names[int(t)] == f for t, f in zip(truth, found, strict=True)]) > 0.95


def test_steady_noise_is_less_and_speech_is_left(tmp_path):
    signal, _ = speech(RATE)
    noise = np.random.default_rng(0).normal(0, 0.02, len(signal)).astype("float32")
    recording = Samples.filled(tmp_path / "a", RATE, [signal + noise])
    heard = [(2.0, recording.seconds - 2.0)]
    quiet = SteadyNoise(recording, heard).less(recording.read())
    spoken = slice(2 * RATE, len(signal) - 2 * RATE)
    errors = [np.square((x - signal)[spoken]).sum() for x in (signal + noise, quiet)]
    assert errors[1] < errors[0] / 2
    assert np.square(quiet[:RATE]).sum() < np.square(noise[:RATE]).sum() / 15
    everywhere = SteadyNoise(recording, [(0.0, recording.seconds)])
    np.testing.assert_array_equal(everywhere.less(signal), signal)


def test_turns_of_two_voices_in_noise(tmp_path):
    """Whatever a separator does that has learnt nothing: its outputs make no overlap."""
    first, own = sf.read(SPEECH)
    turns = [resample(first, own, RATE), resample(resample(first, 5, 4), own, RATE)] * 3
    clean = np.concatenate([np.pad(turn, (0, RATE // 2)) for turn in turns])
    noise = np.random.default_rng(0).normal(0, 0.1 * clean.std(), len(clean))
    signal = (clean + noise).astype("float32")
    recording = Samples.filled(tmp_path / "a", RATE, [signal])
    outputs = [Samples.filled(tmp_path / name, RATE, [signal]) for name in "bc"]
    found = diarize(recording, outputs, Silero(), Resemblyzer(), 2)
    edges = np.cumsum([0, *(len(turn) / RATE + 0.5 for turn in turns)])
    for place, (start, end) in enumerate(itertools.pairwise(edges)):
        inside = {
            name: seconds(intersect([(p.start, p.end) for p in found if p.speaker == name],
                                    [(start, end)]))
            for name in ("spk1", "spk2")
        }  # fmt: skip
        mine = f"spk{1 + place % 2}"
        assert inside[mine] > 0.8 * sum(inside.values()) > 0
    assert {p.speaker for p in found} == {"spk1", "spk2"}


def test_a_voice_that_is_torn_over_both_outputs_is_one(tmp_path):
    """A separator that returns the mixture twice makes no overlap."""
    signal, length = speech(RATE)
    recording = Samples.filled(tmp_path / "a", RATE, [signal])
    outputs = [Samples.filled(tmp_path / name, RATE, [signal / 2]) for name in "bc"]
    found = diarize(recording, outputs, Silero(), Resemblyzer())
    assert {p.speaker for p in found} == {"spk1"}
    assert merge((p.start, p.end) for p in found) == [(p.start, p.end) for p in found]
    assert 0.6 * length < sum(p.end - p.start for p in found) < length


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_outputs_follow_voices_where_there_is_no_context(voice, order):
    signal, rate = sf.read(SPEECH, dtype="float32")
    other = resample(signal, 5, 4).astype("float32")
    half = len(other) // 2
    known = [voice(signal[:half], rate), voice(other[:half], rate)]
    outputs = np.stack([signal[half : 2 * half], other[half:][:half]])[order]
    mixture = outputs.sum(0)
    found = assign(outputs, mixture, (0, half), [[], []], known, voice, rate)
    assert found.outputs == [order.index(0), order.index(1)]
    np.testing.assert_allclose(found.gains, 1, atol=1e-3)
    assert found.lead > 0.1


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0.01, 2.0), st.floats(0.05, 50.0)), min_size=1, max_size=8
    )  # pause, speech
)
def test_utterances_are_cut_at_pauses_and_hold_all_long_speech(rows):
    """Laws: none too long or too short, none overlaps another, no speech of 0.5 s is left out."""
    spans: list[Span] = []
    place = 0.0
    for pause, length in rows:
        spans.append((place + pause, place + pause + length))
        place += pause + length
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(0)
        noise = rng.normal(0, 0.1, round((place + 1) * 200)).astype("float32")
        track = Samples.filled(Path(folder, "a"), 200, [noise])
        found = find_utterances(track, [(0, place)], lambda blocks, rate: spans)
    assert all(SHORTEST <= end - start <= LONGEST + 1e-6 for start, end in found)
    assert all(a[1] <= b[0] + 1e-9 for a, b in itertools.pairwise(found))
    for start, end in merge(spans):
        if end - start >= SHORTEST + 0.001:
            assert seconds(intersect([(start, end)], found)) > end - start - 1.0
    assert all(intersect([span], spans) for span in found)


def test_the_whole_of_a_long_recording_is_separated_as_a_stream(tmp_path):
    from custom_modules.conversation.stretches import separate_whole

    tracks, _ = talk(seconds=10.5)
    recording = Samples.filled(tmp_path / "a", RATE, [tracks.sum(0)])
    outputs = [Samples(tmp_path / name, RATE, recording.length) for name in "bc"]
    separate_whole(recording, Twice(), outputs)
    for output in outputs:
        np.testing.assert_array_equal(output.read(), recording.read())
