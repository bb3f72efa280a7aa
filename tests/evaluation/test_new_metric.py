"""A metric is one entry of the table, and is then wherever metrics are."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from custom_modules.evaluation import plots
from custom_modules.evaluation.comparison import compare_results
from custom_modules.evaluation.options import print_usage, scope_of, split_options
from custom_modules.evaluation.testing import evaluate_model, scope_of_training
from custom_modules.metrics import METRICS, Metric, Uncomputable, columns_of
from tests.evaluation.conftest import Blur

FACTS = {"model_name": "a", "task": "SB", "sample_rate": 8000, "seed": 1}


def crest(target, signal, sample_rate):
    """How much louder the loudest sample is than the others, in dB."""
    if len(signal) < sample_rate // 10:
        raise Uncomputable("shorter than 0.1 s")
    return 20 * np.log10(np.abs(signal).max() / signal.std())


def leak(targets, signals):
    """Correlation with each target, of all at once."""
    return np.corrcoef(targets, signals)[: len(targets), len(targets) :]


@pytest.fixture
def entries(monkeypatch):
    monkeypatch.setitem(METRICS, "crest", Metric(crest, "Crest", "dB", 1, "crest"))
    joint = Metric(leak, "Leak", "", 3, "leak", "targets", across=True)
    monkeypatch.setitem(METRICS, "leak", joint)


@pytest.fixture
def results(entries, blur, test_set, tmp_path):
    """Two results folders, as of the two ways to choose a metric."""
    options, _ = split_options(["x.yaml", "--metrics=crest,leak", "--workers=2"])
    by_option = scope_of(options, {}, progressbar=False)
    names = {"test_metrics": ["leak", "crest"], "save_audio": 0}
    by_file = scope_of_training(names, progressbar=False)._replace(workers=0)
    other = blur()
    other.modules.layer.weight = torch.nn.Parameter(-2 * Blur().layer.weight.flip(2))
    for name, model, scope in (("a", blur(), by_option), ("b", other, by_file)):
        facts = FACTS | {"model_name": name}
        evaluate_model(model, test_set(), tmp_path / name, scope, facts, "test", "1")
    return tmp_path / "a", tmp_path / "b"


def test_a_new_metric_is_an_option(entries, capsys):
    options, _ = split_options(["x.yaml", "--no_crest", "--no_pesq"])
    assert options.groups == ("sdr", "stoi", "leak")
    print_usage("Usage.", [])
    words = " ".join(capsys.readouterr().out.split())
    assert "--no_crest no Crest" in words
    assert "by default sdr,pesq,stoi,crest,leak" in words
    assert "leak" not in columns_of(("leak",), 1)  # it compares sources


def test_a_new_metric_is_in_all_that_a_test_writes(results):
    rows = pd.read_csv(results[0] / "test_results.csv")
    for name in ("crest", "leak"):
        assert rows[name].notna().all()
        for suffix in ("", "_oracle"):
            gains = (rows[f"{name}{suffix}"] - rows[f"{name}_mixture"]).round(4)
            assert np.allclose(rows[f"{name}i{suffix}"], gains, atol=1e-9)
    assert "pesq" not in rows
    summary = pd.read_csv(results[0] / "test_summary.csv")
    assert {"cresti", "leak_oracle"} < set(summary.metric)
    text = (results[0] / "test_summary.md").read_text()
    lines = [line for line in text.splitlines() if "Cresti |" in line]
    assert len(lines) >= 3 and all("Leaki" in line for line in lines)
    assert "SIR and Crest in dB" in " ".join(text.split())
    titles = [axes.get_title() for axes in plots.plot_metrics(summary, "a").axes]
    assert titles == ["SI-SDRi (dB)", "Cresti (dB)", "Leaki", ""]


def test_a_new_metric_is_stored_and_compared(results, tmp_path, capsys):
    (scores,) = (results[0] / "test_scores").glob("*.jsonl")
    records = [json.loads(line) for line in scores.read_text().splitlines()]
    assert all(set(x["scores"]) == {"si_sdr", "crest", "leak"} for x in records)
    table = compare_results([str(x) for x in results], tmp_path / "out")
    by_metric = table[table.variant == "all mixtures"].groupby("metric").size()
    assert by_metric["cresti"] == by_metric["leaki"] == 2
    text = capsys.readouterr().out
    assert any(line.startswith("| Cresti ") for line in text.splitlines())
    assert any(line.startswith("| Leaki ") for line in text.splitlines())


def test_what_a_new_metric_is_not_computed_of_is_counted(
    entries, blur, test_set, tmp_path, monkeypatch
):
    def undefined(*signals):
        return float("nan")

    entry = METRICS["crest"]._replace(function=undefined, undefined="never defined")
    monkeypatch.setitem(METRICS, "crest", entry)
    scope = scope_of_training({"test_metrics": ["crest"], "save_audio": 0}, False)
    scope = scope._replace(workers=0)
    evaluate_model(blur(), test_set(), tmp_path, scope, FACTS, "test", "1")
    rows = pd.read_csv(tmp_path / "test_results.csv")
    reasons = [f"crest{x}: never defined" for x in ("", "_mixture", "_oracle")]
    assert (rows.failures == "; ".join(reasons)).all()
    assert "crest_oracle: never defined" in (tmp_path / "test_summary.md").read_text()
