"""RE-SepFormer against recorded outputs, SpeechBrain's own classes and plain formulas."""

import copy
import random
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from speechbrain.lobes.models.dual_path import Decoder, Encoder
from speechbrain.lobes.models.resepformer import (
    ResourceEfficientSeparationPipeline,
    ResourceEfficientSeparator,
    SBTransformerBlock_wnormandskip,
)

from custom_modules.errors import InputError
from custom_modules.hparams import load_hparams
from custom_modules.models.masking import MaskingSeparator
from custom_modules.models.resepformer import (
    RESepFormerMaskNet,
    from_reference,
    improve_resepformer,
)
from tests.draws import DRAWS
from tests.models.contract import relative_error

ROOT = Path(__file__).parents[2]
GOLDEN = ("resepformer_sb_small", "resepformer_predecessor_small")


def load_golden(name, in_batch=False):
    """The separator and what is recorded, ``[batch, time, sources]``.

    ``in_batch``: with SpeechBrain's own way between segments, across the batch.
    """
    golden = torch.load(ROOT / f"tests/data/{name}.pt", weights_only=True)
    if golden["output"].shape[1] == 2:
        for key in ("output", "output_odd", "output_one_by_one"):
            golden[key] = golden[key].mT
    model = from_reference(golden["config"], golden["state_dict"])
    if in_batch:
        model.masknet.model.__class__ = ResourceEfficientSeparationPipeline
    return model, golden


def small(num_sources=2, positions=True, **sizes):
    sizes = {"layer": 3, "segment_size": 7} | sizes
    transformer = partial(
        SBTransformerBlock_wnormandskip,
        *(1, 8, 2, 16),
        dropout=0.0,
        use_positional_encoding=positions,
        norm_before=True,
    )
    masknet = RESepFormerMaskNet(8, num_sources, transformer, transformer, **sizes)
    decoder = Decoder(8, 1, 8, stride=4, bias=False)
    return MaskingSeparator(Encoder(8, 8), masknet, decoder)


@pytest.mark.parametrize("name", GOLDEN)
@torch.no_grad()
def test_recorded_outputs_of_single_mixtures_are_reproduced(name):
    model, golden = load_golden(name)
    assert relative_error(model(golden["input"]), golden["output_one_by_one"]) < 2e-6


@pytest.mark.parametrize("name", GOLDEN)
def test_recorded_batches_are_reproduced_with_summaries_across_the_batch(name):
    model, golden = load_golden(name, in_batch=True)
    mixture = golden["input"].requires_grad_()
    output = model(mixture)
    assert relative_error(output, golden["output"]) < 2e-6
    output.square().sum().backward()
    assert relative_error(mixture.grad, golden["grad_input"]) < 2e-5
    for key, parameter in model.named_parameters():
        expected = golden["grads"][key]
        torch.testing.assert_close(parameter.grad, expected, rtol=2e-4, atol=2e-5)
    with torch.no_grad():
        odd = model(golden["input_odd"])
    expected = golden["output_odd"]  # the predecessor's ends with the last whole frame
    assert relative_error(odd[:, : expected.shape[1]], expected) < 2e-6
    assert not odd[:, 2496:].any()


@pytest.mark.parametrize("name", GOLDEN)
@torch.no_grad()
def test_batch_mates_change_nothing(name):
    model, golden = load_golden(name)
    in_batch, _ = load_golden(name, in_batch=True)
    mixtures = golden["input_odd"].flip(0)
    output = model(mixtures)
    for mixture, estimates in zip(mixtures.split(1), output.split(1), strict=True):
        torch.testing.assert_close(estimates, in_batch(mixture), atol=1e-6, rtol=0)
    assert relative_error(in_batch(mixtures), output) > 0.01


def plain(model, mixture):
    """The formulas of the paper for one mixture, [time] → [time, sources]."""

    def norm(x, layer, eps):
        x = (x - x.mean(1, keepdim=True)) / (x.var(1, correction=0, keepdim=True) + eps).sqrt()
        return x * layer.weight + layer.bias

    def transformer(x, block):  # one sequence, [time, channels]
        time, channels = x.shape
        residual = x
        if block.use_positional_encoding:
            for t in range(time):
                for c in range(0, channels, 2):
                    angle = torch.tensor(t * 10000.0 ** (-c / channels))
                    wave = F.pad(torch.stack([angle.sin(), angle.cos()]), (c, channels - c - 2))
                    x = torch.cat([x[:t], x[t : t + 1] + wave, x[t + 1 :]])
        for layer in block.mdl.layers:
            attention = layer.self_att.att
            inner = norm(x, layer.norm1.norm, 1e-6)
            query, key, value = F.linear(
                inner, attention.in_proj_weight, attention.in_proj_bias
            ).chunk(3, 1)
            width = channels // attention.num_heads
            heads = []
            for h in range(attention.num_heads):
                part = slice(h * width, (h + 1) * width)
                scores = query[:, part] @ key[:, part].T / width**0.5
                heads.append(scores.softmax(1) @ value[:, part])
            x = x + attention.out_proj(torch.cat(heads, 1))
            ffn = layer.pos_ffn.ffn
            x = x + ffn[3](ffn[0](norm(x, layer.norm2.norm, 1e-6)).relu())
        x = norm(x, block.mdl.norm.norm, 1e-6)
        x = (x - x.mean()) / (x.var(correction=0) + 1.2e-7).sqrt()
        return x * block.norm.weight.T + block.norm.bias.T + residual

    network = model.masknet.model
    frames = model.encoder(mixture[None])[0].T
    size = network.segment_size
    padded = F.pad(frames, (0, 0, 0, size - len(frames) % size))
    segments = list(padded.split(size))
    for i, block in enumerate(network.seg_model):
        segments = [transformer(segment, block) for segment in segments]
        if i < len(network.mem_model):
            means = torch.stack([segment.mean(0) for segment in segments])
            memory = transformer(means, network.mem_model[i])
            segments = [s + m for s, m in zip(segments, memory, strict=True)]
    channels = network.output_fc(torch.cat(segments)[: len(frames)].T[None])[0]
    sources = model.masknet.num_spk
    masks = [channels[s::sources].relu() for s in range(sources)]
    return torch.stack([model.decoder((mask * frames.T)[None])[0] for mask in masks], 1)


@torch.no_grad()
def test_a_drawn_configuration_follows_plain_formulas():
    draw = random.Random(f"resepformer {DRAWS}")
    torch.manual_seed(draw.randrange(10**6))
    model = small(
        num_sources=draw.choice([1, 2, 3]),
        positions=draw.choice([True, False]),
        layer=draw.choice([1, 2, 4]),
        segment_size=draw.choice([1, 2, 5, 100]),
    ).eval()
    for parameter in model.parameters():
        parameter += 0.1 * torch.randn_like(parameter)
    mixture = torch.randn(8 + 4 * draw.choice([9, 19, 24]))
    assert relative_error(model(mixture[None])[0], plain(model, mixture)) < 1e-5


@torch.no_grad()
def test_speechbrains_own_is_made_the_same_in_place():
    ours = small().masknet
    transformer = SBTransformerBlock_wnormandskip(
        *(1, 8, 2, 16), dropout=0.0, use_positional_encoding=True, norm_before=True
    )
    stock = ResourceEfficientSeparator(
        8, layer=3, segment_size=7, mem_type="av", seg_model=transformer, mem_model=transformer
    )
    missing, unexpected = stock.load_state_dict(ours.state_dict(), strict=False)
    assert not unexpected and {key.rpartition(".")[2] for key in missing} == {"pe"}
    improve_resepformer(stock)
    features = torch.rand(3, 8, 50)
    assert torch.equal(copy.deepcopy(stock)(features), ours(features))
    assert stock.state_dict().keys() == ours.state_dict().keys()


def test_blocks_do_not_start_as_copies():
    network = small().masknet.model
    first, second = network.seg_model[:2]
    assert not torch.equal(
        first.mdl.layers[0].pos_ffn.ffn[0].weight, second.mdl.layers[0].pos_ffn.ffn[0].weight
    )


@pytest.mark.parametrize("time", [1, 7, 8, 9, 27, 28, 29, 500])
@torch.no_grad()
def test_any_length_comes_out_as_long(time):
    model = small(num_sources=3)
    mixture = 0.1 * torch.randn(3, time)
    output = model(mixture)
    assert output.shape == (3, time, 3)
    assert torch.isfinite(output).all()
    torch.testing.assert_close(output[1:2], model(mixture[1:2]), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("positions", [False, True])
def test_silence_has_finite_sources_and_gradients(dtype, positions):
    model = small(positions=positions)
    mixture = torch.zeros(2, 300, requires_grad=True)
    with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
        output = model(mixture)
    output.float().square().sum().backward()
    assert torch.isfinite(output).all()
    assert all(torch.isfinite(p.grad).all() for p in [*model.parameters(), mixture])


@torch.no_grad()
def test_half_precision_is_near():
    model, golden = load_golden(GOLDEN[0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(golden["input"]).float()
    assert relative_error(output, golden["output_one_by_one"]) < 0.05


@pytest.mark.parametrize("channels, count", [(128, 7_955_201), (256, 19_097_089)])
def test_published_sizes(channels, count):
    values = {"data_folder": "x", "N": channels}
    model = load_hparams(str(ROOT / "hparams/resepformer.yaml"), values)["separator"]
    assert sum(p.numel() for p in model.parameters()) == count
    state = sum(v.numel() for v in model.state_dict().values())
    assert state == count  # positions are computed


@pytest.mark.parametrize(
    "key, value",
    [
        *[("mem_type", "hc"), ("causal", True), ("nhead", 3), ("N", 0), ("stride", 4)],
        *[("segment_size", 0), ("num_layers", 1.5), ("kernel_size", 0), ("unknown", 1)],
    ],
)
def test_configurations_that_make_no_model_are_refused(key, value):
    golden = torch.load(ROOT / f"tests/data/{GOLDEN[0]}.pt", weights_only=True)
    with pytest.raises(InputError, match=key if key != "kernel_size" else "stride"):
        from_reference(golden["config"] | {key: value}, golden["state_dict"])


@pytest.mark.parametrize(
    "key, value", [("nhead", 3), ("N", 129), ("segment_size", 0), ("kernel_size", 1)]
)
def test_sizes_that_make_no_model_name_their_key(key, value):
    with pytest.raises(InputError, match=rf"--({key}|nhead)="):
        load_hparams(str(ROOT / "hparams/resepformer.yaml"), {"data_folder": "x", key: value})
