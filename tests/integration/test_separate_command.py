"""From an old checkpoint, over results and an exported folder, to separated files."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch

from custom_modules.errors import exit_cleanly
from tests.integration import training
from tests.manifest.tiny_corpus import TinyCorpus

ROOT = Path(__file__).parents[2]
OLD = ROOT / "tests" / "data" / "checkpoints" / "dprnn_SB_best.pt"


def run(script, *arguments, **environment):
    """Runs a command in a process of its own."""
    return training.run(f"recipes/separation/{script}.py", *arguments, **environment)


def call(script, *arguments):
    """Runs a command in this process, which saves the time of importing torch."""
    path = ROOT / "recipes" / "separation" / f"{script}.py"
    spec = importlib.util.spec_from_file_location(script, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with exit_cleanly():
        return module.main([str(a) for a in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint of the predecessor, imported, and exported again."""
    folder = tmp_path_factory.mktemp("models")
    call("import_checkpoint", OLD, folder / "first", "--results", folder / "results")
    call("export", folder / "results" / "hyperparams.yaml", folder / "second")
    return folder


def test_results_are_exported_as_they_were_imported(folder):
    for name in ("encoder", "masknet", "decoder"):
        first, second = (
            torch.load(folder / part / f"{name}.ckpt", weights_only=True)
            for part in ("first", "second")
        )
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)
    assert "epoch 1, SI-SDR -21.34 dB" in (folder / "second/README.md").read_text()


def test_the_card_names_the_corpus_and_nothing_of_this_machine(folder, tmp_path, monkeypatch):
    """Also where the environment names another corpus, and where the table is old."""
    monkeypatch.setenv("POLSESS_DATA_ROOT", str(tmp_path / "elsewhere"))
    results = tmp_path / "my results" / "7"
    shutil.copytree(folder / "results", results)
    hparams = results / "hyperparams.yaml"

    def card(line):
        text = re.sub(r"(?m)^data_folder: .*$", line, hparams.read_text())
        assert line in text
        hparams.write_text(text)
        call("export", hparams, tmp_path / "model", "--overwrite")
        return (tmp_path / "model" / "README.md").read_text()

    (results / "test_summary.md").write_text(
        f"| C | 7 |\n\n- Command: `python evaluate.py results/a --x={tmp_path}/y "
        f'"--output_folder={results}" hparams/a.yaml`\n- Corpus: {tmp_path}/Mini\n'
    )
    text = card(f"data_folder: {tmp_path}/Mini")
    assert "DPRNN trained on Mini, of the format" in text
    assert "| training corpus | Mini, " in text
    assert (
        "- Command: `python evaluate.py results/a --x=…/y "
        '"--output_folder=…/7" hparams/a.yaml`\n- Corpus: …/Mini\n'
    ) in text
    assert str(tmp_path) not in text
    assert not re.search(r"""(^|[\s"'`=(])/\w""", text)
    assert "DPRNN trained on elsewhere, of" in card("data_folder: !PLACEHOLDER")
    monkeypatch.delenv("POLSESS_DATA_ROOT")
    assert "DPRNN trained on PolSESS, of" in card("data_folder: !PLACEHOLDER")
    # A test of other weights, or of other outputs, says nothing of these.
    for other in ('{"checkpoint": "epoch 99"}', '{"observation_db": -6.0}'):
        (results / "test_run.json").write_text(other)
        assert "| C | 7 |" not in card("data_folder: !PLACEHOLDER")


def test_training_goes_on_from_imported_results(folder, tmp_path):
    corpus = TinyCorpus(tmp_path / "Tiny", frames=1600)
    for subset in ("train", "val", "test"):
        corpus.add(subset, f"{subset}_0", "outdoor")
    corpus.write_tables()
    options = [f"--data_folder={corpus.root}", "--number_of_epochs=2", "--lr=1e-4"]
    done = run("train", folder / "results" / "hyperparams.yaml", *options, "--num_workers=0")
    assert done.returncode == 0, done.stderr
    log = (folder / "results" / "train_log.txt").read_text()
    assert log.startswith("epoch: 2, lr: 1.000e-04")
    assert log.count("epoch: ") == 1


def test_a_folder_of_recordings(folder, tmp_path):
    recordings = tmp_path / "in"
    recordings.mkdir()
    noise = 0.1 * np.random.default_rng(0).normal(size=(60_000, 2))
    sf.write(recordings / "ala ma kota.flac", noise, 16_000)
    sf.write(recordings / "b.wav", noise[:1, 0], 8000)
    (recordings / "text.wav").write_text("not audio")
    shutil.copy(recordings / "b.wav", os.fsencode(recordings) + b"/rozm\xf3wa.wav")
    out = tmp_path / "out"
    inputs = (recordings, tmp_path / "none.wav")
    options = (folder / "first", *inputs, "--output_folder", out)
    done = run("separate", *options, "--plot", "--device", "cpu")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "\x1b" not in done.stderr  # no terminal to move a cursor in
    assert done.stdout.endswith("2 separated, 0 finished before, 2 failed\n")
    latin, bad, missing = done.stderr.splitlines()[-3:]
    assert latin.startswith(f"failed: {recordings}/rozm\\udcf3wa.wav: cannot be read")
    assert bad.startswith(f"failed: {recordings}/text.wav: ")
    assert missing == f"failed: {tmp_path}/none.wav: no such file or folder"
    assert sorted(os.listdir(out)) == sorted(
        f"{name}{part}" for name in ("ala ma kota", "b") for part in (".png", "_s1.wav", "_s2.wav")
    )
    assert sf.info(out / "ala ma kota_s2.wav").frames == 60_000


def test_two_runs_at_once(folder, tmp_path):
    """Both end with the same whole files, whoever made them."""
    for name in "abcdef":
        sf.write(tmp_path / f"{name}.wav", 0.1 * np.random.default_rng(0).normal(size=20_000), 8000)
    command = [sys.executable, "recipes/separation/separate.py", str(folder / "first")]
    command += [str(tmp_path), "--output_folder", str(tmp_path / "out"), "--device", "cpu"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    runs = [subprocess.Popen(command, cwd=ROOT, env=environment, **pipes) for _ in range(2)]
    told = [run.communicate() for run in runs]
    assert [run.returncode for run in runs] == [0, 0], told
    separated = [
        int(re.search(r"(\d+) separated, \d+ finished before, 0", out)[1]) for out, _ in told
    ]
    assert sum(separated) == 6
    expected = {f"{name}_s{source}.wav" for name in "abcdef" for source in (1, 2)}
    assert set(os.listdir(tmp_path / "out")) == expected
    assert {sf.info(tmp_path / "out" / name).frames for name in expected} == {20_000}


def test_results_that_were_not_exported_are_no_model(folder, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        call("separate", folder / "results", OLD, "--output_folder", tmp_path)
    assert ended.value.code == 2
    assert f"export.py {folder}/results/hyperparams.yaml" in capsys.readouterr().err


def test_outputs_do_not_go_into_a_file(folder, capsys):
    with pytest.raises(SystemExit) as ended:
        call("separate", folder / "first", OLD, "--output_folder", OLD)
    assert ended.value.code == 2
    assert f"{OLD}: cannot be written" in capsys.readouterr().err


def test_a_level_beside_peaks_is_refused_before_any_recording(folder, tmp_path, capsys):
    sf.write(tmp_path / "a.wav", [0.1] * 100, 8000)
    options = (folder / "first", tmp_path, "--output_folder", tmp_path / "out")
    with pytest.raises(SystemExit) as stopped:
        call("separate", *options, "--observation_db=-6", "--normalize=peak", "--device=cpu")
    assert stopped.value.code == 2
    assert capsys.readouterr().err.endswith("use normalize=mixture with it, not peak\n")


@pytest.mark.parametrize("parts", [("--shard", "2/3"), ("torchrun",)])
def test_processes_share_the_work(folder, tmp_path, monkeypatch, capsys, parts):
    for name in "abcd":
        sf.write(tmp_path / f"{name}.wav", [0.1] * 100, 8000)
    if parts == ("torchrun",):
        monkeypatch.setenv("RANK", "1")
        monkeypatch.setenv("WORLD_SIZE", "3")
        parts = ()
    out = tmp_path / "out"
    options = (folder / "first", tmp_path, "--output_folder", out, *parts)
    assert call("separate", *options, "--device", "cpu") == 0
    assert capsys.readouterr().out.startswith("1 separated")
    assert sorted(os.listdir(out)) == ["b_s1.wav", "b_s2.wav"]


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("separate", ["none", OLD, "--output_folder", "x"], "none: no such folder"),
        ("separate", ["hparams/none", OLD, "--output_folder", "x"], "no such folder"),
        ("separate", [ROOT, OLD, "--output_folder", "x"], "hyperparams.yaml: cannot be read"),
        ("separate", ["none", "none", "--output_folder", "x"], "no such file"),
        ("export", ["hparams/dprnn.yaml", "x", "--output_folder=no"], "no such folder"),
        ("export", ["none.yaml", "x"], "none.yaml: cannot be read"),
        ("separate", ["x", "x", "--chanels=each", "--output_folder=x"], "--chanels"),
        ("separate", ["x", "x", "--output_folder=x", "--shard=5/4"], "1/4 … 4/4"),
        ("separate", ["x", "x", "--output_folder=x", "--chunk_seconds=0"], "from 0.1"),
        ("separate", ["x", "x", "--output_folder=x", "--chunk_seconds=1e-9"], "from 0.1"),
        ("separate", ["x", "x", "--output_folder=x", "--overlap_seconds=nan"], "from 0 up"),
        ("separate", ["x", "x", "--output_folder=x", "--overlap_seconds=inf"], "from 0 up"),
        ("export", ["hparams/dprnn.yaml", "x", "--nn=3"], "no key 'nn'"),
        ("export", ["hparams/dprnn.yaml", "x", "--quantize=int8"], "give both"),
        ("separate", ["x", OLD, "--output_folder=x", "--runtime=onnx"], "no such folder"),
        ("separate", ["x"], "INPUT and --output_folder are required"),
        ("separate", ["x", OLD, "--stream"], "standard input alone"),
        ("separate", ["x", "--stream", "--context_seconds=-1"], "--context_seconds=-1"),
        ("separate", ["x", "--stream", "--observation_db=-6"], "--observation_db: is not for"),
        ("separate", ["x", "--stream", "--plot"], "--plot: is not for --stream"),
        ("separate", ["x", OLD, "--output_folder=x", "--rate=16000"], "--rate: is not for files"),
        ("import_checkpoint", ["README.md", "x"], "README.md: no checkpoint"),
    ],
)
def test_mistakes_end_in_one_line(tmp_path, capsys, script, arguments, message):
    arguments = [tmp_path / "x" if a == "x" else a for a in arguments]
    with pytest.raises(SystemExit) as ended:
        call(script, *arguments)
    assert ended.value.code == 2
    printed = capsys.readouterr().err.strip()
    assert "usage:" not in printed
    last = printed.splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last
