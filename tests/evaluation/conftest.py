"""A test set of four mixtures, and models whose scores are known."""

import pytest
import torch

from custom_modules.dataio import Manifest, MixtureDataset
from custom_modules.evaluation.loading import Model
from custom_modules.mmipc import VARIANTS
from polsess_prepare import prepare_polsess
from tests.manifest.tiny_corpus import TinyCorpus


@pytest.fixture(scope="session")
def manifest(tmp_path_factory):
    root = tmp_path_factory.mktemp("evaluation") / "Tiny"
    corpus = TinyCorpus(root, frames=4800)
    for number, environment in enumerate(("indoor", "indoor", "outdoor", "indoor")):
        corpus.add("test", f"test_{number}", environment)
    corpus.write_tables()
    prepare_polsess(root, root / "manifests", subsets=["test"], workers=1)
    return Manifest(root / "manifests" / "test.json", {"data_root": str(root)})


@pytest.fixture
def test_set(manifest):
    def make(task="SB", variants=VARIANTS, **options):
        return MixtureDataset(manifest, variants, task, seed=0, draw=False, **options)

    return make


class Blur(torch.nn.Module):
    """Two estimates that depend on the whole of the mixture, as a model's do."""

    def __init__(self, sources=2):
        super().__init__()
        self.eps = 1e-8
        self.layer = torch.nn.Conv1d(1, sources, 31, padding=15, bias=False)
        generator = torch.Generator().manual_seed(1)
        torch.nn.init.normal_(self.layer.weight, generator=generator)

    def forward(self, mixture):
        mixture = mixture / (mixture.std(1, keepdim=True) + self.eps)
        return torch.tanh(self.layer(mixture[:, None])).transpose(1, 2)


@pytest.fixture
def blur():
    def make(sources=2):
        module = Blur(sources)
        return Model(module, module, 8000)

    return make
