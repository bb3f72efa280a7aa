"""The evaluation command itself: every route to the same numbers, and refusals."""

import importlib.util
import json
import os
import shutil
import signal

import pandas as pd
import pytest

from custom_modules.checkpoints import AtomicCheckpointer
from custom_modules.errors import exit_cleanly
from custom_modules.manifest.librimix import prepare_librimix
from tests.integration.forked import Forked, run_two
from tests.integration.test_train_command import ROOT, TINY, run
from tests.manifest.test_librimix import make as make_librimix
from tests.manifest.tiny_corpus import TinyCorpus

EVALUATE = "recipes/separation/evaluate.py"
MIXTURES = 8  # six indoor ones with five variants, two outdoor ones with four


def evaluate(*arguments):
    """The command in this process: importing torch takes seconds each time."""
    spec = importlib.util.spec_from_file_location("evaluate", ROOT / EVALUATE)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    with exit_cleanly():
        script.main([*map(str, arguments)])


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    corpus = TinyCorpus(tmp_path_factory.mktemp("data") / "Tiny", frames=4800)
    for subset, rows in (("train", 2), ("val", 2), ("test", MIXTURES)):
        for row in range(rows):
            environment = "outdoor" if row % 4 == 3 else "indoor"
            corpus.add(subset, f"{subset}_{row}", environment)
    corpus.write_tables()
    return corpus.root


@pytest.fixture(scope="module")
def trained(corpus, tmp_path_factory):
    """A results folder, with the test that train.py made of all metrics."""
    folder = tmp_path_factory.mktemp("results") / "tiny"
    done = run(
        "hparams/convtasnet.yaml",
        f"--data_folder={corpus}",
        f"--output_folder={folder}",
        *TINY["convtasnet"].split(),
        "--number_of_epochs=1",
        "--batch_size=2",
        "--num_workers=0",
        "--noprogressbar",
    )
    assert done.returncode == 0, done.stderr
    return folder


def rows_of(folder):
    return pd.read_csv(folder / "test_results.csv", keep_default_na=False, dtype=str)


def test_fewer_variants_and_metrics_have_the_same_numbers(trained, tmp_path, capsys):
    whole = rows_of(trained)
    assert len(whole) == 2 * (6 * 5 + 2 * 4)
    options = ["--variants", "SER,SE", "--no_pesq", "--no_stoi", "--noprogressbar"]
    options += [f"--output_folder={tmp_path}", f"--output={tmp_path / 'rows.csv'}"]
    evaluate(trained / "hyperparams.yaml", *options)
    assert "| SER " in capsys.readouterr().out
    part = rows_of(tmp_path)
    assert set(part.variant) == {"SER", "SE"}
    kept = whole[whole.variant.isin(["SER", "SE"])][part.columns]
    assert part.equals(kept.reset_index(drop=True))
    assert (tmp_path / "rows.csv").read_bytes() == (tmp_path / "test_results.csv").read_bytes()
    assert not [name for name in part if "pesq" in name or "stoi" in name]


def test_fewer_mixtures_by_the_option_of_a_training(trained, tmp_path):
    options = ["--variants=C", "--metrics=stoi", "--noprogressbar"]
    options += [f"--output_folder={tmp_path}", "--test_max_samples=3"]
    evaluate(trained / "hyperparams.yaml", *options)
    rows = rows_of(tmp_path)
    assert rows.id.nunique() == 3
    assert "estoi" in rows and "sdr" not in rows and "pesq" not in rows


def test_killed_in_the_middle_it_goes_on_in_two_processes(trained, tmp_path):
    arguments = [trained, f"--output_folder={tmp_path}", "--noprogressbar"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    process = Forked([EVALUATE, *arguments, "--workers=1"], environment)
    wait_for_lines(tmp_path / "test_scores", process)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "test_results.csv").exists()
    (scores,) = (tmp_path / "test_scores").glob("*.jsonl")
    with open(scores, "r+b") as file:
        file.truncate(scores.stat().st_size - 9)  # as if killed while it wrote
    kept = scores.read_bytes().count(b"\n")

    done = run_two([EVALUATE, *arguments], environment)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "test_results.csv").read_bytes() == (
        trained / "test_results.csv"
    ).read_bytes()
    record = json.loads((tmp_path / "test_run.json").read_text())
    assert record["scored_in_this_run"] == 6 * 5 + 2 * 4 - kept
    assert record["processes"] == 2
    summary = (tmp_path / "test_summary.md").read_text()
    assert f"for {record['scored_in_this_run']} mixtures in this run shared by" in summary


def wait_for_lines(folder, process):
    """Waits until a mixture is scored, but not all of them are."""
    while process.wait(0.02) is None:
        if any(b"\n" in path.read_bytes() for path in folder.glob("*.jsonl")):
            return
    raise AssertionError("it ended before it was killed")


def test_another_corpus_does_not_overwrite_the_results(trained, tmp_path):
    before = (trained / "test_results.csv").read_bytes()
    root = make_librimix(tmp_path / "Libri2Mix", subsets=("test",))
    prepare_librimix(root, tmp_path / "m", workers=1)
    options = [f"--data_folder={root}", "--skip_prep=True", "--no_pesq", "--no_stoi"]
    options += [f"--manifest_folder={tmp_path / 'm'}", "--save_audio=1", "--workers=0"]
    evaluate(trained, *options)
    assert set(rows_of(trained / "Libri2Mix").variant) == {"S", "C"}
    assert len(list((trained / "Libri2Mix" / "audio").glob("*_C_*.wav"))) == 5
    assert (trained / "test_results.csv").read_bytes() == before


def test_results_are_compared(trained, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("test_results.csv", "test_run.json"):
        shutil.copy(trained / name, copy)
    evaluate("--compare", trained, copy, f"--output_folder={tmp_path}")
    assert (tmp_path / "comparison.csv").exists()
    lines = (tmp_path / "comparison.md").read_text().splitlines()
    assert any(line.startswith("| SER ") for line in lines)


OWN_MODEL = """
model_name: own
task: SB
sample_rate: 8000
data_folder: !PLACEHOLDER
output_folder: own
skip_prep: False
check: header
skip_bad_rows: False
separator: !new:own_model.Own
modules: {separator: !ref <separator>}
checkpointer: !new:custom_modules.checkpoints.AtomicCheckpointer
    checkpoints_dir: save
"""

OWN_CODE = """
import torch

class Own(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.ones(1))

    def forward(self, mixture):
        return {"estimates": self.gain * mixture}["estimate"]
"""


def test_a_bug_in_one_s_own_model_keeps_its_traceback(corpus, tmp_path, monkeypatch):
    (tmp_path / "own.yaml").write_text(OWN_MODEL)
    (tmp_path / "own_model.py").write_text(OWN_CODE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    model = importlib.import_module("own_model").Own()
    checkpointer = AtomicCheckpointer("save", {"separator": model})
    checkpointer.save_checkpoint({"si_sdr": 1.0, "epoch": 1})
    arguments = ["own.yaml", f"--data_folder={corpus}", "--noprogressbar"]
    with pytest.raises(KeyError, match="estimate") as caught:
        evaluate(*arguments, "--device=cpu", "--metrics=", "--workers=0")
    assert caught.traceback[-1].path.name == "own_model.py"
    assert caught.traceback[-1].name == "forward"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.yaml"], "nowhere.yaml: cannot be read"),
        (["tests"], "holds no hyperparams.yaml"),
        (["hparams/dprnn.yaml", "--data_folder=x"], "no checkpoint to test; train"),
        (["hparams/dprnn.yaml", "--data_folder=x", "--variants"], "--variants"),
        (["hparams/dprnn.yaml", "--variants=SER,XX"], "choose one or more of SER"),
        (["--compare", "tests", "hparams"], "run evaluate.py first"),
        (["--compare", "tests", "tests/../tests"], "one is named twice"),
    ],
)
def test_mistakes_end_in_one_line(tmp_path, capsys, arguments, message):
    out = tmp_path / "out"
    assert_refused(capsys, message, *arguments, f"--output_folder={out}")
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--output_folder=README.md/x", "README.md"),
        ("--data_folder=nowhere", "nowhere"),
        ("--kernel_size=7 --output_folder=nowhere", "does not fit this model"),
    ],
)
def test_mistakes_found_later_end_in_one_line_too(trained, capsys, options, message):
    before = {*trained.rglob("*")}
    assert_refused(capsys, message, trained, *options.split())
    assert {*trained.rglob("*")} == before
    assert not (ROOT / "nowhere").exists()


def test_more_processes_than_gpus_are_refused(trained, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, "1")
    assert_refused(capsys, "at most one process per GPU (1 here)", trained)


def test_another_size_does_not_fit_the_checkpoint(trained, corpus, capsys):
    options = [f"--data_folder={corpus}", f"--output_folder={trained}", "--device=cpu"]
    arguments = ["hparams/convtasnet.yaml", *options, *TINY["convtasnet"].split()]
    assert_refused(capsys, "was trained with 16, and stays so", *arguments, "--kernel_size=8")


def assert_refused(capsys, message, *arguments):
    with pytest.raises(SystemExit) as exited:
        evaluate(*arguments)
    assert exited.value.code == 2
    errors = capsys.readouterr().err
    (line,) = [x for x in errors.splitlines() if x.startswith("error: ")]
    assert message in line


def test_help_lists_its_own_options_and_the_file_s(capsys):
    evaluate("hparams/dprnn.yaml", "--help")
    words = capsys.readouterr().out
    for word in ("evaluate.py --compare", "--no_pesq", "test_metrics:", "--device"):
        assert word in words, word
