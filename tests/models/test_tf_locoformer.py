"""TF-Locoformer against recordings, the plain formulas, and the contract of separators."""

import math
import random

import pytest
import torch

from custom_modules.errors import InputError
from custom_modules.models.layers import rotate, sinusoids
from custom_modules.models.tf_locoformer import TFLocoformer, convert_state_dict, from_reference
from tests.draws import DRAWS
from tests.models.contract import (
    DATA,
    check_grad_probes,
    check_half_precision,
    check_lengths,
    check_silence,
    count_parameters,
    perturb,
    relative_error,
)
from tests.models.plain_rotary import rotated

SIZES = {"n_fft": 32, "stride": 16, "n_layers": 2, "emb_dim": 8, "attention_dim": 8}
SIZES |= {"n_heads": 2, "ffn_dim": (6, 5), "ffn_kernel": 4}
LAYERNORM = "tf_locoformer_layernorm"


def small(num_sources=2, **options):
    torch.manual_seed(0)
    return perturb(TFLocoformer(num_sources, **SIZES | options)).eval()


def separate(model, spectra):
    """``[batch, frames, freqs, 2]`` → ``[batch, sources, frames, freqs, 2]``, as theirs."""
    separated = model.separate(spectra.permute(0, 3, 1, 2))
    return separated.unflatten(1, (-1, 2)).permute(0, 1, 3, 4, 2)


@pytest.mark.parametrize("name", ["tf_locoformer_small", LAYERNORM])
def test_recordings_are_reproduced(name):
    golden = torch.load(DATA / f"{name}.pt", weights_only=True)
    model = from_reference(golden["config"], golden["state_dict"])
    assert not model.training
    spectra = golden["input"].requires_grad_()
    output = separate(model, spectra)
    assert relative_error(output, golden["output"]) < 2e-6
    output.square().sum().backward()
    assert relative_error(spectra.grad, golden["grad_input"]) < 5e-6
    state = golden["state_dict"]
    names = {key: next(iter(convert_state_dict({key: state[key]}))) for key in state}
    check_grad_probes(model, golden["grad_probes"], names)
    with torch.no_grad():
        odd = separate(model, golden["input_odd"])
        assert relative_error(odd, golden["output_odd"]) < 2e-6


@torch.no_grad()
def test_recorded_waveforms_are_reproduced():
    golden = torch.load(DATA / "tf_locoformer_small.pt", weights_only=True)
    frames = {"n_fft": golden["wave_n_fft"], "hop_length": golden["wave_hop"]}
    for config in (golden["config"], golden["config"] | frames):
        model = from_reference(config, golden["state_dict"])
        for kind in ("", "_odd"):
            output = model(golden[f"wave_input{kind}"]).mT
            assert relative_error(output, golden[f"wave_output{kind}"]) < 2e-6


def draw_config(rng):
    heads, groups = rng.randint(1, 3), rng.randint(1, 3)
    kernel = rng.randint(1, 6)
    config = {
        **{"num_spk": rng.randint(1, 3), "n_layers": rng.randint(1, 2), "n_freqs": 5},
        **{"emb_dim": groups * rng.randint(2, 4), "num_groups": groups, "n_heads": heads},
        "norm_type": rng.choice(["rmsgroupnorm", "layernorm"]),
        "tf_order": rng.choice(["ft", "tf"]),
        "attention_dim": 2 * heads * rng.randint(1, 3),
        "ffn_type": ["swiglu_conv1d"] * 2,
        "ffn_hidden_dim": [rng.randint(2, 6), rng.randint(2, 6)],
        **{"conv1d_kernel": kernel, "conv1d_shift": rng.randint(1, kernel)},
        **{"dropout": 0.1, "eps": 1e-3, "flash_attention": False},
    }
    if rng.random() < 0.3:  # one after attention alone
        config |= {"ffn_type": "swiglu_conv1d", "ffn_hidden_dim": rng.randint(2, 6)}
    return config


def draw_state(config, generator):
    """A state dict with the authors' names, for a configuration."""
    channels, state = config["emb_dim"], {}

    def add(name, *shape, around=0.0):
        values = torch.randn(*shape, generator=generator) / math.sqrt(math.prod(shape[1:]))
        state[name] = around + values * (0.3 if len(shape) == 1 else 1)

    def norm(name):
        if config["norm_type"] == "layernorm":
            add(f"{name}.weight", channels, around=1)
            add(f"{name}.bias", channels)
        else:
            add(f"{name}.gamma", channels, around=1)

    add("conv.0.weight", channels, 2, 3, 3)
    add("conv.0.bias", channels)
    add("conv.1.weight", channels, around=1)
    add("conv.1.bias", channels)
    add("deconv.weight", channels, 2 * config["num_spk"], 3, 3)
    add("deconv.bias", 2 * config["num_spk"])
    dims, attention, kernel = hidden(config), config["attention_dim"], config["conv1d_kernel"]
    pairs = attention // config["n_heads"] // 2
    for axis in ("freq", "frame"):
        frequencies = torch.rand(pairs, generator=generator)  # their own in each axis
        for block in range(config["n_layers"]):
            path = f"blocks.{block}.{axis}_path"
            state[f"{path}.attn.rope.freqs"] = frequencies
            norm(f"{path}.attn_norm")
            add(f"{path}.attn.qkv.weight", 3 * attention, channels)
            add(f"{path}.attn.aggregate_heads.0.weight", channels, attention)
            for i, dim in enumerate(reversed(dims)):
                norm(f"{path}.ffn_norm.{i}")
                add(f"{path}.ffn.{i}.conv1d.weight", 2 * dim, channels, kernel)
                add(f"{path}.ffn.{i}.conv1d.bias", 2 * dim)
                add(f"{path}.ffn.{i}.deconv1d.weight", dim, channels, kernel)
                add(f"{path}.ffn.{i}.deconv1d.bias", channels)
    return state


def hidden(config):
    dims = config["ffn_hidden_dim"]
    return dims if isinstance(dims, list) else [dims]


class Plain:
    """The paper's formulas, sequence by sequence and tap by tap, on a state dict as theirs."""

    def __init__(self, config, state):
        self.config, self.p = config, state

    def separate(self, spectra):  # [frames, freqs, 2]
        x = self.convolve(spectra, self.p["conv.0.weight"]) + self.p["conv.0.bias"]
        x = (x - x.mean()) / (x.var(correction=0) + self.config["eps"]).sqrt()
        x = x * self.p["conv.1.weight"] + self.p["conv.1.bias"]
        axes = ["freq", "frame"] if self.config["tf_order"] == "ft" else ["frame", "freq"]
        for block in range(self.config["n_layers"]):
            for axis in axes:
                name, across = f"blocks.{block}.{axis}_path", int(axis == "frame")
                sequences = [self.path(s, name) for s in x.unbind(across)]
                x = torch.stack(sequences, dim=across)
        weight = self.p["deconv.weight"].transpose(0, 1).flip(2, 3)
        x = self.convolve(x, weight) + self.p["deconv.bias"]
        return x.unflatten(2, (-1, 2)).permute(2, 0, 1, 3)

    @staticmethod
    def convolve(image, weight):
        """3 × 3 taps over ``[frames, freqs, channels]``."""
        frames, freqs, channels = image.shape
        wide = image.new_zeros(frames + 2, freqs + 2, channels)
        wide[1:-1, 1:-1] = image
        taps = ((i, j) for i in range(3) for j in range(3))
        return sum(wide[i : i + frames, j : j + freqs] @ weight[:, :, i, j].T for i, j in taps)

    def path(self, x, name):  # [time, channels]
        last = len(hidden(self.config)) - 1
        if last:
            x = x + self.ffn(self.norm(x, f"{name}.ffn_norm.1"), f"{name}.ffn.1")
        x = x + self.attention(self.norm(x, f"{name}.attn_norm"), f"{name}.attn")
        return x + self.ffn(self.norm(x, f"{name}.ffn_norm.0"), f"{name}.ffn.0")

    def norm(self, x, name):
        eps = self.config["eps"]
        if self.config["norm_type"] == "layernorm":
            x = x - x.mean(1, keepdim=True)
            x = x / (x.square().mean(1, keepdim=True) + eps).sqrt()
            return x * self.p[f"{name}.weight"] + self.p[f"{name}.bias"]
        groups = x.chunk(self.config["num_groups"], dim=1)
        x = torch.cat([g / (g.square().mean(1, keepdim=True).sqrt() + eps) for g in groups], 1)
        return x * self.p[f"{name}.gamma"]

    def attention(self, x, name):
        heads, outputs = self.config["n_heads"], []
        query, key, value = (x @ self.p[f"{name}.qkv.weight"].T).chunk(3, dim=1)
        parts = (part.chunk(heads, dim=1) for part in (query, key, value))
        for q, k, v in zip(*parts, strict=True):
            q, k = self.rotate(q, name), self.rotate(k, name)
            scores = q @ k.T / math.sqrt(q.shape[1])
            outputs.append(torch.softmax(scores, dim=1) @ v)
        return torch.cat(outputs, dim=1) @ self.p[f"{name}.aggregate_heads.0.weight"].T

    def rotate(self, x, name):
        return rotated(x, self.p[f"{name}.rope.freqs"])

    def ffn(self, x, name):
        """Windows from ``kernel - shift`` points before the start on, as many as reach the end."""
        kernel, shift = self.config["conv1d_kernel"], self.config["conv1d_shift"]
        time, before = len(x), kernel - self.config["conv1d_shift"]
        weight, back = self.p[f"{name}.conv1d.weight"], self.p[f"{name}.deconv1d.weight"]
        out = x.new_zeros(time, x.shape[1]) + self.p[f"{name}.deconv1d.bias"]
        start = -before
        while start < time:
            points = [(tap, start + tap) for tap in range(kernel) if 0 <= start + tap < time]
            h = sum(weight[:, :, tap] @ x[t] for tap, t in points) + self.p[f"{name}.conv1d.bias"]
            value, gate = h.chunk(2)
            h = value * gate * torch.sigmoid(gate)
            for tap, t in points:
                out[t] = out[t] + h @ back[:, :, tap]
            start += shift
        return out


@pytest.mark.parametrize("draw", range(5))
def test_a_configuration_drawn_at_random_is_the_plain_formulas(draw):
    rng = random.Random(5 * DRAWS + draw)
    config = draw_config(rng)
    state = draw_state(config, torch.Generator().manual_seed(rng.randrange(10**6)))
    model = from_reference(config, state).double()
    state = {key: value.double() for key, value in state.items()}
    frames = rng.randint(1, 7)
    spectra = torch.randn(2, frames, 5, 2, dtype=torch.float64, requires_grad=True)
    output = separate(model, spectra)
    expected = torch.stack([Plain(config, state).separate(item) for item in spectra])
    assert relative_error(output, expected) < 1e-6
    weights = torch.randn_like(output)
    (found,) = torch.autograd.grad((output * weights).sum(), spectra)
    (exact,) = torch.autograd.grad((expected * weights).sum(), spectra)
    assert relative_error(found, exact) < 1e-6


SIZE_M = {"n_fft": 128, "n_layers": 6, "emb_dim": 128, "ffn_dim": 384, "ffn_kernel": 4}


@pytest.mark.parametrize(("sizes", "parameters"), [({}, 5_125_220), (SIZE_M, 14_975_620)])
def test_sizes_are_the_published_ones(sizes, parameters):
    assert count_parameters("tf_locoformer", **sizes) == parameters


@pytest.mark.parametrize("options", [{}, {"ffn_stride": 3, "ffn_dim": 4, "norm_groups": None}])
def test_any_length_comes_out_as_long(options):
    check_lengths(small(**options), (1, 2, 15, 16, 17, 31, 32, 33, 501))


@torch.no_grad()
def test_level_comes_out_as_it_goes_in():
    model, mixture = small(), torch.randn(1, 400)
    quiet = model(1e-3 * mixture)
    torch.testing.assert_close(quiet, 1e-3 * model(mixture), atol=1e-7, rtol=1e-3)


@torch.no_grad()
def test_what_is_far_is_heard_by_attention_alone():
    """Convolutions reach a few frames, twice; nothing else crosses time."""
    model = small()
    block, rotary = model.blocks[0], (model.rotary_freqs, model.rotary_frames)
    points = torch.randn(1, 40, 17, 8)
    changed = torch.cat([points[:, :-1], torch.randn(1, 1, 17, 8)], dim=1)
    for is_deaf in (False, True):
        if is_deaf:
            block.along_frames.attention.output.weight.zero_()
        moved = (block(points, *rotary) - block(changed, *rotary)).abs().amax((0, 2, 3))
        assert moved[-1] > 0.1
        assert moved[33] > 1e-5 and (moved[:33] > 1e-5).any() != is_deaf


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("time", [1, 600])
def test_silence_is_silent_and_finite(time, dtype):
    check_silence(small(), time, dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_agrees(dtype):
    # Groups of few channels have an RMS near 0 somewhere, and gradients that are noise.
    check_half_precision(small(emb_dim=32), dtype, tolerance=0.1)


def test_positions_are_exact_in_half_precision():
    """With positions in bf16, frame 501 would stand beside frame 500."""
    x = torch.ones(600, 8)
    exact = rotate(x, sinusoids(8))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = rotate(x.bfloat16(), sinusoids(8))
    assert rounded.dtype == torch.bfloat16
    assert (rounded.float() - exact).abs().max() < 0.01


def test_initialisation_is_xaviers_without_biases():
    for name, parameter in TFLocoformer(2, **SIZES).named_parameters():
        if parameter.dim() > 1:
            fans = (parameter[0].numel(), parameter[:, 0].numel())
            bound = math.sqrt(6 / sum(fans))
            assert 0.8 * bound < parameter.abs().max() <= bound, name
        else:
            value = 0 if name.endswith("bias") else 1
            assert torch.equal(parameter, torch.full_like(parameter, value)), name


def test_checkpointed_blocks_compute_the_same():
    mixture, results = torch.randn(1, 500), []
    for checkpoint_blocks in (False, True):
        model = small(checkpoint_blocks=checkpoint_blocks, dropout=0.2).train()
        torch.manual_seed(1)  # of dropout
        model(mixture).square().sum().backward()
        results.append([p.grad for p in model.parameters()])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("norm_groups", 3, "must divide emb_dim=8"),
        ("attention_dim", 6, "must be twice n_heads=2, or a multiple"),
        ("n_heads", 3, "attention_dim=8: must be twice"),
        ("stride", 32, "must be below n_fft=32"),
        ("ffn_stride", 5, "must not be above ffn_kernel=4"),
        ("ffn_dim", (), "one number or two"),
        *[(key, 0, "from 1") for key in ("num_sources", "n_layers", "norm_groups", "ffn_dim")],
        *[(key, 1.5, "whole") for key in ("emb_dim", "n_fft", "ffn_kernel")],
    ],
)
def test_bad_sizes_are_named(key, value, reason):
    with pytest.raises(InputError, match=reason) as caught:
        TFLocoformer(**{"num_sources": 2} | SIZES | {key: value})
    assert key in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("n_layers", value) for value in (0, "two", None)],
        *[("norm_type", "rmsgroupnormm"), ("tf_order", "tt"), ("causal", True), ("eps", -1)],
        *[("ffn_type", "conv1d"), ("ffn_hidden_dim", [4, 4, 4]), ("n_freqs", 1), ("dropout", 2)],
        *[("ffn_hidden_dim", None), ("ffn_type", None), ("n_fft", 7.5)],
        *[("conv1d_shift", 99)],
    ],
)
def test_configurations_that_make_no_model_are_refused_by_their_key(key, value):
    config = draw_config(random.Random(0)) | {"ffn_hidden_dim": [3, 4]}
    config["ffn_type"] = ["swiglu_conv1d"] * 2
    with pytest.raises(InputError, match="ffn_type" if key == "ffn_hidden_dim" and value else key):
        from_reference(config | {key: value}, {})
    with pytest.raises(InputError, match="num_spk: is missing"):
        from_reference({k: v for k, v in config.items() if k != "num_spk"}, {})


def test_weights_that_do_not_fit_are_refused():
    config = draw_config(random.Random(0)) | {"n_layers": 2}
    state = draw_state(config, torch.Generator().manual_seed(0))
    with pytest.raises(RuntimeError, match="decoder"):
        from_reference(config, {k: v for k, v in state.items() if "deconv." not in k})
    name = "blocks.1.freq_path.attn.rope.freqs"
    with pytest.raises(InputError, match="rotary_freqs: differs between layers"):
        from_reference(config, state | {name: 2 * state[name]})
