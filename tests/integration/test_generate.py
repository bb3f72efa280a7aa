"""The generate command itself: its files, its resuming, its refusals."""

import csv
import json
import os
import re
import signal

import numpy as np
import pytest
import soundfile

from custom_modules import layout
from custom_modules.corpus.generation import write_speakers
from custom_modules.corpus.sources import Recording
from custom_modules.layout import COLUMNS
from polsess_prepare import prepare_polsess
from tests.corpus.recordings import class_folder, speech_folder, talker, write
from tests.integration.forked import Forked, run_command
from tests.integration.generating import (
    ENVIRONMENT,
    HPARAMS,
    SCRIPT,
    files_of,
    refusal,
    rows_of,
    run,
)

SMALL = ["--n_train=12", "--n_val=3", "--n_test=3", "--duration=1.0"]


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    return speech_folder(tmp_path_factory.mktemp("speech"))


@pytest.fixture(scope="module")
def own_speech(speech):
    """Arguments for own speech and procedural backgrounds."""
    return [
        HPARAMS / "speech_folder.yaml",
        f"--speech_folder={speech}",
        f"--speech_table={speech / 'table.csv'}",
        *SMALL,
    ]


@pytest.fixture(scope="module")
def corpus(own_speech, tmp_path_factory):
    """A small corpus, made in one process."""
    root = tmp_path_factory.mktemp("made") / "Small"
    run([*own_speech, f"--output_folder={root}", "--workers=1"])
    return root


def test_layout_is_polsess_s(corpus):
    folders = {"clean", "event", "mix", "scene", "sp1_reverb", "sp2_reverb", "ev_reverb"}
    for subset, number in {"train": 12, "val": 3, "test": 3}.items():
        assert (corpus / subset / f"corpus_Small_{subset}_final.csv").is_file()
        found = {path.name for path in (corpus / subset).iterdir() if path.is_dir()}
        assert found | {"sp1_reverb", "sp2_reverb", "ev_reverb"} == folders
        rows = rows_of(corpus, subset)
        assert len(rows) == number
        assert tuple(rows[0]) == COLUMNS
        assert {row["subset"] for row in rows} == {subset}
    names = [path.name for path in corpus.rglob("*.wav")]
    assert len(names) == len(set(names))
    assert not [p for p in corpus.rglob("*") if p.name.startswith(".")]
    assert not list(corpus.rglob("*.partial"))


def test_written_files_add_up(corpus):
    for subset in ("train", "val", "test"):
        for row in rows_of(corpus, subset):
            layers = {}
            for name, path in layout.file_paths(corpus, row).items():
                info = soundfile.info(path)
                assert (info.samplerate, info.channels, info.frames) == (8000, 1, 8000)
                assert info.subtype == "PCM_16"
                layers[name] = soundfile.read(path, dtype="int16")[0].astype(int)
            mix = layers.pop("mix")
            np.testing.assert_array_equal(sum(layers.values()), mix)
            assert len(layers) == (7 if row["reverbForSpeaker1"] else 4)


def test_voices_and_recordings_never_cross_subsets(corpus):
    with open(corpus / "speakers.csv", encoding="utf-8", newline="") as file:
        speakers = list(csv.DictReader(file))
    sides = {row["speaker"]: row["subset"] for row in speakers}
    assert len(sides) == len(speakers) == 6
    assert {row["gender"] for row in speakers} == {"female", "male"}
    origins = {}
    for subset in ("train", "val", "test"):
        for row in rows_of(corpus, subset):
            pair = [row[f"speech{n}OryginalPath"].split("/")[0] for n in (1, 2)]
            assert pair[0] != pair[1]
            assert {sides[name] for name in pair} == {subset}
            for role in ("scene", "event"):
                path = role + row[f"{role}OryginalPath"]
                assert origins.setdefault(path, subset) == subset


def test_segments_are_where_the_rows_say(corpus, speech):
    for row in rows_of(corpus, "train"):
        original, _ = soundfile.read(speech / row["speech1OryginalPath"])
        first, last = int(row["speech1Start"]) - 1, int(row["speech1End"])  # of MATLAB, from 1
        made, _ = soundfile.read(corpus / "train" / "clean" / row["speaker1File"])
        np.testing.assert_allclose(made, original[first:last], atol=1 / 32768)


def test_several_processes_make_the_same_bytes(corpus, own_speech, tmp_path):
    root = tmp_path / "Small"
    run([*own_speech, "--output_folder", root, "--workers", "2"])
    assert files_of(root) == files_of(corpus)


def test_another_seed_makes_another_corpus(corpus, own_speech, tmp_path):
    root = tmp_path / "Small"
    run([*own_speech, f"--output_folder={root}", "--seed=7", "--workers=1"])
    first, second = files_of(corpus), files_of(root)
    mixes = [name for name in first if "/mix/" in name]
    assert len(mixes) == 18
    assert all(first[name] != second[name] for name in mixes)


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT], ids=["kill", "ctrl-c"])
def test_interrupted_run_is_resumed_to_the_same_bytes(own_speech, tmp_path, stop):
    arguments = [*own_speech, "--n_train=40", "--workers=2"]
    begun = tmp_path / "begun" / "Small"
    told, writing = map(open, os.pipe(), ("rb", "wb"))
    with told:
        with writing:
            command = [SCRIPT, *arguments, f"--output_folder={begun}"]
            process = Forked(command, ENVIRONMENT, stderr=writing)
        seen = b""
        while not re.search(rb" [1-9]\d*/40 ", seen):
            more = told.read1(64)
            assert more, seen.decode()
            seen += more
        process.send_signal(stop)
        rest = told.read()
    assert process.wait() == (-9 if stop == signal.SIGKILL else 130)
    assert b"Traceback" not in rest
    assert not list(begun.rglob("*.csv")) or not list((begun / "val").glob("*"))
    made = {p.name: p.stat().st_mtime_ns for p in (begun / "train" / "mix").glob("*.wav")}
    assert 0 < len(made) < 40
    run([*arguments, f"--output_folder={begun}"])
    kept = [n for n, t in made.items() if (begun / "train/mix" / n).stat().st_mtime_ns == t]
    assert kept
    whole = tmp_path / "whole" / "Small"
    run([*arguments, f"--output_folder={whole}"])
    assert files_of(begun) == files_of(whole)


def test_second_run_makes_what_is_missing_and_nothing_else(own_speech, tmp_path, capsys):
    root = tmp_path / "Small"
    arguments = [*own_speech, f"--output_folder={root}", "--workers=1"]
    run(arguments)
    before = files_of(root)
    (root / "train" / "scene" / "train_00003_scene.wav").unlink()
    (root / "val" / "mix" / "val_00001.wav").write_bytes(b"RIFF")
    run(arguments)
    assert files_of(root) == before
    assert "2 mixtures made" in capsys.readouterr().out


def test_mini_polsess_needs_nothing_but_packages(tmp_path):
    root = tmp_path / "Mini"
    sizes = ["--n_train=0", "--n_val=0", "--n_test=4", "--seconds_per_voice=5"]
    options = [f"--output_folder={root}", "--sample_rate=16000", "--duration=2.5"]
    run([HPARAMS / "mini_polsess.yaml", *sizes, *options, "--workers=1"])
    rows = rows_of(root, "test")
    assert len(rows) == 4
    for row in rows:
        mix = soundfile.info(root / "test" / "mix" / row["mixFile"])
        assert (mix.samplerate, mix.frames) == (16000, 40000)
        for number in (1, 2):
            assert (root / row[f"speech{number}OryginalPath"]).is_file()


def test_folders_of_any_format(tmp_path):
    """Talkers in wav, flac and ogg, of 44.1 kHz, some of them stereo."""
    speech = tmp_path / "speech"
    for number, suffix in enumerate(["wav", "flac", "ogg", "wav"]):
        for take in range(4):
            samples = talker(10 * number + take, 1.2, 44100)
            samples = np.stack([samples, samples], 1) if number % 2 else samples
            write(speech / f"s{number}" / f"{take}.{suffix}", samples, 44100)
    scenes = class_folder(tmp_path / "scenes", ["park", "cellar"], rate=16000)
    events = class_folder(tmp_path / "events", ["Dog", "thing"], seconds=0.4)
    root = tmp_path / "Own"
    run(
        [
            HPARAMS / "folders.yaml",
            *SMALL,
            f"--output_folder={root}",
            f"--speech_folder={speech}",
            f"--scene_folder={scenes}",
            f"--event_folder={events}",
            "--scene_classes={cellar: indoor}",
            "--val_speakers=train",
            "--workers=1",
            "--duration=2.0",
        ]
    )
    rows = [row for subset in ("train", "val", "test") for row in rows_of(root, subset)]
    for row in rows:
        assert ";" in row["speech1OryginalPath"] or row["subset"] == "val"
        assert row["sceneClass"] in ("park", "cellar")
        assert bool(row["decay"]) == (row["sceneClass"] == "cellar")
        assert row["eventClass"] == "thing" or row["sceneClass"] == "park"
    assert {row["sceneClass"] for row in rows} == {"park", "cellar"}


def test_prepare_finds_the_speakers_that_generate_wrote(tmp_path):
    """In speaker/book/file, where books have the numbers of speakers."""
    genders = {"6892": "female", "10179": "male", "77": "female"}
    lines = ["file,speaker,gender"]
    for number, (speaker, gender) in enumerate(genders.items()):
        for take, book in enumerate(genders):
            name = f"{speaker}/{book}/{take}.wav"
            write(tmp_path / "mls" / name, talker(10 * number + take, 1.5, 8000))
            lines.append(f"{name},{speaker},{gender}")
    table = tmp_path / "table.csv"
    table.write_text("\n".join(lines), encoding="utf-8")
    root = tmp_path / "Own"
    options = ["--n_train=8", "--n_val=0", "--n_test=0", "--duration=1.0"]
    options += [f"--speech_folder={tmp_path / 'mls'}", f"--speech_table={table}"]
    options += [f"--output_folder={root}", "--workers=1"]
    run([HPARAMS / "speech_folder.yaml", *options])
    prepare_polsess(root, tmp_path / "manifests", ("train",), workers=1)
    entries = json.loads((tmp_path / "manifests" / "train.json").read_text())
    for row in rows_of(root, "train"):
        entry = entries[row["mixFile"].removesuffix(".wav")]
        for n in (1, 2):
            speaker = row[f"speech{n}OryginalPath"].split("/")[0]
            assert entry[f"speaker{n}"] == speaker
            assert entry[f"gender{n}"] == genders[speaker]


def test_list_of_speakers_names_their_folders(tmp_path):
    paths = {"data/a/x.wav": "a", "a/data/y.wav": "data", "a/a/z.wav": "b"}
    listed = [Recording(path, speaker, 1) for path, speaker in paths.items()]
    write_speakers(tmp_path, {"train": listed})
    with open(tmp_path / "speakers.csv", encoding="utf-8", newline="") as file:
        sources = {row["speaker"]: row["source"] for row in csv.DictReader(file)}
    assert sources == {"a": "data/a", "data": "a/data", "b": ""}


def test_sources_of_one_s_own_are_named_in_the_hparams_file(tmp_path):
    hparams = (HPARAMS / "mini_polsess.yaml").read_text(encoding="utf-8")
    hparams = hparams.replace(
        "custom_modules.corpus.espeak.EspeakSpeech\n"
        "    seconds_per_voice: !ref <seconds_per_voice>\n    sentences: !ref <sentences>\n"
        "    test_voices: !ref <test_voices>",
        "tests.corpus.test_mixing.Noise\n    level: 0.02",
    )
    (tmp_path / "own.yaml").write_text(hparams, encoding="utf-8")
    root = tmp_path / "Own"
    sizes = ["--n_train=2", "--n_val=0", "--n_test=0", "--duration=1.5", "--workers=2"]
    run([tmp_path / "own.yaml", f"--output_folder={root}", *sizes])
    for row in rows_of(root, "train"):
        s1, _ = soundfile.read(root / "train" / "clean" / row["speaker1File"])
        active = s1[s1 != 0]
        assert np.sqrt(np.mean(active**2)) == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--n_trian=5"], "did you mean --n_train?"),
        (["--speech.folder=x"], "no key 'speech.folder'"),
        (["--n_train=-1"], "--n_train=-1: must be a whole number from 0"),
        (["--n_train=many"], "--n_train=many: not a number"),
        (["--n_train=2.5"], "--n_train=2.5: must be a whole number from 0"),
        (["--n_train=0", "--n_val=0", "--n_test=0"], "nothing to generate"),
        (["--duration=0"], "--duration=0: must be a number from 0.1 up to 3600"),
        (["--duration=.nan"], "--duration=nan: must be a number"),
        (["--workers=0"], "--workers=0: must be a whole number from 1"),
        (["--indoor_share=2"], "--indoor_share=2: must be a number from 0 up to 1"),
        (["--overwrite=perhaps"], "--overwrite=perhaps: "),
        (["--speech_folder=/nowhere"], "/nowhere: no such folder"),
        (["--val_speakers=both"], "choose one of disjoint, train"),
        (["--speakers={train: [ada], val: [bea], test: [cyd]}"], "fewer than two"),
        (["--duration"], "takes one value"),
        (["--output_folder="], "is empty; leave the option out"),
    ],
)
def test_bad_options_end_in_one_line(own_speech, tmp_path, capsys, options, message):
    output = [f"--output_folder={tmp_path / 'out'}", "--workers=1"]
    assert message in refusal([*own_speech, *output, *options], capsys)
    assert not list(tmp_path.iterdir())


def test_too_few_speakers_name_the_remedy(tmp_path, capsys):
    speech = speech_folder(tmp_path / "speech", ("ada", "bea", "cyd", "dan", "ewa"))
    arguments = [HPARAMS / "speech_folder.yaml", *SMALL, f"--speech_folder={speech}"]
    arguments.append(f"--output_folder={tmp_path / 'out'}")
    assert "--val_speakers=train" in refusal(arguments, capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["silent", "nan", "one sample"])
def test_useless_speech_ends_in_one_line(tmp_path, capsys, kind):
    length = 1 if kind == "one sample" else 16000
    value = {"silent": 0.0, "nan": np.nan, "one sample": 0.1}[kind]
    for number in range(6):
        path = tmp_path / "speech" / f"s{number}" / "a.wav"
        write(path, np.full(length, value), subtype="FLOAT")
    arguments = [HPARAMS / "speech_folder.yaml", *SMALL, "--workers=1"]
    arguments += [f"--speech_folder={tmp_path / 'speech'}", "--max_tries=5"]
    line = refusal([*arguments, f"--output_folder={tmp_path / 'out'}"], capsys)
    assert (
        "a.wav: holds samples that are not finite"
        if kind == "nan"
        else "all of 5 candidates were rejected (talkers hardly overlap: 5)"
    ) in line


def test_too_little_speech_for_so_many_mixtures(tmp_path, capsys):
    for number in range(2):
        samples = talker(number, 1.0, 8000)[:8003]
        write(tmp_path / "speech" / f"s{number}" / "a.wav", np.append(samples, [0.1] * 3))
    arguments = [HPARAMS / "speech_folder.yaml", "--n_train=40", "--n_val=0", "--n_test=0"]
    arguments += [f"--speech_folder={tmp_path / 'speech'}", "--duration=1.0"]
    arguments += [f"--output_folder={tmp_path / 'out'}", "--workers=1", "--max_tries=8"]
    line = refusal(arguments, capsys)
    assert "rejected (speech of another mixture: 8); add recordings or lower n_train" in line


def test_refused_overwriting_changes_nothing(own_speech, tmp_path, capsys):
    root = tmp_path / "Small"
    arguments = [*own_speech, f"--output_folder={root}", "--workers=1", "--n_train=2"]
    run(arguments)
    before = files_of(root)
    assert "--overwrite=True" in refusal([*arguments, "--seed=9"], capsys)
    bad = [*arguments, "--seed=9", "--overwrite=True", "--speakers={train: [ada, zoe]}"]
    assert "'zoe' of train has no recordings" in refusal(bad, capsys)
    assert files_of(root) == before
    run([*arguments, "--seed=9", "--overwrite=True"])
    note = json.loads((root / "generator.json").read_text())
    assert note["options"]["seed"] == 9
    assert files_of(root) != before


def test_foreign_folder_is_left_alone(own_speech, tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("precious")
    line = refusal([*own_speech, f"--output_folder={tmp_path}", "--overwrite=True"], capsys)
    assert "not a corpus of this generator" in line
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_command_line_prints_one_line_and_status_2():
    done = run_command([SCRIPT, HPARAMS / "folders.yaml"], ENVIRONMENT)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"error: {HPARAMS / 'folders.yaml'}: set --output_folder=OUTPUT_FOLDER"
    ]
    assert done.stdout == ""


def test_help_lists_the_keys(capsys):
    run(["--help", HPARAMS / "folders.yaml"])
    told = capsys.readouterr().out
    for key in ("output_folder", "n_train", "speech_table", "same_recording"):
        assert f"--{key}" in told
