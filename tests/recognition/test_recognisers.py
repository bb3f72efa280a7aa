"""Recognisers of all tools behind one interface: real tools, random weights."""

import shutil
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.signal import resample_poly

from custom_modules.errors import InputError
from custom_modules.recognition.recognisers import load_recogniser, parse_spec
from tests.recognition import tiny_models

KINDS = ("ctc", "seq2seq", "whisper", "speechbrain")


@pytest.fixture(scope="module")
def recognisers(specs):
    return {kind: load_recogniser(spec) for kind, spec in specs.items()}


def noise(samples, seed=0, level=0.1):
    return (level * np.random.default_rng(seed).standard_normal(samples)).astype("float32")


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_for_each_signal_of_any_length_and_silence_unasked(recognisers, kind, monkeypatch):
    recogniser = recognisers[kind]
    heard = [noise(16000), noise(9000, 1), noise(1, 2)]
    asked = []
    texts_of = recogniser._texts
    monkeypatch.setattr(recogniser, "_texts", lambda x: asked.extend(x) or texts_of(x))
    silent = [np.zeros(8000), np.zeros(0), np.full(9, np.nan), noise(8000, level=1e-6), []]
    texts = recogniser.transcribe([*silent[:2], *heard, *silent[2:]], 16000)
    assert [bool(text) for text in texts] == [False] * 2 + [True] * 3 + [False] * 3
    assert len(asked) == 3
    alone = [recogniser.transcribe([signal], 16000)[0] for signal in heard]
    assert texts[2:5] == alone
    assert recogniser.transcribe([], 16000) == []


@pytest.mark.parametrize("kind", ["ctc", "speechbrain"])
def test_another_rate_is_resampled(recognisers, kind):
    signal = noise(4000)
    faster = resample_poly(signal, 2, 1).astype("float32")
    (at_8,), (at_16,) = (
        recognisers[kind].transcribe([x], r) for x, r in ((signal, 8000), (faster, 16000))
    )
    assert at_8 == at_16 != recognisers[kind].transcribe([signal], 16000)[0]


@pytest.mark.parametrize("kind", KINDS)
def test_batches_say_the_same(specs, recognisers, kind):
    signals = [noise(8000, seed) for seed in range(3)] + [noise(7000, 4)]
    together = load_recogniser(f"{specs[kind]},batch_size=3")
    assert together.transcribe(signals, 16000) == recognisers[kind].transcribe(signals, 16000)


def test_what_whisper_says_again_and_again_is_heard_once_more(tmp_path):
    """By the tool's own rule against it, where its own measure says that a text repeats."""
    folder = tiny_models.faster_whisper(tmp_path / "whisper", says="tak" * 20)
    recogniser, signal = load_recogniser(f"whisper:{folder},beam_size=1"), noise(16000)

    def segments(**options):
        options |= recogniser.decoding
        return [*recogniser.model.transcribe(signal, **options)[0]]

    def joined(segments):
        return " ".join(segment.text.strip() for segment in segments)

    assert max(segment.compression_ratio for segment in segments()) > 2.4
    (text,) = recogniser.transcribe([signal], 16000)
    assert text == joined(segments(no_repeat_ngram_size=3)) != joined(segments())


@pytest.mark.parametrize("kind", ["ctc", "whisper"])
def test_words_have_their_times(recognisers, kind):
    recogniser, signal = recognisers[kind], noise(24000)
    (words,), (text,) = (
        f([signal], 16000) for f in (recogniser.transcribe_words, recogniser.transcribe)
    )
    assert words
    times = [t for word in words for t in (word.start, word.end)]
    assert times == sorted(times) and times[0] >= 0 and times[-1] <= 1.5
    if kind == "ctc":
        assert " ".join(word.text for word in words) == text


def test_where_there_are_no_times_it_is_said(recognisers):
    with pytest.raises(InputError, match="gives no times of words"):
        recognisers["speechbrain"].transcribe_words([noise(8000)], 16000)


def test_ctc_is_greedy_and_collapsed_as_by_hand(specs, recognisers):
    """By transformers' own logits and a plain loop over frames."""
    from transformers import Wav2Vec2ForCTC, Wav2Vec2Processor

    folder = specs["ctc"].partition(":")[2]
    model, processor = (x.from_pretrained(folder) for x in (Wav2Vec2ForCTC, Wav2Vec2Processor))
    signal = noise(16000)
    with torch.no_grad():
        values = torch.from_numpy((signal - signal.mean()) / np.sqrt(signal.var() + 1e-7))
        best = model.eval()(values[None]).logits[0].argmax(-1).tolist()
    tokens = processor.tokenizer.convert_ids_to_tokens(best)
    text, before = "", None
    for token in tokens:
        if token in ("<s>", "</s>", "<unk>"):  # which no trained model says
            continue
        if token not in (before, "<pad>"):
            text += " " if token == "|" else token
        before = token
    assert recognisers["ctc"].transcribe([signal], 16000) == [text.strip()]


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_asks_no_hub(specs, kind, monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError(f"it asked the network: {arguments}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    load_recogniser(specs[kind]).transcribe([noise(8000)], 16000)


@pytest.mark.parametrize("kind", KINDS)
def test_key_knows_files_and_options_but_not_where_they_are(specs, recognisers, kind, tmp_path):
    tool, _, rest = specs[kind].partition(":")
    folder, *options = rest.split(",")
    copy = shutil.copytree(folder, tmp_path / Path(folder).name)
    there, here = recognisers[kind], load_recogniser(",".join([f"{tool}:{copy}", *options]))
    assert (here.name, here.version, here.options) == (there.name, there.version, there.options)
    assert str(tmp_path) not in f"{here.name}{here.version}{here.options}"
    (copy / "more.txt").write_text("x")
    assert load_recogniser(f"{tool}:{copy}").version != there.version


def test_a_hub_is_asked_only_for_what_may_be_on_it_and_this_is_said(caplog, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for spec in ("transformers:owner/name", "transformers:hf:owner/name", "whisper:base"):
        with pytest.raises(InputError, match=r"cannot be loaded .* name a local folder"):
            load_recogniser(spec)
        assert f"{spec}: is no folder here; its tool downloads it" in caplog.text


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "is none of whisper:FOLDER-OR-SIZE, transformers:FOLDER-OR-ID"),
        ("base", "is none of"),
        ("whisper:", "is none of"),
        ("kaldi:x", "is none of"),
        ("mini:nowhere", "no such folder; a recogniser is FOLDER"),
        ("whisper:nowhere/at/all", "no such folder"),
        ("transformers:custom_modules/x", "no such folder"),
        ("transformers:README.md", "no such folder"),
        ("whisper:tests", "holds no model.bin"),
        ("transformers:tests", "holds no config.json"),
        ("mini:tests", "holds no recogniser.json"),
        ("speechbrain:tests", "holds no hyperparams.yaml"),
        ("whisper:base,precision=int9", "choose one of fp32"),
        ("whisper:base,precision=fp16", "fp16 needs a GPU"),
        ("transformers:a/b,precision=int8", "int8 is for whisper: alone"),
        ("whisper:base,beam_size=0", "must be a whole number from 1"),
        ("whisper:base,batch_size=x", "must be a whole number from 1"),
        ("whisper:base,size=3", "no option size"),
        ("whisper:base,beam_size=1,int8", "'int8' is no option"),
        ("mini:~nobodyhere/x", "no such folder"),
    ],
)
def test_a_wrong_spec_is_one_line(spec, message):
    with pytest.raises(InputError, match=message) as caught:
        load_recogniser(spec)
    assert "\n" not in str(caught.value)


def test_a_comma_in_a_folder_s_name(tmp_path):
    folder = tmp_path / "a,b, c"
    folder.mkdir()
    for name in ("recogniser.json", "recogniser.ckpt"):
        (folder / name).touch()
    assert parse_spec(f"mini:{folder},batch_size=2")[1].folder == folder


@pytest.mark.parametrize("module", ["faster_whisper", "transformers"])
def test_a_package_that_is_not_installed_is_one_line(specs, module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    spec = specs["whisper" if module == "faster_whisper" else "ctc"]
    name = module.replace("_", "-")
    with pytest.raises(InputError, match=f"{name} is not installed; run `pip install {name}`"):
        load_recogniser(spec)


@pytest.mark.parametrize(
    ("kind", "file"),
    [
        ("ctc", "model.safetensors"),
        ("ctc", "config.json"),
        ("whisper", "model.bin"),
        ("whisper", "tokenizer.json"),
        ("speechbrain", "layer.ckpt"),
        ("speechbrain", "hyperparams.yaml"),
    ],
)
def test_damaged_files_are_one_line(specs, kind, file, tmp_path):
    tool, _, folder = specs[kind].split(",")[0].partition(":")
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / file).write_bytes((copy / file).read_bytes()[:40])
    with pytest.raises(InputError) as caught:
        load_recogniser(f"{tool}:{copy}")
    assert "\n" not in str(caught.value)


def test_weights_of_another_size_are_refused(specs, tmp_path):
    """SpeechBrain itself would only log it."""
    copy = shutil.copytree(specs["speechbrain"].partition(":")[2], tmp_path / "copy")
    torch.save({"other": torch.zeros(3)}, copy / "layer.ckpt")
    with pytest.raises(InputError, match="do not belong together"):
        load_recogniser(f"speechbrain:{copy}")


def test_a_gpu_s_arithmetic_is_refused_where_there_is_none_and_not_before():
    assert parse_spec("whisper:base,precision=fp16")[2].precision == "fp16"
    assert parse_spec("whisper:base,precision=fp16", "cuda:0")[2].device == "cuda:0"
