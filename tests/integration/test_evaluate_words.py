"""Words by the commands themselves, of a real recogniser with random weights."""

import json
import os
import signal

import pandas as pd
import pytest

from polsess_prepare import prepare_polsess
from tests.integration.forked import Forked, run_two
from tests.integration.test_evaluate_command import (
    EVALUATE,
    ROOT,
    assert_refused,
    evaluate,
    wait_for_lines,
)
from tests.integration.training import TRAIN, arguments, error_line, run, tiny_corpus
from tests.recognition import tiny_models

EPOCHS = 3


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    return f"transformers:{tiny_models.wav2vec2(tmp_path_factory.mktemp('asr') / 'ctc')}"


@pytest.fixture(scope="module")
def spoken(tmp_path_factory):
    """A corpus's folder, and beside it manifests whose mixtures have their texts."""
    folder = tmp_path_factory.mktemp("spoken")
    corpus = tiny_corpus(folder, train=2, valid=3, test=5)
    prepare_polsess(corpus, folder / "manifests", workers=1)
    for subset in ("val", "test"):
        path = folder / "manifests" / f"{subset}.json"
        entries = json.loads(path.read_text())
        for number, entry in enumerate(entries.values()):
            entry |= {"text1": f"ala ma {number} koty", "text2": 'dwa "psy", Ś'}
        path.write_text(json.dumps(entries))
    return corpus


def manifests(spoken):
    return ["--skip_prep=True", f"--manifest_folder={spoken.parent / 'manifests'}"]


@pytest.fixture(scope="module")
def trained(spoken, spec, tmp_path_factory):
    folder = tmp_path_factory.mktemp("results") / "tiny"
    options = [f"--valid_recogniser={spec}", "--valid_recogniser_every=2", "--best=wer"]
    options += [f"--test_recogniser={spec}", "--test_metrics=[]", f"--number_of_epochs={EPOCHS}"]
    done = run(TRAIN, *arguments(spoken, folder, *manifests(spoken), *options))
    assert done.returncode == 0, done.stderr
    return folder


def test_a_training_counts_words_and_goes_by_them(trained):
    history = pd.read_csv(trained / "history.csv")
    assert list(history.valid_wer.notna()) == [False, True, False]
    assert f"valid wer: {history.valid_wer[1]:.2f}" in (trained / "train_log.txt").read_text()
    assert json.loads((trained / "test_run.json").read_text())["checkpoint"] == "epoch 2"
    table = pd.read_csv(trained / "test_words.csv")
    assert {"targets", "oracle", "mixture", "model", "model_gated"} <= set(table.arm)
    words = table[(table.variant == "C") & (table.group == "all")].length
    assert set(words) == {5 * (4 + 3)}


def test_killed_in_the_middle_it_goes_on_in_two_processes(trained, spoken, spec, tmp_path):
    command = [EVALUATE, trained, f"--output_folder={tmp_path}", *manifests(spoken)]
    command += ["--metrics=", "--noprogressbar", "--workers=0", f"--recogniser={spec}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    process = Forked(command, environment)
    wait_for_lines(tmp_path / "test_scores", process)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    done = run_two(command, environment)
    assert done.returncode == 0, done.stderr
    for name in ("test_words.csv", "words/counts.csv", "words/model.json"):
        assert (tmp_path / name).read_bytes() == (trained / name).read_bytes()


def test_without_texts_and_with_a_wrong_spec_it_is_one_line(
    trained, spoken, spec, tmp_path, capsys
):
    folder = f"--output_folder={tmp_path / 'out'}"
    plain = [trained, folder, f"--data_folder={spoken}", "--metrics=", "--workers=0"]
    plain += ["--skip_prep=False", "--noprogressbar"]
    assert_refused(capsys, "use --pseudo_references", *plain, f"--recogniser={spec}")
    assert_refused(capsys, "no such folder", *plain, "--recogniser=mini:nowhere")
    assert not (tmp_path / "out" / "test_results.csv").exists()
    evaluate(*plain, f"--recogniser={spec}", "--pseudo_references", "--observation_db=-6")
    page = (tmp_path / "out" / "test_summary.md").read_text()
    assert "- Observation: the mixture at -6 dB in each output" in page
    assert "**Against pseudo-references**" in page


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--valid_recogniser=whisper:nowhere/x/y", "no such folder"),
        ("--best=wer", "set --valid_recogniser, too"),
        ("--valid_recogniser_every=0 --valid_recogniser=mini:tests", "must be a whole number"),
        ("--test_recogniser=whisper:base", "no mixture has its texts"),
    ],
)
def test_a_training_refuses_before_it_begins(spoken, tmp_path, options, message):
    done = run(TRAIN, *arguments(spoken, tmp_path / "out", *options.split()))
    assert done.returncode == 2
    assert message in error_line(done)
    assert not (tmp_path / "out" / "save").exists()
