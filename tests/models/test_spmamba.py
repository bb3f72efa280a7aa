"""SPMamba against recorded outputs, and the contract that separators keep."""

from itertools import product
from pathlib import Path

import pytest
import torch

from custom_modules.models import gridnet
from custom_modules.models.gridnet import FrameAttention, GridBlock
from custom_modules.models.spmamba import SPMamba, convert_state_dict
from tests.models.contract import relative_error

DATA = Path(__file__).parent.parent / "data"
MODELS = ("spmamba_official_small", "spmamba_predecessor_small", "spmamba_predecessor_small_c1")


def load_golden(name, **options):
    golden = torch.load(DATA / f"{name}.pt", weights_only=True)
    config = golden["config"]
    names = ("n_fft", "stride", "n_layers", "emb_dim", "emb_ks", "emb_hs", "eps")
    model = SPMamba(
        config["n_srcs"],
        n_head=config["attn_n_head"],
        qk_dim=config["attn_approx_qk_dim"],
        **{key: config[key] for key in names},
        **options,
    )
    model.load_state_dict(convert_state_dict(golden["state_dict"]))
    return model, golden


def small(num_sources=2, **options):
    sizes = {"n_fft": 64, "stride": 32, "n_layers": 2, "emb_dim": 4, "qk_dim": 33}
    return SPMamba(num_sources, n_head=2, **sizes | options)


@pytest.mark.parametrize("backend", ["eager", "numba"])
@pytest.mark.parametrize("name", ["spmamba_gridnet_block", "spmamba_gridnet_block_hs2"])
def test_recorded_block_is_reproduced(name, backend):
    golden = torch.load(DATA / f"{name}.pt", weights_only=True)
    names = ("emb_dim", "emb_ks", "emb_hs", "n_freqs", "n_head", "approx_qk_dim")
    sizes = (golden["config"][key] for key in names)
    block = GridBlock(*sizes, scan_backend=backend)
    block.load_state_dict(convert_state_dict(golden["state_dict"]))
    x = golden["input"].requires_grad_()
    output = block(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    assert relative_error(output, golden["output"]) < 1e-5
    output.square().sum().backward()
    assert relative_error(x.grad, golden["grad_input"]) < 1e-5


@pytest.mark.parametrize(
    ("name", "checkpoint_blocks", "backend"),
    [(MODELS[0], False, "eager"), *product(MODELS, [False, True], ["numba"])],
)
def test_recorded_output_and_gradients_are_reproduced(name, checkpoint_blocks, backend):
    options = {"checkpoint_blocks": checkpoint_blocks, "scan_backend": backend}
    model, golden = load_golden(name, **options)
    x = golden["input"].requires_grad_()
    output = model(x)
    expected = golden["output"]
    if expected.dim() == 2:  # the predecessor drops the axis of a single source
        expected = expected.unsqueeze(1)
    assert relative_error(output.transpose(1, 2), expected) < 1e-5
    output.square().sum().backward()
    assert relative_error(x.grad, golden["grad_input"]) < 1e-5
    norms = {key: torch.tensor(float(norm)) for key, norm in golden["grad_norms"].items()}
    # Where heads are one parameter of ours, the squares of their norms add up.
    total = sum(norm**2 for norm in norms.values()).sqrt()
    found = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
    torch.testing.assert_close(found, total, rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_recorded_odd_length_is_reproduced(name):
    model, golden = load_golden(name)
    expected = golden["output_odd"].view(1, -1, golden["input_odd"].shape[1])
    output = model(golden["input_odd"]).transpose(1, 2)
    assert relative_error(output, expected) < 1e-5


@pytest.mark.parametrize("checkpoint_parts", [False, True])
def test_sequences_may_be_run_some_at_a_time(checkpoint_parts, monkeypatch):
    block = GridBlock(4, 4, 1, n_freqs=9, n_head=2, qk_dim=9)
    block.checkpoint_parts = checkpoint_parts
    results = []
    for most in (1, 100, 1 << 20):
        monkeypatch.setattr(gridnet, "CPU_POINTS", most)
        points = torch.randn(2, 11, 9, 4, generator=torch.Generator().manual_seed(0))
        output = block(points.requires_grad_())
        results.append((output, *torch.autograd.grad(output.square().sum(), points)))
    for found in results[:2]:
        for a, b in zip(found, results[2], strict=True):
            assert relative_error(a, b) < 1e-5


@pytest.mark.parametrize("emb_hs", [1, 3])
@pytest.mark.parametrize("time", [1, 2, 31, 32, 33, 64, 65, 500])
@torch.no_grad()
def test_any_length_comes_out_as_long(time, emb_hs):
    model = small(emb_hs=emb_hs)
    mixture = 0.1 * torch.randn(3, time) + 0.2
    output = model(mixture)
    assert output.shape == (3, time, 2)
    assert torch.isfinite(output).all()
    # Batched or alone, a mixture gives the same sources.
    torch.testing.assert_close(output[1:2], model(mixture[1:2]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "size, refused",
    [
        ({"stride": 64}, r"stride must be below n_fft \(64\)"),
        ({"emb_hs": 0}, "emb_hs must be 1 or more, not 0"),
        ({"qk_dim": -1}, "qk_dim must be 1 or more, not -1"),
        ({"n_fft": 0}, "n_fft must be 1 or more, not 0"),
    ],
)
def test_sizes_that_make_no_model_are_refused(size, refused):
    with pytest.raises(ValueError, match=refused):
        small(**size)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("time", [1, 400])
def test_silence_has_silent_sources_and_finite_gradients(autocast, time):
    model = small()
    mixture = torch.zeros(2, time, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        output = model(mixture)
    assert torch.equal(output, torch.zeros(2, time, 2))
    (output - 1).square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    assert torch.isfinite(mixture.grad).all()


@torch.no_grad()
def test_silence_beside_speech_changes_neither():
    model = small()
    mixture = torch.randn(1, 400)
    both = model(torch.cat([mixture, torch.zeros(1, 400)]))
    torch.testing.assert_close(both[:1], model(mixture), atol=1e-5, rtol=1e-4)
    assert not both[1].any()


@torch.no_grad()
def test_level_comes_out_as_it_goes_in():
    """What the model sees does not depend on it, but for an epsilon."""
    model = small()
    mixture = torch.randn(1, 400)
    quiet = model(1e-3 * mixture)
    torch.testing.assert_close(quiet, 1e-3 * model(mixture), atol=1e-7, rtol=1e-3)


def test_autocast_gives_finite_agreeing_losses():
    torch.manual_seed(0)
    model = small()
    mixture = torch.randn(2, 1000)
    losses = []
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            output = model(mixture)
        assert output.dtype == torch.float32
        loss = (output - 0.5 * mixture.unsqueeze(2)).square().mean()
        model.zero_grad()
        loss.backward()
        assert all(torch.isfinite(p.grad).all() for p in model.parameters())
        losses.append(loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=0.01)


def test_heads_of_the_official_model_keep_their_order():
    golden = torch.load(DATA / "spmamba_gridnet_block.pt", weights_only=True)
    state = convert_state_dict(golden["state_dict"])
    second = golden["state_dict"]["attn_conv_Q_1.0.weight"][:, :, 0, 0]
    assert torch.equal(state["attention.queries.linear.weight"][2:], second)


def test_conversion_needs_no_order_and_changes_nothing_given():
    golden = torch.load(DATA / "spmamba_gridnet_block.pt", weights_only=True)
    given = golden["state_dict"]
    reverse = dict(reversed(given.items()))
    copies = {key: value.clone() for key, value in given.items()}
    forward, backward = convert_state_dict(given), convert_state_dict(reverse)
    assert forward.keys() == backward.keys()
    assert all(torch.equal(forward[key], backward[key]) for key in forward)
    assert all(torch.equal(given[key], copies[key]) for key in copies)
    assert sum(v.numel() for v in forward.values()) == sum(v.numel() for v in given.values())


def test_heads_must_divide_the_channels():
    with pytest.raises(ValueError, match="6 channels cannot be cut into 4 heads"):
        FrameAttention(6, 33, n_head=4, qk_dim=64)


def test_a_training_step_lowers_the_loss():
    torch.manual_seed(0)
    model = small(checkpoint_blocks=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    time = torch.arange(400) / 8000  # s
    sources = torch.sin(2 * torch.pi * time * torch.tensor([[300.0], [1700.0]])).T
    losses = []
    for _ in range(12):
        loss = (model(sources.sum(1)[None]) - sources).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_checkpointing_keeps_less():
    """Bytes that a forward pass keeps for the backward pass."""

    def kept(checkpoint_blocks):
        sizes = {}

        def pack(tensor):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        torch.manual_seed(0)
        model = small(checkpoint_blocks=checkpoint_blocks)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(torch.randn(1, 2000))
        return sum(sizes.values())

    assert kept(True) < 0.3 * kept(False)
