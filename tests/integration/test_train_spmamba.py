"""SPMamba through the training command, as its hparams file says."""

from pathlib import Path

import pandas as pd
import pytest

from custom_modules.hparams import load_hparams
from tests.integration import training
from tests.manifest.tiny_corpus import TinyCorpus

ROOT = Path(__file__).parents[2]
TINY = "--n_fft=32 --stride=16 --n_layers=1 --emb_dim=4 --qk_dim=17 --segment_seconds=0.1"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    corpus = TinyCorpus(tmp_path_factory.mktemp("data") / "Tiny", frames=1600)
    for subset in ("train", "val", "test"):
        for row, environment in enumerate(("indoor", "outdoor", "indoor")):
            corpus.add(subset, f"{subset}_{row}", environment)
    corpus.write_tables()
    return corpus.root


def run(corpus, folder, *more):
    command = ["recipes/separation/train.py", "hparams/spmamba.yaml"]
    options = [f"--data_folder={corpus}", f"--output_folder={folder}", *TINY.split()]
    return training.run(*command, *options, "--num_workers=0", "--noprogressbar", *more)


def train(corpus, folder, *more):
    done = run(corpus, folder, *more)
    assert done.returncode == 0, done.stderr


def test_debug_run(corpus, tmp_path):
    options = ["--debug", "--task=EB", "--precision=bf16", "--checkpoint_blocks=True"]
    train(corpus, tmp_path, *options)
    results = pd.read_csv(tmp_path / "debug" / "test_results.csv")
    assert results.source.max() == 1
    assert results.si_sdr.notna().all()
    assert (results.si_sdri.isna() == (results.variant == "C")).all()  # it is the target
    log = (tmp_path / "debug" / "log.txt").read_text()
    assert log.count("selective scan: backend") == 1


def test_a_second_command_goes_on_where_the_first_stopped(corpus, tmp_path):
    train(corpus, tmp_path, "--number_of_epochs=1")
    train(corpus, tmp_path, "--number_of_epochs=2")
    log = (tmp_path / "train_log.txt").read_text()
    assert log.count("epoch: 1,") == log.count("epoch: 2,") == 1


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--scan_backend=cuda", "no selective scan backend 'cuda'"),
        ("--scan_backend=triton", "triton needs tensors on a CUDA device, not cpu"),
        ("--n_head=3", "--n_head=3: must divide emb_dim=4"),
    ],
)
def test_mistakes_end_in_one_line(corpus, tmp_path, option, message):
    done = run(corpus, tmp_path, option)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last


@pytest.fixture
def load(tmp_path, monkeypatch):
    monkeypatch.delenv("POLSESS_DATA_ROOT", raising=False)

    def load(**overrides):
        folders = {"data_folder": "corpus", "output_folder": str(tmp_path)}
        return load_hparams(f"{ROOT}/hparams/spmamba.yaml", folders | overrides)

    return load


def parameter_count(hparams):
    return sum(p.numel() for p in hparams["separator"].parameters())


def test_sizes_are_the_published_ones(load):
    assert parameter_count(load()) == 1_156_368
    paper = {"n_layers": 6, "n_head": 4, "qk_dim": 512}
    assert parameter_count(load(**paper)) == 1_773_730
    assert parameter_count(load(**paper, emb_ks=8)) == 6_094_498


def test_settings_are_the_published_ones(load):
    hparams = load()
    scheduler = hparams["lr_scheduler"]
    numbers = (hparams["lr"], hparams["batch_size"], hparams["number_of_epochs"])
    assert (*numbers, scheduler.factor, scheduler.patience) == (1e-3, 1, 30, 0.5, 2)
    assert hparams["max_grad_norm"] == 5
    assert hparams["precision"] == "fp32"
    assert hparams["valid_variants"] == ["SER", "SE"]


def test_weight_decay_spares_what_is_marked(load):
    hparams = load(weight_decay=0.1, n_layers=1)
    named = list(hparams["separator"].named_parameters())
    optimizer = hparams["opt_class"]([p for _, p in named])
    decays = {
        id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]
    }
    spared = {name.split(".")[-1] for name, p in named if decays[id(p)] == 0}
    assert spared == {"A_log", "D"}
