"""Separating from a pipe into another."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from custom_modules.errors import InputError
from custom_modules.inference import PolSESSSeparation
from custom_modules.onnx.graphs import write_graph
from custom_modules.onnx.runtimes import GRAPHS
from custom_modules.recordings.jobs import Recording
from custom_modules.recordings.pipes import PipeFormat, separate_pipe
from custom_modules.recordings.streams import separate_recording
from tests.longform.conversations import converse
from tests.onnx.bands import RATE, Bands

ROOT = Path(__file__).parents[2]
RAW = PipeFormat(RATE)
SUBTYPES = {"s16le": "PCM_16", "s32le": "PCM_32", "f32le": "FLOAT"}


def talk(seconds=12):
    mixture = 0.5 * converse(5, seconds).sum(1).numpy()
    return mixture + np.random.default_rng(0).normal(0, 1e-3, len(mixture)).astype("float32")


@pytest.fixture(scope="module")
def model():
    return PolSESSSeparation(
        {"separator": Bands()}, {"sample_rate": RATE, "num_spks": 2}, run_opts={"device": "cpu"}
    )


def separate(model, given, raw=RAW):
    sink = io.BytesIO()
    separate_pipe(model, io.BytesIO(given), sink, raw, 1.0, 0.5, 8.0)
    return sink.getvalue()


def of_file(model, path):
    """What separating the file gives, ``[time, sources]``."""
    recording = Recording(path, path.with_suffix(""))
    outputs = recording.outputs(2)
    separate_recording(model, path, outputs)
    return np.stack([sf.read(output)[0] for output in outputs], axis=1)


@pytest.mark.parametrize("form", SUBTYPES)
@pytest.mark.parametrize("rate", [RATE, 16_000])
def test_a_wav_stream_is_separated_like_the_file(model, tmp_path, form, rate):
    path = tmp_path / "talk.wav"
    stereo = np.repeat(np.repeat(talk(), rate // RATE)[:, None], 2, axis=1)
    sf.write(path, stereo, rate, SUBTYPES[form])
    out = tmp_path / "out.wav"
    out.write_bytes(separate(model, path.read_bytes()))
    found, found_rate = sf.read(out)
    assert (found_rate, sf.info(out).subtype) == (rate, SUBTYPES[form])
    expected = of_file(model, path)
    assert abs(len(found) - len(expected)) <= 2
    for channel in (0, 1):
        pair = found[: len(expected), channel], expected[: len(found), channel]
        assert np.corrcoef(*pair)[0, 1] > 0.999


@pytest.mark.parametrize("form, dtype", [("s16le", "<i2"), ("s32le", "<i4"), ("f32le", "<f4")])
def test_raw_samples_come_out_as_they_came_in(model, form, dtype):
    scale = np.iinfo(dtype).max if form[0] == "s" else 1
    samples = (talk(4) * scale).astype(dtype)
    found = np.frombuffer(separate(model, samples.tobytes(), PipeFormat(RATE, form)), dtype)
    assert len(found) == 2 * len(samples)
    total = found.reshape(-1, 2).sum(1, dtype="float64") / scale
    assert np.corrcoef(total, samples)[0, 1] > 0.999


def test_bytes_that_make_no_sample_are_left_out(model):
    given = (talk(2) * 32767).astype("<i2").tobytes()
    assert separate(model, given + b"\1") == separate(model, given)
    assert separate(model, b"") == b""


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda wav: wav[:30], "cut off|damaged"),
        (lambda wav: wav[:20] + b"\7\0" + wav[22:], "format 7, 16 bits"),
        (lambda wav: wav[:24] + bytes(4) + wav[28:], "at 0 Hz"),
        (lambda wav: wav[:22] + bytes(2) + wav[24:], "0 channels"),
        (lambda wav: b"fLaC" + wav, "takes wav or raw samples"),
        (lambda wav: b"OggS" + wav, "takes wav or raw samples"),
    ],
)
def test_a_bad_header_is_one_line(model, change, reason):
    wav = PipeFormat(RATE, is_wav=True).header + bytes(100)
    with pytest.raises(InputError, match=reason):
        separate(model, change(wav))


def test_a_value_that_is_no_number_is_refused(model):
    samples = np.full(9000, np.nan, "<f4")
    with pytest.raises(InputError, match="standard input: a value that is no number"):
        separate(model, samples.tobytes(), PipeFormat(RATE, "f32le"))


def command(*options, given=b""):
    line = [sys.executable, "recipes/separation/separate.py", *map(str, options)]
    return subprocess.run(line, input=given, capture_output=True, cwd=ROOT)


def test_the_command_states_its_latency_and_writes_nothing_but_samples(tmp_path):
    pytest.importorskip("onnxruntime")
    facts = {"model_name": "bands", "sample_rate": RATE, "num_spks": 2}
    write_graph(Bands(), tmp_path / GRAPHS["onnx"], facts, "Bands")
    samples = (talk(4) * 32767).astype("<i2")
    options = ("--stream", "--chunk_seconds=0.5", "--look_ahead_seconds=0.25", "--rate=8000")
    done = command(tmp_path, "--runtime=onnx", *options, given=samples.tobytes())
    assert done.returncode == 0, done.stderr.decode()
    assert b"latency 0.75 s (chunk 0.5 s, look-ahead 0.25 s)" in done.stderr
    assert len(done.stdout) == 2 * samples.nbytes


@pytest.mark.parametrize("size", [None, 0, 0x7FFFFFFF])
def test_what_follows_the_samples_is_none(model, tmp_path, size):
    """A chunk of comments; where the length is not known, all is samples."""
    path = tmp_path / "talk.wav"
    sf.write(path, talk(3), RATE, "PCM_16")
    given = path.read_bytes()
    expected = separate(model, given)
    place = given.index(b"data") + 4
    if size is not None:
        given = given[:place] + size.to_bytes(4, "little") + given[place + 4 :]
        assert separate(model, given) == expected
    else:
        assert (
            separate(model, given + b"LIST" + (400).to_bytes(4, "little") + bytes(400)) == expected
        )


def test_a_few_samples_come_out_and_rf64_is_wav(model):
    assert len(separate(model, bytes(8))) == 2 * 8
    wav = PipeFormat(RATE, is_wav=True).header + bytes(100)
    assert separate(model, b"RF64" + wav[4:]) == separate(model, wav)


def test_a_full_disk_is_one_line(model):
    refused = pytest.raises(InputError, match="standard output: cannot be written")
    with open("/dev/full", "wb", buffering=0) as sink, refused:
        separate_pipe(model, io.BytesIO(bytes(9000)), sink, RAW, 1.0, 0.5, 8.0)
