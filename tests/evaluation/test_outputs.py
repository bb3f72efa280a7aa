"""The files of an evaluation say the same, whatever one opens."""

import json

import pandas as pd
import torch

from custom_modules.evaluation.evaluate import evaluate_model
from custom_modules.evaluation.record import evaluation_key
from custom_modules.evaluation.runner import Scope
from custom_modules.evaluation.tables import number

FACTS = {"model_name": "blur", "task": "SB", "sample_rate": 8000, "seed": 7}


def evaluate(model, dataset, folder, **options):
    scope = Scope(("sdr",), workers=0, progressbar=False)
    evaluate_model(
        model,
        dataset,
        folder,
        scope,
        split="test",
        checkpoint="epoch 3",
        **FACTS | options,
    )


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
    for name in ("test_results", "test_distribution", "test_in_out"):
        assert (tmp_path / f"{name}.png").read_bytes()[:4] == b"\x89PNG"


def test_scores_of_another_model_or_test_set_are_never_taken(blur, test_set):
    other, scale = blur(), blur()
    with torch.no_grad():
        other.modules.layer.weight *= -0.7
    scale.modules.eps = 1e-4
    keys = {
        evaluation_key(model, dataset, split)
        for model, dataset, split in [
            (blur(), test_set(), "test"),
            (blur(), test_set(variants="SER", max_samples=1), "test"),  # the same
            (blur(), test_set(), "val"),
            (blur(), test_set("ES"), "test"),
            (other, test_set(), "test"),
            (scale, test_set(), "test"),
        ]
    }
    assert len(keys) == 5
