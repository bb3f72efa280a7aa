"""Mamba against recorded results, and what its initialisation must be."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from custom_modules.models.mamba import (
    BidirectionalMamba,
    Mamba,
    Projection,
    adam,
    convolve_causally,
)
from custom_modules.selective_scan import backends
from tests.models.contract import relative_error

DATA = Path(__file__).parent.parent / "data"


def load(name):
    return torch.load(DATA / f"{name}.pt", weights_only=True)


@pytest.mark.parametrize("backend", ["eager", "numba", "reference"])
def test_recorded_output_and_gradients_are_reproduced(backend):
    golden = load("mamba_block")
    mamba = Mamba(**golden["config"], scan_backend=backend)
    mamba.load_state_dict(golden["state_dict"])
    x = golden["input"].requires_grad_()
    output = mamba(x)
    assert relative_error(output, golden["output"]) < 1e-5
    output.square().sum().backward()
    assert relative_error(x.grad, golden["grad_input"]) < 1e-5
    for name, parameter in mamba.named_parameters():
        assert relative_error(parameter.grad, golden["grads"][name]) < 1e-5, name


@pytest.mark.parametrize("backend", ["eager", "numba"])
def test_recorded_bidirectional_block_is_reproduced(backend):
    golden = load("mamba_bidir_block")
    channels = golden["config"]["in_channels"]
    block = BidirectionalMamba(channels, expand=4, scan_backend=backend)
    state = {k.replace("blocks.0", "block"): v for k, v in golden["state_dict"].items()}
    block.load_state_dict(state)
    x = golden["input"].requires_grad_()
    output = block(x)
    assert relative_error(output, golden["output"]) < 1e-5
    output.square().sum().backward()
    assert relative_error(x.grad, golden["grad_input"]) < 1e-5
    for name, parameter in block.named_parameters():
        norm = golden["grad_norms"][name.replace("block.", "blocks.0.")]
        assert parameter.grad.norm().item() == pytest.approx(norm, rel=1e-5), name


def test_initial_step_sizes_are_small():
    """softplus of dt_proj's bias is log-uniform from 0.001 to 0.1."""
    torch.manual_seed(0)
    steps = F.softplus(Mamba(256).dt_proj.bias)
    assert 0.001 <= steps.min() < 0.0013
    assert 0.08 < steps.max() <= 0.1001
    # A logarithm that is uniform has its median at the geometric mean.
    assert steps.median().item() == pytest.approx(0.01, rel=0.3)


def test_initialisation_is_that_of_the_reference():
    golden = load("mamba_block")
    torch.manual_seed(0)
    mamba = Mamba(**golden["config"])
    for name, parameter in mamba.named_parameters():
        expected = golden["init_stats"][name]
        values = parameter.detach()
        assert tuple(values.shape) == tuple(expected["shape"]), name
        spread = expected["max"] - expected["min"]
        # Means and extremes of some hundred draws differ by a little.
        assert abs(values.mean().item() - expected["mean"]) <= 0.06 * spread, name
        assert abs(values.min().item() - expected["min"]) <= 0.06 * spread, name
        assert abs(values.max().item() - expected["max"]) <= 0.06 * spread, name


def test_initial_rates_count_up():
    rates = Mamba(4, d_state=5).A_log.exp()
    torch.testing.assert_close(rates, torch.arange(1.0, 6).expand(8, 5))


def test_constant_step_projection_and_no_other():
    weight = Mamba(32, dt_init="constant", dt_scale=3.0).dt_proj.weight
    torch.testing.assert_close(weight, torch.full_like(weight, 3 / 2**0.5))
    with pytest.raises(ValueError, match="'zeros'"):
        Mamba(32, dt_init="zeros")


def test_the_authors_marks_are_kept():
    mamba = Mamba(4)
    undecayed = {
        name
        for name, parameter in mamba.named_parameters()
        if getattr(parameter, "_no_weight_decay", False)
    }
    assert undecayed == {"A_log", "D"}
    assert mamba.dt_proj.bias._no_reinit


@pytest.mark.parametrize("conv_bias", [True, False])
@pytest.mark.parametrize("time", [1, 2, 3, 30])
def test_convolution_is_the_causal_one(time, conv_bias):
    mamba = Mamba(4, conv_bias=conv_bias)
    x = torch.randn(3, time, 8)
    expected = mamba.conv1d(x.transpose(1, 2))[:, :, :time].transpose(1, 2)
    torch.testing.assert_close(convolve_causally(x, mamba.conv1d), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("batch, time", [(3, 30), (1, 30), (5, 1), (1, 1), (40, 200)])
def test_projection_is_a_linear_layer(batch, time, has_bias, dtype):
    projection = Projection(12, 9, bias=has_bias, dtype=dtype)
    linear = torch.nn.Linear(12, 9, bias=has_bias, dtype=torch.float64)
    linear.load_state_dict(projection.state_dict())
    signal = torch.randn(batch, time, 20, dtype=dtype)[..., 5:17]  # with gaps
    weights = torch.rand(batch, time, 9, dtype=dtype)
    found = []
    for layer in (projection, linear):
        x = signal.to(layer.weight.dtype).detach().requires_grad_()
        output = layer(x)
        grads = torch.autograd.grad((output * weights).sum(), (x, *layer.parameters()))
        found.append((output, *grads))
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    for ours, exact in zip(*found, strict=True):
        assert relative_error(ours, exact) < tolerance
    if has_bias:
        found = projection(signal, bias=False).double()
        exact = linear(signal.double()) - linear.bias
        assert relative_error(found, exact) < tolerance


def test_compiled_in_one_graph_with_the_line_that_names_the_backend(caplog, monkeypatch):
    monkeypatch.setattr(backends, "_announced", set())
    caplog.set_level("INFO")
    mamba, x = Mamba(4), torch.randn(2, 9, 4)
    compiled = torch.compile(mamba, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), mamba(x))
    lines = [m for m in caplog.messages if m.startswith("selective scan: backend")]
    assert len(lines) == 1


def test_inner_channels_may_be_a_fraction_of_the_outer_ones():
    assert Mamba(4, expand=1.5).D.shape == (6,)


@pytest.mark.parametrize("shape", [(12,), (7, 12), (0, 12), (2, 3, 4, 12), (0, 5, 12)])
def test_projection_takes_what_a_linear_layer_takes(shape):
    projection, x = Projection(12, 9), torch.randn(shape)
    expected = F.linear(x, projection.weight, projection.bias)
    torch.testing.assert_close(projection(x), expected)


def test_no_step_is_refused():
    with pytest.raises(ValueError, match="one step"):
        Mamba(4)(torch.randn(2, 0, 4))


@pytest.mark.parametrize("time", [1, 2, 9])
def test_nothing_looks_ahead(time):
    mamba = Mamba(4)
    x = torch.randn(2, 20, 4)
    changed = x.clone()
    changed[:, time:] += 1
    torch.testing.assert_close(mamba(x)[:, :time], mamba(changed)[:, :time])


def test_backwards_is_forwards_reversed():
    block = BidirectionalMamba(4)
    mirrored = BidirectionalMamba(4)
    mirrored.forward_block.load_state_dict(block.backward_block.state_dict())
    mirrored.backward_block.load_state_dict(block.forward_block.state_dict())
    x = torch.randn(2, 20, 4)
    forward, backward = block(x).chunk(2, dim=2)
    found = mirrored(x.flip(1)).flip(1)
    torch.testing.assert_close(found, torch.cat([backward, forward], dim=2))


def test_autocast_gives_finite_agreeing_gradients():
    torch.manual_seed(0)
    mamba = Mamba(16)
    x = torch.randn(2, 100, 16)
    outputs, grads = [], []
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            output = mamba(x)
        outputs.append(output.float())
        found = torch.autograd.grad(output.float().square().sum(), mamba.parameters())
        grads.append(torch.cat([g.flatten() for g in found]))
    assert relative_error(outputs[1], outputs[0]) < 0.03
    assert relative_error(grads[1], grads[0]) < 0.05


def test_gradients_lie_like_their_parameters():
    """DDP warns otherwise, once in each process."""
    mamba = Mamba(8)
    mamba(torch.randn(2, 20, 8)).sum().backward()
    for name, parameter in mamba.named_parameters():
        assert parameter.grad.stride() == parameter.stride(), name


@pytest.mark.parametrize("decay_states", [False, True])
def test_states_do_not_decay_unless_asked_to(decay_states):
    mamba = Mamba(4)
    before = {name: p.detach().clone() for name, p in mamba.named_parameters()}
    optimizer = adam(mamba.parameters(), 0.01, weight_decay=1, decay_states=decay_states)
    # In groups, as SpeechBrain makes them of vectors and matrices, it is the same.
    groups = [{"params": [p for p in mamba.parameters() if (p.ndim > 1) == x]} for x in (0, 1)]
    grouped = adam(groups, 0.01, weight_decay=1, decay_states=decay_states).param_groups
    decays = {id(p): g["weight_decay"] for g in grouped for p in g["params"]}
    assert decays == {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    for parameter in mamba.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    changed = {n for n, p in mamba.named_parameters() if not torch.equal(p, before[n])}
    spared = set() if decay_states else {"A_log", "D"}
    assert changed == before.keys() - spared
