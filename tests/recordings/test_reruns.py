"""What is done again, and what is left alone, where there are outputs already."""

import os

import pytest
import soundfile as sf
import torch
from PIL import Image

from custom_modules.recordings.jobs import find_recordings, finished_by, outputs_of
from custom_modules.recordings.work import Separation
from tests.recordings.halves import scaled, speechlike


def test_finished_is_what_is_whole_and_newer(model, tmp_path, capsys):
    path = tmp_path / "a.wav"
    sf.write(path, speechlike(0.1, 8000), 8000)
    (recording,), _ = find_recordings([str(path)], tmp_path / "out")
    Separation(model, show_progress=False).separate_all([recording])
    assert finished_by(recording, recording.outputs(2))
    assert finished_by(recording, outputs_of(recording, 2, "each")) is None
    Separation(model, show_progress=False).separate_all([recording])
    assert "0 separated, 1 finished before" in capsys.readouterr().out
    os.utime(path, (2e9, 2e9))
    assert finished_by(recording, recording.outputs(2)) is None
    os.utime(path, (0, 0))
    # Killed between the two, or while writing: the partial file is cleared away.
    recording.outputs(2)[1].rename(tmp_path / "out" / "a_s2.wav.1.partial")
    assert finished_by(recording, recording.outputs(2)) is None
    Separation(model, show_progress=False).separate_all([recording])
    assert sorted(os.listdir(tmp_path / "out")) == ["a_s1.wav", "a_s2.wav"]


@pytest.mark.parametrize("limit", [2**32, 0], ids=["wav", "rf64"])
def test_what_other_settings_have_finished_is_made_again(
    model, tmp_path, capsys, monkeypatch, limit
):
    monkeypatch.setattr("custom_modules.audio._WAV_LIMIT", limit)
    sf.write(tmp_path / "a.wav", speechlike(0.5, 8000, channels=2), 8000)
    recordings, _ = find_recordings([str(tmp_path / "a.wav")], tmp_path / "out")

    def run(model, **options):
        Separation(model, show_progress=False, **options).separate_all(recordings)
        return capsys.readouterr().out.splitlines()

    assert run(model)[-1].startswith("1 separated")
    again = f"{tmp_path}/a.wav: was made otherwise before; made again"
    for options in ({"channels": "left"}, {"normalize": "peak"}):
        assert run(model, **options)[-2:] == [again, "1 separated, 0 finished before, 0 failed"]
        assert run(model, **options) == ["0 separated, 1 finished before, 0 failed"]
    assert again in run(model)
    for gain in (1.0, 0.5):
        assert again in run(scaled(model, gain))
        assert run(scaled(model, gain))[-1].startswith("0 separated, 1 finished")
    # As after a crash of the machine: names without content.
    for output in recordings[0].outputs(2):
        output.write_bytes(b"")
    assert run(model)[-1].startswith("1 separated")


def edited(path):
    samples, rate = sf.read(path)
    sf.write(path, samples[:100], rate)


@pytest.mark.parametrize("age", [2e9, 0], ids=["newer", "older"])
@pytest.mark.parametrize(
    "change", [edited, lambda path: path.write_bytes(b"of a format unknown here")]
)
def test_what_was_not_made_here_is_replaced_only_if_asked(model, tmp_path, capsys, change, age):
    sf.write(tmp_path / "a.wav", speechlike(0.1, 8000), 8000)
    recordings, _ = find_recordings([str(tmp_path / "a.wav")], tmp_path / "out")
    Separation(model, show_progress=False).separate_all(recordings)
    outputs = recordings[0].outputs(2)
    change(outputs[1])
    os.utime(outputs[1], (age, age))
    before = [path.read_bytes() for path in outputs]
    assert Separation(model, show_progress=False).separate_all(recordings) == 1
    assert [path.read_bytes() for path in outputs] == before
    told = capsys.readouterr().err
    assert told.startswith(f"failed: {tmp_path}/a.wav: {outputs[1]} is there")
    assert "--overwrite" in told
    assert told.count("\n") == 1
    separation = Separation(model, overwrite=True, show_progress=False)
    assert separation.separate_all(recordings) == 0
    assert sf.info(outputs[1]).frames == 800


def test_only_pictures_that_were_drawn_here_are_replaced(model, tmp_path, capsys):
    sf.write(tmp_path / "a.wav", speechlike(0.1, 8000), 8000)
    recordings, _ = find_recordings([str(tmp_path / "a.wav")], tmp_path / "out")
    picture = tmp_path / "out" / "a.png"
    picture.parent.mkdir()
    Image.new("RGB", (2, 2)).save(picture)
    theirs = picture.read_bytes()

    def run(**options):
        separation = Separation(model, plot=True, show_progress=False, **options)
        return separation.separate_all(recordings), capsys.readouterr()

    failed, told = run()
    assert failed == 1 and "--overwrite" in told.err
    assert os.listdir(picture.parent) == ["a.png"]
    assert picture.read_bytes() == theirs
    assert run(overwrite=True)[0] == 0
    ours = picture.read_bytes()
    assert ours != theirs
    # It is drawn, too, where only the picture is missing.
    picture.unlink()
    assert run()[1].out == "0 separated, 1 finished before, 0 failed\n"
    assert picture.read_bytes() == ours
    os.utime(picture, (0, 0))
    assert run()[0] == 0
    assert picture.stat().st_mtime == 0
    # What was made otherwise meanwhile is another picture.
    Separation(model, normalize="peak", show_progress=False).separate_all(recordings)
    assert run(normalize="peak")[1].out.endswith("0 separated, 1 finished before, 0 failed\n")
    assert picture.stat().st_mtime > 0
    picture.write_text("no picture at all")
    assert run()[0] == 1


def test_sources_left_from_another_model_are_named(model, tmp_path, capsys):
    sf.write(tmp_path / "a.wav", speechlike(0.1, 8000), 8000)
    recordings, _ = find_recordings([str(tmp_path / "a.wav")], tmp_path / "out")
    Separation(model, show_progress=False).separate_all(recordings)
    model.hparams.num_spks = 1
    model.mods["separator"] = torch.nn.Unflatten(1, (-1, 1))
    capsys.readouterr()
    Separation(model, show_progress=False).separate_all(recordings)
    line, _ = capsys.readouterr().out.splitlines()
    assert line == (
        f"{tmp_path}/a.wav: was made otherwise before; made again; "
        f"{tmp_path}/out/a_s2.wav is left from a model with more sources"
    )


@pytest.mark.parametrize("channels", ["mix", "each"])
@pytest.mark.parametrize("pattern", [".", "*.wav", "**/*.wav"])
@pytest.mark.parametrize("folder", [".", "out"])
def test_a_rerun_with_outputs_among_the_inputs_does_nothing(
    model, tmp_path, monkeypatch, capsys, channels, pattern, folder
):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "a_ch1"):
        sf.write(f"{name}.wav", speechlike(0.1, 8000, channels=2), 8000)
    for ending in ("2 separated, 0", "0 separated, 2"):
        recordings, _ = find_recordings([pattern, "a.wav"], folder)
        assert [r.path.name for r in recordings] == ["a.wav", "a_ch1.wav"]
        Separation(model, channels, show_progress=False).separate_all(recordings)
        assert capsys.readouterr().out.startswith(ending)


def test_outputs_of_another_recording_are_neither_taken_nor_replaced(model, tmp_path, capsys):
    """As when folders are separated one after the other into one."""
    for folder, seconds in (("first", 0.1), ("second", 0.2), ("moved", 0.1)):
        (tmp_path / folder).mkdir()
        sf.write(tmp_path / folder / "a.wav", speechlike(seconds, 8000), 8000)
        os.utime(tmp_path / folder / "a.wav", (0, 0))

    def run(folder, **options):
        recordings, _ = find_recordings([str(tmp_path / folder)], tmp_path / "out")
        Separation(model, show_progress=False, **options).separate_all(recordings)
        told = capsys.readouterr()
        return told.out.splitlines()[-1].split(",")[0], told.err

    assert run("first") == ("1 separated", "")
    assert run("moved") == ("0 separated", "")
    count, problem = run("second")
    assert count == "0 separated"
    assert f"{tmp_path}/out/a_s1.wav is of another recording; choose" in problem
    assert sf.info(tmp_path / "out" / "a_s1.wav").frames == 800
    assert run("second", overwrite=True) == ("1 separated", "")
    # One's own that was changed, even if it was set back in time, is made again.
    sf.write(tmp_path / "second" / "a.wav", speechlike(0.3, 8000), 8000)
    os.utime(tmp_path / "second" / "a.wav", (0, 0))
    assert run("second") == ("1 separated", "")
    assert sf.info(tmp_path / "out" / "a_s1.wav").frames == 2400
