"""Recordings of every kind, through a model that returns known signals."""

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch

from custom_modules.errors import InputError
from custom_modules.inference import PolSESSSeparation
from custom_modules.recordings.jobs import Recording, find_recordings, outputs_of
from custom_modules.recordings.streams import separate_recording
from custom_modules.recordings.work import Separation, load_model
from tests.recordings.halves import scaled, speechlike


def separate(model, path, **options):
    recording = Recording(path, path.parent / "out" / path.stem)
    outputs = outputs_of(recording, 2, options.get("channels", "mix"))
    notes = separate_recording(model, path, outputs, **options)
    return [sf.read(p, always_2d=True)[0][:, 0] for p in outputs], outputs, notes


@pytest.mark.parametrize(
    ("suffix", "subtype", "written", "tolerance"),
    [
        ("wav", "PCM_U8", "PCM_U8", 2e-2),
        ("wav", "PCM_24", "PCM_24", 1e-3),
        ("wav", "FLOAT", "FLOAT", 1e-3),
        ("flac", "PCM_16", "PCM_16", 1e-3),
        ("ogg", "VORBIS", "PCM_16", 2e-2),
        ("mp3", "MPEG_LAYER_III", "PCM_16", 2e-2),
    ],
)
@pytest.mark.parametrize("rate", [8000, 44100])
def test_length_rate_and_subtype_stay(model, tmp_path, suffix, subtype, written, tolerance, rate):
    path = tmp_path / f"a.{suffix}"
    sf.write(path, speechlike(3.21, rate), rate, subtype=subtype)
    signal, _ = sf.read(path)
    (first, second), outputs, notes = separate(model, path, normalize="none")
    assert [p.name for p in outputs] == ["a_s1.wav", "a_s2.wav"]
    info = sf.info(outputs[1])
    assert (info.samplerate, info.subtype) == (rate, written)
    np.testing.assert_allclose(first, signal, atol=tolerance)
    np.testing.assert_allclose(second, -signal / 2, atol=tolerance)
    assert notes == []
    assert sorted(os.listdir(tmp_path / "out")) == ["a_s1.wav", "a_s2.wav"]


@pytest.mark.parametrize(
    ("channels", "row"), [("mix", None), ("left", 0), ("right", 1), ("each", slice(None))]
)
def test_channels(model, tmp_path, channels, row):
    path = tmp_path / "zażółć gęślą.wav"
    signal = speechlike(1, 8000, channels=2)
    sf.write(path, signal, 8000, subtype="FLOAT")
    found, outputs, _ = separate(model, path, channels=channels, normalize="none")
    wanted = signal.mean(1, keepdims=True) if row is None else signal[:, row]
    wanted = wanted.reshape(len(signal), -1).T
    expected = [w * gain for w in wanted for gain in (1, -0.5)]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    names = [p.name for p in outputs]
    assert names == (
        [f"{path.stem}_ch{c}_s{s}.wav" for c in (1, 2) for s in (1, 2)]
        if channels == "each"
        else [f"{path.stem}_s1.wav", f"{path.stem}_s2.wav"]
    )


def test_levels(model, tmp_path):
    path = tmp_path / "a.wav"
    signal = speechlike(5, 8000)[:, 0]
    sf.write(path, signal, 8000)
    by_mixture, _, _ = separate(model, path)
    np.testing.assert_allclose(sum(by_mixture), signal, atol=1e-3)
    by_peak, outputs, _ = separate(model, path, normalize="peak")
    assert [round(np.abs(x).max(), 3) for x in by_peak] == [1, 1]
    assert sf.info(outputs[0]).subtype == "PCM_16"


def test_what_is_beyond_full_scale_is_reported(model, tmp_path):
    path = tmp_path / "a.wav"
    sf.write(path, speechlike(1, 8000, peak=0.9), 8000)
    _, _, notes = separate(scaled(model, 2.0), path, normalize="none")
    assert notes[0].endswith("--normalize peak avoids it")


def test_one_sample_and_silence(model, tmp_path):
    for name, signal in (("one", [0.5]), ("silence", np.zeros(40_000))):
        path = tmp_path / f"{name}.wav"
        sf.write(path, signal, 16_000)
        found, _, _ = separate(model, path)
        assert [len(x) for x in found] == [len(signal)] * 2
        assert np.isfinite(found).all()
    assert not np.any(found)


def with_nan(path):
    sf.write(path, np.r_[np.zeros(9000), np.nan, 0], 8000, subtype="FLOAT")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (with_nan, "a value that is no number at 1.125 s"),
        (lambda path: sf.write(path, np.zeros(0), 8000), "holds no samples"),
        (lambda path: path.write_text("not audio"), "cannot be read (Format not rec"),
        (lambda path: path.write_bytes(b""), "cannot be read"),
    ],
)
def test_bad_files_leave_nothing_and_stop_nothing(model, tmp_path, capsys, write, message):
    write(tmp_path / "a.wav")
    sf.write(tmp_path / "b.wav", speechlike(0.1, 8000), 8000)
    recordings, _ = find_recordings([str(tmp_path)], tmp_path / "out")
    assert Separation(model, show_progress=False).separate_all(recordings) == 1
    assert sorted(os.listdir(tmp_path / "out")) == ["b_s1.wav", "b_s2.wav"]
    printed = capsys.readouterr()
    assert "1 separated, 0 finished before, 1 failed" in printed.out
    assert printed.err.startswith(f"failed: {tmp_path}/a.wav: {message}")
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize(
    ("precision", "remedy"),
    [("fp32", "the weights of tiny may be"), ("bf16", "use --precision fp32")],
)
def test_what_the_model_spoils_is_a_failure_of_its_own(tmp_path, capsys, precision, remedy):
    class Overflow(torch.nn.Module):
        def forward(self, mixture):
            return torch.stack([mixture, mixture / 0], dim=2)

    model = PolSESSSeparation(
        {"separator": Overflow()},
        {"sample_rate": 8000, "num_spks": 2, "model_name": "tiny"},
        run_opts={"device": "cpu", "precision": precision},
    )
    sf.write(tmp_path / "a.wav", speechlike(1, 8000), 8000)
    recordings, _ = find_recordings([str(tmp_path)], tmp_path / "out")
    assert Separation(model, show_progress=False).separate_all(recordings) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"failed: {tmp_path}/a.wav: the model returns a value")
    assert remedy in told
    assert not (tmp_path / "out").exists()


def test_a_fault_of_the_model_keeps_its_traceback(tmp_path):
    class Faulty(torch.nn.Module):
        def forward(self, mixture):
            return mixture / (1 // len(mixture[:0]))

    model = PolSESSSeparation(
        {"separator": Faulty()}, {"sample_rate": 8000, "num_spks": 1}, run_opts={"device": "cpu"}
    )
    sf.write(tmp_path / "a.wav", speechlike(1, 8000), 8000)
    recordings, _ = find_recordings([str(tmp_path)], tmp_path / "out")
    with pytest.raises(ZeroDivisionError):
        Separation(model, show_progress=False).separate_all(recordings)
    assert not (tmp_path / "out").exists()


FOLDER = """
sample_rate: 8000
num_spks: 1
separator: !new:torch.nn.Unflatten {dim: 1, unflattened_size: [-1, 1]}
modules: {separator: !ref <separator>}
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
"""


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        (FOLDER, None, None),
        (FOLDER.replace("num_spks", "n"), InputError, "yaml: has no num_spks"),
        (FOLDER + "a: [", InputError, "not valid YAML"),
        (FOLDER + "  loadables: {separator: !ref <separator>}", InputError, "cannot be read"),
        (FOLDER.replace("spks: 1", "spks: 2"), InputError, "and num_spks is 2"),
        (FOLDER.replace("Unflatten", "Unflat"), InputError, "no such class as torch.nn.Unflat"),
        (FOLDER.replace("8000", "!apply:operator.truediv [1, 0]"), Exception, "zero"),
    ],
)
def test_what_is_wrong_with_a_folder(tmp_path, text, kind, message):
    (tmp_path / "hyperparams.yaml").write_text(text)
    if kind is None:
        assert load_model(str(tmp_path), "cpu").hparams.num_spks == 1
        return
    with pytest.raises(kind, match=message) as caught:
        load_model(str(tmp_path), "cpu")
    assert isinstance(caught.value, InputError) == (kind is InputError)


def test_a_file_that_was_cut_short(model, tmp_path):
    path = tmp_path / "a.wav"
    sf.write(path, speechlike(1, 8000), 8000)
    path.write_bytes(path.read_bytes()[:9044])
    found, _, notes = separate(model, path)
    assert len(found[0]) == 4500
    assert notes == ["shorter than its header says; what there is was separated"]


def test_full_disk(model, tmp_path, capsys, monkeypatch):
    """libsndfile writes less than it was given, which soundfile asserts."""
    sf.write(tmp_path / "a.wav", speechlike(1, 8000), 8000)

    def write(self, data):
        raise AssertionError

    monkeypatch.setattr(sf.SoundFile, "write", write)
    recordings, _ = find_recordings([str(tmp_path)], tmp_path / "out")
    assert Separation(model, show_progress=False).separate_all(recordings) == 1
    assert "cannot be written (no space left on device)" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def stems(recordings):
    return [str(r.stem) for r in recordings]


def test_files_folders_and_patterns(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "in/b.WAV", "in/deep/c.mp3", "in/notes.txt", "a.flac", "d.oga")
    found, missing = find_recordings(["in", "*.flac", "a.flac", "d.oga"], "out")
    assert stems(found) == ["out/a", "out/b", "out/d", "out/deep/c"]
    assert missing == []


def test_inputs_that_are_not_there_do_not_stop_the_others(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "a.wav", "in/notes.txt")
    found, missing = find_recordings(["none.wav", "in", "a.wav", "*.mp3"], "out")
    assert stems(found) == ["out/a"]
    assert [line.split(":")[0] for line in missing] == ["none.wav", "in", "*.mp3"]


def test_names_that_would_collide(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "x/a.wav", "x/a.mp3", "x/a.wav.flac", "y/a.wav")
    expected = ["out/a.mp3", "out/a.wav", "out/a.wav.flac"]
    assert stems(find_recordings(["x"], "out")[0]) == expected
    with pytest.raises(InputError, match=r"x/a.wav and y/a.wav: both would be"):
        find_recordings(["x/a.wav", "y/a.wav"], "out")


@pytest.mark.parametrize("item", ["none.wav", "empty", "*.wav"])
def test_nothing_to_separate(tmp_path, monkeypatch, item):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    with pytest.raises(InputError, match=rf"^{item.replace('*', '.')}: no "):
        find_recordings([item], "out")


def test_outputs_are_never_taken_for_inputs(tmp_path):
    for name in ("a.wav", "out/a_s1.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found, _ = find_recordings([str(tmp_path)], tmp_path / "out")
    assert [r.path.name for r in found] == ["a.wav"]
    (tmp_path / "a_s1.wav").touch()
    with pytest.raises(InputError, match=r"would replace the recording .*a_s1\.wav"):
        find_recordings([str(tmp_path)], tmp_path)


def make_odd(folder):
    """Recordings and names of every kind that once ended a run; those that cannot be made."""
    sf.write(folder / "m$a_$b$.wav", speechlike(0.1, 8000), 8000)
    os.mkfifo(folder / "pipe.wav")
    (folder / "folder.wav").mkdir()
    (folder / "dangling.wav").symlink_to("nowhere")
    sf.write(folder / f"{'l' * 245}.wav", [0.5], 8000)
    absurd = bytearray((folder / "aa.wav").read_bytes())
    absurd[24:28] = (2_000_000_000).to_bytes(4, "little")
    (folder / "rate.wav").write_bytes(absurd)
    sf.write(folder / "piped.wav", [0.5], 8000)
    (folder / "out").mkdir()
    os.mkfifo(folder / "out" / "piped_s2.wav")
    sf.write(folder / "large.wav", [0.5], 8000)
    with open(folder / "out" / "large.png", "wb") as file:
        png(file, b"IHDR", struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0))
    return ["dangling", "large", "l" * 245, "pipe", "piped", "rate"]


def test_one_odd_recording_does_not_end_the_others(model, tmp_path, capsys):
    for name in ("aa", "zz"):
        sf.write(tmp_path / f"{name}.wav", speechlike(0.1, 8000), 8000)
    odd = make_odd(tmp_path)
    recordings, _ = find_recordings([str(tmp_path)], tmp_path / "out")
    separation = Separation(model, plot=True, show_progress=False)
    assert separation.separate_all(recordings) == len(odd)
    told = capsys.readouterr().err.splitlines()
    assert len(told) == len(odd)
    assert all(f"{tmp_path}/{name}" in line for name, line in zip(odd, told, strict=True))
    for name in ("aa", "zz", "m$a_$b$"):
        assert (tmp_path / "out" / f"{name}_s2.wav").exists()
        assert (tmp_path / "out" / f"{name}.png").exists()
    assert not [name for name in os.listdir(tmp_path / "out") if name.startswith(".")]


def png(file, kind, data):
    """A picture's beginning."""
    file.write(b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(data)) + kind + data)
    file.write(struct.pack(">I", zlib.crc32(kind + data)))
