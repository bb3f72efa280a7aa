"""The command that tests the chain: its files, its reruns, its comparison, its refusals."""

import importlib.util
from pathlib import Path

import pandas as pd
import pytest

from custom_modules.errors import exit_cleanly
from tests.integration.generating import HPARAMS
from tests.integration.generating import run as generate
from tests.integration.test_separate_command import OLD
from tests.integration.test_separate_command import call as separation

ROOT = Path(__file__).parents[2]


def call(*arguments):
    path = ROOT / "recipes" / "conversation" / "evaluate.py"
    spec = importlib.util.spec_from_file_location("evaluate_conversations", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with exit_cleanly():
        module.main([str(a) for a in arguments])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A small model, and two short conversations."""
    folder = tmp_path_factory.mktemp("place")
    separation("import_checkpoint", OLD, folder / "model")
    options = ["--n_test=2", "--minutes=0.2", "--voices=2", "--workers=1"]
    options += ["--scene_recordings=1", "--seconds_per_voice=10", "--overlap_share=0.2"]
    generate([HPARAMS / "mini_conversations.yaml", f"--output_folder={folder / 'data'}", *options])
    return folder


def evaluate(place, name, *more):
    options = ["--activity", "energy", "--num_speakers", "true", "--arms", "overlaps,none"]
    call(
        place / "model",
        "--data_folder",
        place / "data",
        "--output_folder",
        place / name,
        *options,
        *more,
    )


def test_results_are_written_kept_and_compared(place, capsys, monkeypatch):
    evaluate(place, "first")
    printed = capsys.readouterr().out
    summary = pd.read_csv(place / "first" / "conversation_summary.csv")
    assert list(summary) == ["arm", "metric", "value", "low", "high", "n"]
    assert list(dict.fromkeys(summary.arm)) == ["overlaps", "none"]
    assert {"der", "leakage", "si_sdr"} <= set(summary.metric)
    assert "cpwer" not in set(summary.metric) and set(summary.n) == {2}
    page = (place / "first" / "conversation_summary.md").read_text()
    assert "words are not scored" in page and str(place) not in page
    assert "leakage" in printed and "conversation_summary.png" in printed
    stored = place / "first" / "none" / "test_00000.scores.json"
    changed = stored.stat().st_mtime_ns
    evaluate(place, "first")
    assert stored.stat().st_mtime_ns == changed  # nothing was made again
    evaluate(place, "second", "--context_seconds", "1")
    call("--compare", place / "first", place / "second", "--output_folder", place / "both")
    table = pd.read_csv(place / "both" / "conversation_comparison.csv")
    assert set(table.model) == {str(place / "first"), str(place / "second")}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "name a MODEL"),
        (["model"], "--data_folder"),
        (["model", "--data_folder", "nowhere"], "nowhere: no such folder"),
        (["model", "--data_folder", "x", "--arms", "most"], "'most' is none of overlaps"),
        (["model", "--data_folder", "x", "--num_speakers", "few"], "neither auto, true"),
        (["--compare", "nowhere", "here"], "cannot be read"),
    ],
)
def test_bad_options_are_one_line(options, words, capsys):
    with pytest.raises(SystemExit) as stop:
        call(*options)
    assert stop.value.code == 2
    error = capsys.readouterr().err.strip()
    assert words in error and "\n" not in error
