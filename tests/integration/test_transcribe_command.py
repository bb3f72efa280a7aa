"""From recordings to transcripts, by the command itself, on a tiny exported model."""

import importlib.util
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pympi
import pytest
import soundfile as sf
from PIL import Image

from custom_modules.audio import resample
from custom_modules.conversation.chain import Chain
from custom_modules.conversation.formats import FORMATS, read_passages, write_passages
from custom_modules.conversation.sessions import Sessions
from custom_modules.errors import exit_cleanly
from custom_modules.recordings.jobs import find_recordings
from tests.conversation.talks import RATE, Counting, Twice, talk
from tests.integration.test_separate_command import OLD, ROOT
from tests.integration.test_separate_command import call as call_separation

SCRIPT = ROOT / "recipes" / "conversation" / "transcribe.py"
TRACKS, PASSAGES = talk(turns=((0, 0.5, 3.0), (1, 2.5, 5.0)), seconds=5.5)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A DPRNN of the predecessor's, exported."""
    folder = tmp_path_factory.mktemp("models")
    call_separation("import_checkpoint", OLD, folder / "dprnn")
    return folder / "dprnn"


def call(*arguments):
    """Runs the command in this process; its exit status."""
    spec = importlib.util.spec_from_file_location("transcribe", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    try:
        with exit_cleanly():
            return module.main([*map(str, arguments), "--device", "cpu", "--activity", "energy"])
    except SystemExit as exit:
        return exit.code


def sizes(folder):
    return {p.name: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def test_recordings_of_every_kind(model, tmp_path, capsys):
    """Each has its line and its files; those that fail stop nothing; a rerun does nothing."""
    inputs = tmp_path / "in"
    inputs.mkdir()
    sf.write(inputs / "ala ma.wav", TRACKS.sum(0), RATE)
    wide = resample(TRACKS.sum(0), RATE, 44100)
    sf.write(inputs / "b.mp3", np.stack([wide, wide / 2], 1), 44100)
    sf.write(inputs / "silence.flac", np.zeros(RATE), RATE)
    (inputs / "text.wav").write_text("not audio")
    out = tmp_path / "out"
    options = (model, inputs, "--output_folder", out, "--num_speakers", 2)
    assert call(*options) == 1
    told = capsys.readouterr()
    lines = told.out.splitlines()
    assert lines[0].startswith(f"{inputs / 'ala ma.wav'}: 2 speakers, ")
    assert lines[2] == f"{inputs / 'silence.flac'}: 0 speakers, 0.0 s of overlap, 0 words"
    assert lines[-1] == "3 transcribed, 0 finished before, 1 failed"
    assert told.err.strip().startswith(f"failed: {inputs / 'text.wav'}: cannot be read")
    ends = [*(form.suffix for form in FORMATS.values()), ".png", ".transcribed.json"]
    wanted = [f"{name}{end}" for name in ("ala ma", "b", "silence") for end in ends]
    folders = ["ala ma_tracks", "b_tracks"]
    assert sorted(p.name for p in out.iterdir()) == sorted([*wanted, *folders])
    tracks = [sf.read(out / "b_tracks" / f"spk{number}.wav")[0] for number in (1, 2)]
    assert all(len(track) == sf.info(inputs / "b.mp3").frames for track in tracks)
    assert set(pympi.Eaf(str(out / "b.eaf")).get_tier_names()) == {"spk1", "spk2"}
    with Image.open(out / "b.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 10
    record = json.loads((out / "b.transcribed.json").read_text())
    assert {"separation", "who speaks when"} <= record["seconds"].keys()
    before = sizes(out)
    assert call(*options) == 1
    assert sizes(out) == before
    assert "0 transcribed, 3 finished before, 1 failed" in capsys.readouterr().out


def test_a_diarization_is_believed_and_none_separates_nothing(model, tmp_path, capsys):
    path = tmp_path / "talk.wav"
    sf.write(path, TRACKS.sum(0), RATE)
    given = tmp_path / "given"
    write_passages(given / "talk.rttm", {"talk": PASSAGES})
    out = tmp_path / "out"
    options = (model, path, "--output_folder", out, "--separate", "none", "--formats", "rttm")
    assert call(*options, "--diarization", given / "talk.rttm", "--no_plot") == 0
    assert "2 speakers, 0.5 s of overlap" in capsys.readouterr().out
    assert read_passages(out / "talk.rttm") == {"talk": sorted(PASSAGES, key=lambda p: p.start)}
    first, second = (sf.read(out / "talk_tracks" / f"{who}.wav")[0] for who in "ab")
    recording, _ = sf.read(path)
    overlap = slice(round(2.5 * RATE), round(3 * RATE))
    for track in (first, second):
        np.testing.assert_array_equal(track[overlap], recording[overlap])
    # A folder of them; another answer makes another outcome.
    write_passages(given / "talk.rttm", {"talk": PASSAGES[:1]})
    assert call(*options, "--diarization", given, "--no_plot") == 0
    assert "1 speaker, 0.0 s of overlap" in capsys.readouterr().out
    assert [p.name for p in (out / "talk_tracks").iterdir()] == ["a.wav"]
    # A format that was not asked for before is written from the record.
    track = (out / "talk_tracks" / "a.wav").stat().st_mtime_ns
    more = [*options[:-1], "srt", "--diarization", given]
    assert call(*more, "--no_plot") == 0
    assert (out / "talk.srt").exists()
    assert (out / "talk_tracks" / "a.wav").stat().st_mtime_ns == track


def test_what_was_not_made_here_stays(model, tmp_path, capsys):
    path = tmp_path / "talk.wav"
    sf.write(path, TRACKS.sum(0), RATE)
    out = tmp_path / "out"
    out.mkdir()
    (out / "talk.eaf").write_text("corrected by hand")
    given = tmp_path / "talk.rttm"
    write_passages(given, {"talk": PASSAGES})
    options = (model, path, "--output_folder", out, "--diarization", given)
    assert call(*options, "--formats", "eaf") == 1
    assert "nothing says that transcribe.py made it" in capsys.readouterr().err
    assert (out / "talk.eaf").read_text() == "corrected by hand"
    assert call(*options, "--formats", "eaf", "--overwrite") == 0
    assert pympi.Eaf(str(out / "talk.eaf")).get_tier_names()


@pytest.fixture
def talk_of_two(tmp_path):
    """A recording, and two answers to who speaks when."""
    sf.write(tmp_path / "talk.wav", TRACKS.sum(0), RATE)
    for name, told in (("A", PASSAGES), ("B", PASSAGES[:1])):
        write_passages(tmp_path / f"{name}.rttm", {"talk": told})
    return tmp_path / "talk.wav"


def test_each_file_is_of_the_last_answer(model, talk_of_two, tmp_path, capsys):
    options = [model, talk_of_two, "--output_folder", tmp_path / "out", "--no_plot"]
    runs = (("A", "rttm,srt"), ("B", "srt"), ("B", "rttm,srt"))
    for answer, formats in runs:
        given = ["--diarization", tmp_path / f"{answer}.rttm", "--formats", formats]
        assert call(*options, *given) == 0, capsys.readouterr().err
    assert read_passages(tmp_path / "out/talk.rttm") == {"talk": PASSAGES[:1]}


def test_what_was_corrected_stays_and_so_do_files_of_others(model, talk_of_two, tmp_path, capsys):
    out = tmp_path / "out"
    options = [model, talk_of_two, "--output_folder", out, "--no_plot", "--formats", "srt"]
    assert call(*options, "--diarization", tmp_path / "A.rttm") == 0
    (out / "talk.srt").write_text("corrected")
    assert call(*options, "--diarization", tmp_path / "A.rttm") == 0
    assert call(*options, "--diarization", tmp_path / "B.rttm") == 1
    assert "talk.srt was changed since it was made" in capsys.readouterr().err
    assert (out / "talk.srt").read_text() == "corrected"
    # Another recording of that name.
    (tmp_path / "tue").mkdir()
    sf.write(tmp_path / "tue" / "talk.wav", TRACKS[0], RATE)
    options[1] = tmp_path / "tue" / "talk.wav"
    assert call(*options, "--diarization", tmp_path / "A.rttm") == 1
    assert "is of another recording" in capsys.readouterr().err
    # A user's tracks, and a folder that looks like work in progress.
    for name in ("talk_tracks/own.wav", ".talk.work/thesis.txt"):
        new = tmp_path / Path(name).parent.name
        (new / name).parent.mkdir(parents=True)
        (new / name).write_text("precious")
        options[1:4] = [talk_of_two, "--output_folder", new]
        assert call(*options, "--diarization", tmp_path / "A.rttm") == 1
        assert (new / name).read_text() == "precious"


def test_a_run_that_was_killed_while_it_wrote_goes_on(model, talk_of_two, tmp_path, monkeypatch):
    options = [model, talk_of_two, "--output_folder", tmp_path / "out", "--no_plot"]
    options += ["--diarization", tmp_path / "A.rttm"]

    def kill(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr("custom_modules.conversation.sessions.write_wav", kill)
        assert call(*options) == 130
    assert (tmp_path / "out/talk.rttm").exists()
    assert call(*options) == 0
    assert sf.info(tmp_path / "out/talk_tracks/a.wav").frames == TRACKS.shape[1]


def test_inputs_of_any_kind_are_lines(model, tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "raw.raw").write_bytes(bytes(100))
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/rozm\xf3wa.wav")).write_bytes(b"no audio")
    inputs = [tmp_path, tmp_path / "raw.raw"]
    assert call(model, *inputs, "--output_folder", tmp_path / "out") == 1
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 3 and all(line.startswith("failed: ") for line in told)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--diarization", "x.rttm", "--num_speakers", "3"], "--num_speakers: --diarization says"),
        (["--separate", "none", "--observation_db", "-6"], "nothing is separated"),
        (["--diarization", "nowhere.rttm"], "--diarization=nowhere.rttm: no such file"),
        (["--num_speakers", "0"], "0 is neither auto nor a number"),
        (["--formats", "eaf,doc"], "'doc' is none of seglst"),
        (["--embedding", "ecapa:nowhere"], "is not a SpeechBrain folder"),
        (["--context_seconds", "-1"], "--context_seconds=-1"),
    ],
)
def test_bad_options_are_one_line(model, tmp_path, capsys, options, words):
    sf.write(tmp_path / "a.wav", TRACKS.sum(0), RATE)
    out = tmp_path / "out"
    assert call(model, tmp_path / "a.wav", "--output_folder", out, *options) == 2
    told = capsys.readouterr().err.strip()
    assert words in told and "\n" not in told
    assert not out.exists()


def test_words_are_written_wherever_there_is_room_for_them(tmp_path, capsys):
    """With a recogniser; its utterances are in the record and in every format."""
    path = tmp_path / "talk.wav"
    sf.write(path, TRACKS.sum(0), RATE)
    write_passages(tmp_path / "talk.rttm", {"talk": PASSAGES})
    (recording,), _ = find_recordings([str(path)], tmp_path / "out")
    chain = Chain(Twice(), Counting(), activity="energy")
    sessions = Sessions(chain, "settings", diarization=tmp_path / "talk.rttm")
    assert sessions.transcribe_all([recording]) == 0
    assert "2 speakers, 0.5 s of overlap, 4 words" in capsys.readouterr().out
    out = tmp_path / "out"
    for name in ("talk.srt", "talk.eaf", "talk.TextGrid", "talk.txt", "talk.seglst.json"):
        assert (out / name).read_text("utf-8").count(" sekund") == 2
    shutil.rmtree(out / "talk_tracks")
    assert sessions.transcribe_all([recording]) == 0
    assert sorted(p.name for p in (out / "talk_tracks").iterdir()) == ["a.wav", "b.wav"]
