"""Costs against what can be counted by hand."""

import tempfile

import pandas as pd
import pytest
import torch
from torch import nn

from custom_modules.models.mamba import Mamba
from custom_modules.selective_scan import selective_scan
from recipes.benchmark.campaign.campaign import steps_of
from recipes.benchmark.campaign.costs import count_macs, load_model

SAMPLES = 50


class Along(nn.Module):
    """``[batch, time]`` through a layer of ``[batch, time, 1]``."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, mixture):
        return self.layer(mixture[..., None])


def test_an_lstm_has_four_gates_a_step():
    layer = nn.LSTM(1, 20, batch_first=True, bidirectional=True)
    assert count_macs(Along(layer), SAMPLES) == 2 * SAMPLES * 4 * 20 * (1 + 20)


@pytest.mark.parametrize("backend", ["eager", "numba"])
def test_the_scan_has_three_a_state_and_step(backend):
    class Scan(nn.Module):
        def __init__(self):
            super().__init__()
            self.A = nn.Parameter(-torch.ones(6, 5))

        def forward(self, mixture):
            u, B = (mixture[:, None].expand(-1, 6, -1), mixture[:, None].expand(-1, 5, -1))
            return selective_scan(u, u, self.A, B, B, backend=backend)

    assert count_macs(Scan(), SAMPLES) == 3 * 6 * 5 * SAMPLES


def test_a_mamba_is_its_projections_convolution_and_scan():
    model, inner, state, rank = 16, 32, 4, 1
    mamba = Mamba(model, d_state=state, scan_backend="eager")
    frames = nn.Sequential(nn.Unflatten(1, (SAMPLES, model)), mamba)
    step = (
        model * 2 * inner  # in_proj
        + inner * (rank + 2 * state)  # x_proj
        + rank * inner  # dt_proj
        + 3 * inner * state
        + inner * model  # out_proj
    )
    # PyTorch counts the three steps that the causal convolution is padded by, too.
    convolution = 4 * inner * (SAMPLES + 3)
    counted = count_macs(frames, SAMPLES * model)
    assert counted == SAMPLES * step + convolution


def test_a_model_is_loaded_without_data_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    hparams = load_model("hparams/small/convtasnet.yaml", ["--N=8", "--B=8", "--H=8"])
    assert hparams["separator"](torch.randn(1, 800)).shape == (1, 800, 2)
    assert not list(tmp_path.iterdir())


def test_a_budget_is_as_many_steps_as_take_it():
    costs = pd.DataFrame({"model": ["a", "b"], "step_seconds": [0.25, 700.0]})
    assert steps_of(costs, 10) == {"a": 2400, "b": 1}
