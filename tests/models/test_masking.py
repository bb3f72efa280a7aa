"""Separators against recorded outputs, and the contract that all of them keep."""

from functools import partial
from pathlib import Path

import pytest
import torch
from speechbrain.lobes.models import conv_tasnet
from speechbrain.lobes.models.dual_path import Decoder, Encoder, SBRNNBlock, SBTransformerBlock
from speechbrain.lobes.models.transformer.Transformer import PositionalEncoding
from torch import nn

from custom_modules.errors import InputError
from custom_modules.models.masking import (
    ConvTasNetMaskNet,
    DualPathMaskNet,
    LongPositions,
    MaskingSeparator,
    fold_norm_eps,
    improve_conv_tasnet,
)

DATA = Path(__file__).parent.parent / "data"


def separator_around(masknet, channels, kernel_size=16):
    return MaskingSeparator(
        Encoder(kernel_size, channels),
        masknet,
        Decoder(channels, 1, kernel_size, stride=kernel_size // 2, bias=False),
    )


def convtasnet(config, norm_eps=1e-8):
    sizes = {key: config[key] for key in ("N", "B", "H", "P", "X", "R", "C")}
    return separator_around(ConvTasNetMaskNet(**sizes, norm_eps=norm_eps), config["N"])


def dprnn(config):
    rnn = partial(
        SBRNNBlock, input_size=config["N"], hidden_channels=config["hidden_size"], num_layers=1
    )
    masknet = DualPathMaskNet(
        config["N"],
        config["N"],
        rnn,
        rnn,
        num_layers=config["num_layers"],
        K=config["chunk_size"],
        num_spks=config["C"],
    )
    return separator_around(masknet, config["N"])


def sepformer(config):
    transformer = partial(
        SBTransformerBlock,
        num_layers=config["num_layers"],
        d_model=config["d_model"],
        nhead=config["nhead"],
        d_ffn=config["d_ffn"],
        dropout=0.0,
        use_positional_encoding=config["use_positional_encoding"],
        norm_before=True,
    )
    masknet = DualPathMaskNet(
        config["N"],
        config["d_model"],
        transformer,
        transformer,
        num_layers=config["num_blocks"],
        K=config["chunk_size"],
        num_spks=config["C"],
        linear_layer_after_inter_intra=False,
    )
    return separator_around(masknet, config["N"])


GOLDEN = {
    "convtasnet_small": convtasnet,
    "dprnn_small": dprnn,
    "sepformer_small": sepformer,
    "sepformer_small_nopos": sepformer,
}


def load_golden(name, **kwargs):
    golden = torch.load(DATA / f"{name}.pt", weights_only=True)
    model = GOLDEN[name](golden["config"], **kwargs)
    state = {
        key.replace("mask_net.", "masknet.").replace("separator.", "masknet."): value
        for key, value in golden["state_dict"].items()
    }
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(key.endswith("pos_enc.pe") for key in missing)
    return model.eval(), golden


@pytest.mark.parametrize("name", GOLDEN)
@torch.no_grad()
def test_recorded_output_is_reproduced(name):
    model, golden = load_golden(name)
    output = model(golden["input"]).transpose(1, 2)
    error = (output - golden["output"]).norm() / golden["output"].norm()
    assert error < 1e-5


@torch.no_grad()
def test_norm_eps_is_part_of_the_model():
    model, golden = load_golden("convtasnet_small", norm_eps=1e-4)
    output = model(golden["input"]).transpose(1, 2)
    expected = golden["output_eps1e4"]
    assert (output - expected).norm() / expected.norm() < 1e-5
    assert (output - golden["output"]).norm() / expected.norm() > 0.01


@torch.no_grad()
def test_folding_the_epsilon_changes_no_output():
    model, golden = load_golden("convtasnet_small", norm_eps=1e-4)
    mixture = golden["input"] / 100
    before = model(mixture)
    fold_norm_eps(model)
    assert torch.allclose(model(mixture), before, atol=1e-8)


@torch.no_grad()
def test_improved_stock_network_computes_the_same():
    stock = conv_tasnet.MaskNet(N=8, B=4, H=8, P=3, X=3, R=1, C=2)
    features = torch.rand(1, 8, 50)
    before = stock(features)
    improve_conv_tasnet(stock)
    assert torch.allclose(stock(features), before, atol=1e-6)
    assert stock.min_frames == 5


@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.parametrize("time", [1, 2, 15, 16, 17, 500, 2503])
@torch.no_grad()
def test_any_length_comes_out_as_long(name, time):
    model, golden = load_golden(name)
    mixture = golden["input"][:1, :1].expand(3, 1).repeat(1, time)
    mixture = mixture + 0.1 * torch.randn(3, time)
    output = model(mixture)
    assert output.shape == (3, time, 2)
    assert torch.isfinite(output).all()
    # Batched or alone, a mixture gives the same sources.
    torch.testing.assert_close(output[1:2], model(mixture[1:2]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.parametrize("autocast", [False, True])
def test_silence_has_finite_sources_and_gradients(name, autocast):
    model, _ = load_golden(name)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        output = model(torch.zeros(2, 2000))
    output.float().square().sum().backward()
    assert torch.isfinite(output).all()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.requires_grad)


def test_float16_silence_survives_the_normalisation():
    """0 / 0 where 1e-8 is added to a float16 variance: the predecessor's NaN."""
    norm = ConvTasNetMaskNet(N=8, B=4, H=8, P=3, X=2, R=1, C=2).layer_norm
    assert torch.equal(norm(torch.zeros(1, 5, 8).half()), torch.zeros(1, 5, 8))


@pytest.mark.parametrize("name", ["dprnn_small", "sepformer_small_nopos"])
def test_blocks_do_not_start_as_copies(name):
    config = torch.load(DATA / f"{name}.pt", weights_only=True)["config"]
    first, second = GOLDEN[name](config).masknet.dual_mdl
    for (key, a), b in zip(first.named_parameters(), second.parameters(), strict=True):
        constant = a.std() == 0 or a.numel() == 1  # norm gains, zero biases
        assert constant or not torch.equal(a, b), key


def test_the_encoders_step_is_the_decoders():
    with pytest.raises(InputError, match="stride=4: must be the encoder's, 8"):
        MaskingSeparator(Encoder(16, 4), nn.Identity(), Decoder(4, 1, 16, stride=4))


def test_positions_go_on_behind_the_table():
    table = PositionalEncoding(8).pe
    positions, frames = LongPositions(table), torch.zeros(1, 2600, 8)
    assert torch.equal(positions(frames[:, :2500]), table)
    torch.testing.assert_close(positions(frames)[:, :2500], table, atol=2e-4, rtol=0)
    expected = PositionalEncoding(8, max_len=2600).pe
    torch.testing.assert_close(positions(frames), expected, atol=2e-4, rtol=0)
