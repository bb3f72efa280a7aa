"""The files of an evaluation say the same, whatever one opens."""

import json

import pandas as pd
import pytest
import torch

from custom_modules.errors import InputError
from custom_modules.evaluation.runner import Scope
from custom_modules.evaluation.testing import evaluate_model, scope_of_training
from custom_modules.markdown import number

FACTS = {"model_name": "blur", "task": "SB", "sample_rate": 8000, "seed": 7}


def evaluate(model, dataset, folder, size=8, **options):
    scope = Scope(("sdr",), size, workers=0, progressbar=False)
    output = options.pop("output", None)
    checkpoint = options.pop("checkpoint", "epoch 3")
    facts = FACTS | options
    evaluate_model(model, dataset, folder, scope, facts, "test", checkpoint, output)


def test_everything_is_there_and_agrees(tmp_path, blur, test_set, capsys):
    evaluate(blur(), test_set(), tmp_path, output=tmp_path / "more" / "rows.csv")
    rows = pd.read_csv(tmp_path / "test_results.csv")
    assert (tmp_path / "more" / "rows.csv").read_bytes() == (
        tmp_path / "test_results.csv"
    ).read_bytes()
    summary = pd.read_csv(tmp_path / "test_summary.csv")
    whole = summary[(summary.group == "all") & (summary.metric == "si_sdri")]
    whole = whole.set_index("variant")["mean"]
    by_hand = rows[rows.variant == "SER"].groupby("id").si_sdri.mean().mean()
    assert abs(whole["SER"] - by_hand) < 1e-4
    text = (tmp_path / "test_summary.md").read_text()
    table = text.split("\n\n")[1]
    assert table in capsys.readouterr().out
    line = next(x for x in table.splitlines() if x.startswith("| SER "))
    assert number(by_hand, 2) in line
    for fact in ("Seed: 7", "epoch 3", "torch 2", "Device: cpu", "Command: `python"):
        assert fact in text
    record = json.loads((tmp_path / "test_run.json").read_text())
    assert record["model_name"] == "blur"
    assert record["scored_in_this_run"] == 19
    for name in ("results", "metrics", "distribution", "in_out"):
        assert (tmp_path / f"test_{name}.png").read_bytes()[:4] == b"\x89PNG"


def test_tables_are_without_folders_of_this_machine(tmp_path, blur, test_set, monkeypatch):
    corpus, out = tmp_path / "my corpora" / "Mini", tmp_path / "out"
    arguments = ["results/a", f"--data_folder={corpus}", f"--output_folder={out}"]
    monkeypatch.setattr("sys.argv", [str(tmp_path / "evaluate.py"), *arguments])
    facts = {"data_folder": str(corpus), "checkpoint": f"exported, {tmp_path}/model"}
    evaluate(blur(), test_set(), out, **facts)
    text = (out / "test_summary.md").read_text()
    for line in (
        '- Command: `python …/evaluate.py results/a "--data_folder=…/Mini" --output_folder=…/out`',
        "- Corpus: Mini",
        "- Checkpoint: exported, …/model",
    ):
        assert line in text.splitlines()
    assert str(tmp_path) not in text
    record = json.loads((out / "test_run.json").read_text())
    assert record["data_folder"] == str(corpus)
    assert f'"--data_folder={corpus}"' in record["command"]


OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")


@pytest.mark.parametrize(
    ("error", "device", "size", "remedy"),
    [
        (OUT_OF_MEMORY, "cuda", 6, "batches were of 6: use --batch_size=3"),
        (OUT_OF_MEMORY, "cuda", 1, "--eval_precision=bf16, or --device=cpu"),
        (RuntimeError("can't allocate memory: 9 bytes"), "cpu", 8, "taskset -c 0"),
        (MemoryError("Unable to allocate 9 GiB"), "cpu", 8, "taskset -c 0"),
        (RuntimeError("Connection closed by peer [::1]"), "cpu", 8, "the same command"),
    ],
)
def test_what_ends_a_test_is_said_in_one_line(
    tmp_path, blur, test_set, monkeypatch, error, device, size, remedy
):
    def fail(*arguments):
        raise error

    monkeypatch.setattr("custom_modules.evaluation.testing.score_test_set", fail)
    model = blur()
    model.device = torch.device(device)
    with pytest.raises(InputError) as caught:
        evaluate(model, test_set(), tmp_path, size=size)
    assert remedy in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("output", "message"), [("file/rows.csv", "file: cannot be written"), ("folder", "is a folder")]
)
def test_where_rows_cannot_be_written_nothing_is_scored(
    tmp_path, blur, test_set, monkeypatch, output, message
):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    monkeypatch.setattr(
        "custom_modules.evaluation.testing.score_test_set",
        lambda *arguments: pytest.fail("it was scored"),
    )
    with pytest.raises(InputError, match=message):
        evaluate(blur(), test_set(), tmp_path / "out", output=tmp_path / output)


def test_a_bug_is_no_want_of_memory(tmp_path, blur, test_set, monkeypatch):
    model = blur()
    monkeypatch.setattr(model, "estimate", lambda mixture: mixture @ mixture)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        evaluate(model, test_set(), tmp_path)


def test_training_says_what_is_tested_and_how():
    hparams = {"test_metrics": ["sdr"], "test_batch_size": 4, "save_audio": 3}
    scope = scope_of_training(hparams, progressbar=False)
    assert scope == Scope(("sdr",), 4, "--test_batch_size", save_audio=3)._replace(
        progressbar=False
    )
    for wrong in ({"test_batch_size": 0}, {"test_batch_size": None}, {"save_audio": -1}):
        (name,) = wrong
        with pytest.raises(InputError, match=f"--{name}"):
            scope_of_training(hparams | wrong, progressbar=False)
