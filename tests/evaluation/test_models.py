"""The model on its device, and how one is told from another."""

import torch

from custom_modules.evaluation.loading import Model
from tests.evaluation.conftest import Blur


def test_lanes_give_what_one_pass_gives_in_order(monkeypatch, blur):
    model = blur()
    monkeypatch.setattr(Model, "lanes", 3)
    mixtures = torch.randn(10, 1, 500, generator=torch.Generator().manual_seed(1))
    found = list(model.separate_all(enumerate(mixtures)))
    assert [what for what, _ in found] == list(range(10))
    with torch.inference_mode():
        for mixture, (_, estimates) in zip(mixtures, found, strict=True):
            assert torch.equal(estimates, model.modules(mixture))
            assert not estimates.requires_grad


def test_bfloat16_is_autocast_and_comes_back_as_float32():
    module = Blur()
    mixture = torch.randn(1, 500)
    exact, rough = (
        next(iter(Model(module, module, 8000, dtype=d).separate_all([(0, mixture)])))[1]
        for d in (torch.float32, torch.bfloat16)
    )
    assert rough.dtype == torch.float32
    assert 0 < (exact - rough).abs().max() < 0.1


def test_a_fingerprint_tells_parameters_and_settings():
    first, same, other, setting = (Blur() for _ in range(4))
    with torch.no_grad():
        other.layer.weight[0] += 1e-6
    setting.eps = 1e-4
    prints = [Model(m, m, 8000).fingerprint() for m in (first, same, other, setting)]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3
