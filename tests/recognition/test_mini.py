"""The small recogniser: what it spells, and what it makes of silence, levels and edges."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from custom_modules.errors import InputError
from custom_modules.recognition import mini
from custom_modules.recognition.mini import LogMel, MiniRecogniser, NearestWords, SpellingNet
from custom_modules.recognition.spelling_brain import bounded_ctc

RATE = 8000
SIZES = {"n_mels": 20, "hidden": 8, "blocks": 1, "dropout": 0.1}
FACTS = {"alphabet": mini.ALPHABET, "sample_rate": RATE, "sizes": SIZES, "lexicon": ["sto", "pięć"]}
words = st.text("aąb", max_size=6)


def voice(seconds=1.0, before=0.3, after=0.3, level=0.1, seed=0):
    noise = np.random.default_rng(seed).standard_normal(round(seconds * RATE))
    silence = [np.zeros(round(x * RATE)) for x in (before, after)]
    return np.concatenate([silence[0], level * noise, silence[1]]).astype("float32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mini")
    torch.manual_seed(3)
    mini.write_recogniser(folder, SpellingNet(**SIZES), FACTS)
    return folder


def plain_distance(a, b):
    """By its recursive definition."""
    if not a or not b:
        return len(a) + len(b)
    if a[0] == b[0]:
        return plain_distance(a[1:], b[1:])
    return 1 + min(plain_distance(*x) for x in ((a[1:], b), (a, b[1:]), (a[1:], b[1:])))


@given(words, words)
def test_distance_is_levenshtein_s(a, b):
    assert mini.distance(a, b) == plain_distance(a, b) == mini.distance(b, a)


@given(st.text(max_size=30))
def test_what_is_spelt_comes_back(text):
    letters = mini.letters_of(text)
    assert mini.spelt(mini.codes_of(text)) == letters == mini.letters_of(letters)
    assert set(letters) <= set(mini.ALPHABET)
    assert mini.BLANK not in mini.codes_of(text)


def test_words_become_the_nearest_and_none_is_added():
    nearest = NearestWords(["okien", "hanna", "sto"])
    assert nearest("tona okienów  so") == "hanna okien sto"
    assert nearest("") == ""


def test_silence_has_no_text(folder):
    signals = [np.zeros(RATE), np.zeros(0), 1e-5 * voice(level=1.0), np.full(RATE, np.nan)]
    assert MiniRecogniser(folder).transcribe(signals, RATE) == [""] * 4


@pytest.mark.parametrize("length", [1, 7, 79, 200, 1000])
def test_any_length_has_a_text(folder, length):
    (text,) = MiniRecogniser(folder).transcribe([0.1 * np.ones(length)], RATE)
    assert isinstance(text, str)


def test_level_and_silence_around_do_not_matter(folder):
    model = MiniRecogniser(folder, nearest=False)
    texts = [
        model.transcribe([x], RATE)[0]
        for x in (voice(), voice(level=5.0), voice(level=0.002), voice(before=0.6, after=1.0))
    ]
    assert len(set(texts)) == 1
    assert texts[0]


def test_none_depends_on_the_others_or_on_a_rate_of_its_own(folder):
    model = MiniRecogniser(folder, nearest=False)
    signals = [voice(seed=n, seconds=1 + n / 2) for n in range(3)]
    together = model.transcribe(signals, RATE)
    assert together == [model.transcribe([signal], RATE)[0] for signal in signals]
    assert set(" ".join(MiniRecogniser(folder).transcribe(signals, 16000)).split()) <= {
        "sto",
        "pięć",
    }


def test_other_precisions_are_taken(folder):
    assert isinstance(MiniRecogniser(folder, "cpu", "bf16").transcribe([voice()], RATE)[0], str)


@given(st.floats(0.0, 0.8), st.floats(0.0, 0.8))
def test_the_span_holds_what_is_heard(before, after):
    signal = voice(0.5, before, after)
    start, end = mini.heard_span(signal, RATE)
    assert not signal[:start].any() and not signal[end:].any()
    nonzero = np.flatnonzero(signal)
    assert start >= nonzero[0] - round((mini.MARGIN + 0.02) * RATE)
    assert end <= nonzero[-1] + 1 + round((mini.MARGIN + 0.02) * RATE)
    assert mini.heard_span(np.zeros(50), RATE) == (0, 50)


def test_features_are_relative_to_the_loudest_and_end_40_db_below():
    features = LogMel(RATE)
    signal = torch.from_numpy(voice())[None]
    tone = torch.sin(2 * torch.pi * 440 * torch.arange(RATE) / RATE)[None]
    faint = torch.cat([tone, 10 ** (-20 / 20) * tone, 1e-3 * tone], 1)
    torch.testing.assert_close(features(signal), features(30 * signal), atol=1e-4, rtol=0)
    levels = features(faint)[0].amax(1)
    assert levels[50].item() == pytest.approx(1, abs=0.02)
    assert levels[150].item() == pytest.approx(0.5, abs=0.02)  # 20 of 40 dB
    assert levels[250].item() == 0


def all_spellings(log_probs, codes):
    """The probability of a text: over every path of classes that collapses to it."""
    total, frames, classes = 0.0, *log_probs.shape
    for number in range(classes**frames):
        path = [number // classes**k % classes for k in range(frames)]
        merged = [c for n, c in enumerate(path) if n == 0 or c != path[n - 1]]
        if [c for c in merged if c != mini.BLANK] == codes:
            total += float(torch.stack([log_probs[t, c] for t, c in enumerate(path)]).sum().exp())
    return total


def test_letters_are_sought_inside_of_the_voice_alone():
    """Five frames, of which the second to the fourth are the voice's."""
    log_probs = torch.randn(1, 5, 3).log_softmax(2).requires_grad_()
    codes = [1, 2]
    arguments = [torch.ones(1), torch.tensor([[0.2, 0.8]]), torch.tensor([codes]), torch.ones(1)]
    spelling, silence = bounded_ctc(log_probs, *arguments)
    inside = all_spellings(log_probs[0, 1:4].detach(), codes)
    assert spelling.item() == pytest.approx(-np.log(inside) / len(codes), rel=1e-4)
    assert silence.item() == pytest.approx(-log_probs[0, [0, 4], 0].mean().item(), rel=1e-5)
    spelling.backward()
    assert not log_probs.grad[0, [0, 4]].any()
    assert log_probs.grad[0, 1:4].any()


def test_padding_is_neither_inside_nor_outside():
    log_probs = torch.randn(1, 6, 3).log_softmax(2)
    longer = torch.cat([log_probs, torch.randn(1, 6, 3).log_softmax(2)], 1)
    codes, whole = torch.tensor([[1]]), torch.ones(1)
    alone = bounded_ctc(log_probs, whole, torch.tensor([[0.0, 0.5]]), codes, whole)
    padded = bounded_ctc(longer, whole / 2, torch.tensor([[0.0, 0.25]]), codes, whole)
    torch.testing.assert_close(alone, padded)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "recogniser.json").unlink(), "has no recogniser.json; name a results"),
        (lambda f: (f / "recogniser.json").write_text("{half"), "is damaged"),
        (lambda f: (f / "recogniser.json").write_text("[1]"), "is damaged"),
        (lambda f: (f / "recogniser.ckpt").write_bytes(b"PK"), "no checkpoint that can be read"),
        (lambda f: (f / "recogniser.ckpt").unlink(), "cannot be read"),
        (lambda f: _rewrite(f, lexicon=[]), "knows no word"),
        (lambda f: _rewrite(f, alphabet="abc"), "other letters"),
        (lambda f: _rewrite(f, sizes=SIZES | {"hidden": 9}), "do not belong together"),
    ],
)
def test_damaged_folders_are_refused(tmp_path, change, message):
    mini.write_recogniser(tmp_path, SpellingNet(**SIZES), FACTS)
    change(tmp_path)
    with pytest.raises(InputError, match=message):
        MiniRecogniser(tmp_path)


def _rewrite(folder, **changes):
    (folder / "recogniser.json").write_text(json.dumps(FACTS | changes))
