"""Training in this process, for all tests of this folder that have no other."""

import sys

import pandas as pd
import pytest

from tests.integration.training import ROOT, arguments, load_script, tiny_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny_corpus(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def script():
    return load_script("train")


@pytest.fixture
def train(corpus, script, monkeypatch):
    """Trains in this process, which saves the seconds that an import takes."""
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("POLSESS_DATA_ROOT", raising=False)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    # Pictures take seconds.
    monkeypatch.setattr(script, "plot_training", lambda *args: None)

    def train(folder, *more, **options):
        if "--debug" in more:
            script.main(arguments(corpus, folder, *more, **options))
            folder = folder / "debug"
        else:
            more = (*more, "--test_after_training=False")
            script.main(arguments(corpus, folder, *more, **options))
        return pd.read_csv(folder / "history.csv")

    return train
