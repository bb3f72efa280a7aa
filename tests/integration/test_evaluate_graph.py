"""evaluate.py on what onnxruntime runs: the scores of PyTorch, and what is refused."""

import json

import pandas as pd
import pytest
import torch

from custom_modules.errors import InputError
from custom_modules.evaluation.loading import find_model
from custom_modules.hub.card import CardFacts
from custom_modules.hub.folder import write_folder
from custom_modules.hub.recipe import ModelRecipe
from tests.integration.test_evaluate_command import evaluate
from tests.integration.training import tiny_corpus
from tests.models.contract import HPARAMS

pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    torch.manual_seed(0)
    overrides = {"data_folder": "none", "N": 16, "num_layers": 1, "hidden_size": 8}
    recipe = ModelRecipe(str(HPARAMS / "dprnn.yaml"), {**overrides, "chunk_size": 20})
    path, facts = tmp_path_factory.mktemp("exported") / "dprnn", CardFacts({}, source="owner/dprnn")
    write_folder(path, recipe, recipe.make_separator(), facts, graphs=("onnx", "onnx-int8"))
    return path


def test_a_graph_scores_as_its_model_and_one_of_eight_bits_nearly(exported, tmp_path):
    corpus = tiny_corpus(tmp_path, train=1, valid=1, test=3)
    scores = {}
    for runtime in ("torch", "onnx", "onnx-int8"):
        folder = tmp_path / runtime
        options = [f"--data_folder={corpus}", f"--output_folder={folder}", "--metrics="]
        options += ["--workers=0", "--noprogressbar", f"--runtime={runtime}"]
        evaluate(exported, *options)
        scores[runtime] = pd.read_csv(folder / "test_results.csv").si_sdr
        checkpoint = json.loads((folder / "test_run.json").read_text())["checkpoint"]
        assert checkpoint.endswith("/dprnn" if runtime == "torch" else f"/dprnn, {runtime}")
    assert (scores["onnx"] - scores["torch"]).abs().max() < 1e-2
    apart = (scores["onnx-int8"] - scores["torch"]).abs()
    assert apart.max() > 0
    assert apart.mean() < 1
    folders = [tmp_path / runtime for runtime in scores if runtime != "onnx"]
    evaluate("--compare", *folders, f"--output_folder={tmp_path / 'compared'}")
    assert "onnx-int8" in (tmp_path / "compared" / "comparison.md").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device=meta"], "cannot use device meta, only cpu"),
        (["--eval_precision=bf16"], "cannot use precision bf16, only fp32"),
    ],
)
def test_graphs_run_on_cpus_in_float32(exported, options, message):
    found = find_model([str(exported), "--data_folder=x", *options], "onnx")
    with pytest.raises(InputError, match=message):
        found.load()


def test_without_a_graph_it_is_one_line(exported, tmp_path):
    (tmp_path / "hyperparams.yaml").write_bytes((exported / "hyperparams.yaml").read_bytes())
    with pytest.raises(InputError, match=r"export\.py … --onnx --quantize int8 writes it"):
        find_model([str(tmp_path), "--data_folder=x"], "onnx-int8")
    with pytest.raises(InputError, match=r"--runtime=onnx: .* is of a training; name an exported"):
        find_model([str(HPARAMS / "dprnn.yaml"), "--data_folder=x"], "onnx")
