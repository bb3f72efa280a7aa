"""The README's commands for Libri2Mix, on three mixtures of each subset."""

import json
import shlex
import sys

import pandas as pd
import pytest

from custom_modules.dataio import Manifest, MixtureDataset
from custom_modules.evaluation.loading import Model
from custom_modules.manifest.librimix import prepare_librimix
from custom_modules.mmipc import VARIANTS
from tests.evaluation.conftest import Blur
from tests.integration.training import ROOT, TINY, load_script
from tests.manifest.test_librimix import make


def commands():
    """Script and arguments of each command in the README's block."""
    blocks = (ROOT / "README.md").read_text().split("```")[1::2]
    (block,) = [text for text in blocks if "librimix_prepare.py --data" in text]
    lines = block.replace("\\\n", " ").strip().splitlines()
    return [shlex.split(line)[1:] for line in lines]


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """Libri2Mix where the README has it."""
    make(tmp_path / "Libri2Mix", subsets=("train-100", "dev", "test"))
    (tmp_path / "hparams").symlink_to(ROOT / "hparams")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("POLSESS_DATA_ROOT", raising=False)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    return tmp_path


def test_it_is_prepared_trained_on_and_tested(corpus, monkeypatch):
    prepare, evaluate, train = commands()
    names = [command[0].rpartition("/")[2] for command in (prepare, evaluate, train)]
    assert names == ["librimix_prepare.py", "evaluate.py", "train.py"]
    load_script("librimix_prepare").main([*prepare[1:], "--train_set=train-100"])

    tiny = [*TINY["dprnn"].split(), "--number_of_epochs=1", "--batch_size=2"]
    tiny += ["--num_workers=0", "--noprogressbar", "--device=cpu"]
    script = load_script("train")
    monkeypatch.setattr(script, "plot_training", lambda *args: None)  # takes seconds
    script.main([*train[1:], *tiny])
    results = corpus / "results" / "dprnn_libri2mix" / "42"
    rows = pd.read_csv(results / "test_results.csv")
    assert rows.groupby("variant").size().to_dict() == {"C": 6, "S": 6}
    assert rows.si_sdri.notna().all()
    assert len(pd.read_csv(results / "history.csv")) == 1

    # Any model will do for the one that was trained on PolSESS.
    (results.parent.parent / "dprnn").symlink_to(results.parent)
    before = (results / "test_results.csv").read_bytes()
    options = ["--workers=0", "--noprogressbar", "--device=cpu"]
    load_script("evaluate").main([*evaluate[1:], *options])
    assert (results / "test_results.csv").read_bytes() == before
    record = json.loads((results / "test_run.json").read_text())
    assert record["scored_in_this_run"] == 0


@pytest.mark.filterwarnings("ignore:Not enough STFT frames")  # pystoi's, of 0.1 s
def test_the_benchmark_takes_the_variants_that_there_are(corpus, monkeypatch):
    prepare_librimix("Libri2Mix", "m", workers=1)
    manifest = Manifest("m/test.json", {"data_root": "Libri2Mix"})
    dataset = MixtureDataset(manifest, VARIANTS, "SB", seed=0, draw=False)
    monkeypatch.syspath_prepend(ROOT / "recipes/benchmark")
    benchmark = load_script("evaluation", folder="benchmark")
    assert benchmark.variants_in(dataset) == ["C", "S"]
    module = Blur()
    scores = benchmark.simple_loop(Model(module, module, 8000), dataset)
    assert len([score for score in scores if score is None]) == 2 * 3 * 4  # PESQ
