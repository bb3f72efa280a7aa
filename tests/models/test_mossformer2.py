"""MossFormer2 against a recording, the plain formulas, and the contract of separators."""

import math
import random
import re

import pytest
import torch
import torch.nn.functional as F

from custom_modules.errors import InputError
from custom_modules.models.mossformer2 import MossFormer2, convert_state_dict, from_reference
from tests.draws import DRAWS
from tests.models.contract import (
    DATA,
    check_half_precision,
    check_lengths,
    check_silence,
    count_parameters,
    perturb,
    relative_error,
)

SIZES = {"N": 12, "num_layers": 2, "group_size": 16, "qk_channels": 6, "fsmn_channels": 8}
STACK = "model.mask_net.mdl.intra_mdl."


def small(num_sources=2, **options):
    torch.manual_seed(0)
    return perturb(MossFormer2(num_sources, **SIZES | {"fsmn_order": 4} | options)).eval()


def recorded(name):
    return torch.load(DATA / "checkpoints" / f"{name}.pt", weights_only=True)


@torch.no_grad()
def test_recorded_outputs_are_reproduced():
    saved, io = recorded("mossformer2_SB_best"), recorded("mossformer2_io")
    config = saved["config"]["model"]["mossformer2"]
    model = from_reference(config, saved["model_state_dict"])
    assert not model.training
    assert relative_error(model(io["input"]).mT, io["output"]) < 2e-6
    assert relative_error(model(io["input_odd"]).mT, io["output_odd"]) < 2e-6
    older = {key: value for key, value in config.items() if key != "attn_dropout"}
    from_reference(older, saved["model_state_dict"])


def draw_state(config, generator):
    """A state dict with the authors' names, for a configuration."""
    N, fixed = config["encoder_embedding_dim"], config["fixed"]
    qk, inner = fixed["query_key_dim"], fixed["fsmn_inner_channels"]
    taps, kernel = fixed["conv_module_kernel"], config["encoder_kernel_size"]
    frequencies = torch.arange(0, N, 2, dtype=torch.float64) / N
    rotated = torch.arange(0, fixed["rotary_dim"], 2, dtype=torch.float64) / fixed["rotary_dim"]
    state = {f"{STACK[:15]}pos_enc.inv_freq": 10_000**-frequencies}

    def add(name, *shape, spread=0.3, around=0.0):
        values = torch.randn(*shape, generator=generator, dtype=torch.float64)
        state[name] = around + spread * values / math.sqrt(math.prod(shape[1:]))

    def norm(name, channels):
        add(f"{name}.weight", channels, around=1)
        add(f"{name}.bias", channels)

    def linear(name, channels, out, bias=True, tail=()):
        add(f"{name}.weight", out, channels, *tail, spread=1)
        if bias:
            add(f"{name}.bias", out)

    def ffconv(name, channels, out, is_scaled):
        if is_scaled:
            add(f"{name}.mdl.0.g", 1, around=1)
        else:
            norm(f"{name}.mdl.0", channels)
        linear(f"{name}.mdl.1", channels, out)
        add(f"{name}.mdl.3.sequential.1.conv.weight", out, 1, taps)

    net = STACK[:15]
    add("model.enc.conv1d.weight", N, 1, kernel, spread=1)
    add("model.dec.weight", N, 1, kernel, spread=1)
    add(f"{net}pos_enc.scale", 1, around=1)
    norm(f"{net}norm", N)
    norm(f"{STACK}norm", N)
    norm(f"{net}mdl.intra_norm", N)
    linear(f"{net}conv1d_encoder", N, N, bias=False, tail=(1,))
    linear(f"{net}conv1d_out", N, N * config["num_spks"], tail=(1,))
    linear(f"{net}conv1_decoder", N, N, bias=False, tail=(1,))
    linear(f"{net}output.0", N, N, tail=(1,))
    linear(f"{net}output_gate.0", N, N, tail=(1,))
    add(f"{net}prelu.weight", 1, around=0.25)
    for i in range(config["num_mossformer_layer"]):
        flash = f"{STACK}mossformerM.layers.{i}"
        state[f"{flash}.rotary_pos_emb.freqs"] = 10_000**-rotated
        ffconv(f"{flash}.to_hidden", N, 4 * N, is_scaled=True)
        ffconv(f"{flash}.to_qk", N, qk, is_scaled=True)
        ffconv(f"{flash}.to_out", 2 * N, N, is_scaled=True)
        add(f"{flash}.qk_offset_scale.gamma", 4, qk, spread=3)
        add(f"{flash}.qk_offset_scale.beta", 4, qk)
        fsmn = f"{STACK}mossformerM.fsmn.{i}"
        linear(f"{fsmn}.conv1.0", N, inner, tail=(1,))
        add(f"{fsmn}.conv1.1.weight", 1, around=0.25)
        norm(f"{fsmn}.norm1", inner)
        norm(f"{fsmn}.norm2", inner)
        linear(f"{fsmn}.conv2", inner, N, tail=(1,))
        gated = f"{fsmn}.gated_fsmn"
        ffconv(f"{gated}.to_u", inner, inner, is_scaled=False)
        ffconv(f"{gated}.to_v", inner, inner, is_scaled=False)
        linear(f"{gated}.fsmn.linear", inner, inner)
        linear(f"{gated}.fsmn.project", inner, inner, bias=False)
        for n in range(1, fixed["dense_depth"] + 1):
            dense = f"{gated}.fsmn.conv"
            add(f"{dense}.conv{n}.weight", inner, n, 2 * fixed["fsmn_lorder"] - 1, 1, spread=1)
            norm(f"{dense}.norm{n}", inner)
            add(f"{dense}.prelu{n}.weight", inner, around=0.25)
    return state


class Plain:
    """The paper's formulas, frame by frame and tap by tap, on a state dict as the authors'."""

    def __init__(self, config, state):
        self.config, self.fixed, self.p = config, config["fixed"], state

    def separate(self, mixture):  # [time]
        basis, N = self.p["model.enc.conv1d.weight"][:, 0], self.config["encoder_embedding_dim"]
        kernel, step, net = basis.shape[1], basis.shape[1] // 2, STACK[:15]
        features = F.relu(mixture.unfold(0, kernel, step) @ basis.T)  # [frames, N]
        x = self.linear(self.norm(features, f"{net}norm", 1e-8, whole=True), f"{net}conv1d_encoder")
        angles = torch.arange(len(x))[:, None] * self.p[f"{net}pos_enc.inv_freq"]
        start = x = x + self.p[f"{net}pos_enc.scale"] * torch.cat([angles.sin(), angles.cos()], 1)
        for i in range(self.config["num_mossformer_layer"]):
            x = x + self.flash(x, f"{STACK}mossformerM.layers.{i}")
            x = x + self.fsmn(x, f"{STACK}mossformerM.fsmn.{i}")
        x = self.norm(x, f"{STACK}norm", 1e-6)
        x = start + self.norm(x, f"{net}mdl.intra_norm", 1e-8, whole=True)
        x = self.linear(self.prelu(x, f"{net}prelu"), f"{net}conv1d_out")
        output = mixture.new_zeros(len(mixture), self.config["num_spks"])
        for source in range(self.config["num_spks"]):
            own = x[:, source * N : (source + 1) * N]
            gate = torch.sigmoid(self.linear(own, f"{net}output_gate.0"))
            gated = torch.tanh(self.linear(own, f"{net}output.0")) * gate
            masked = features * F.relu(self.linear(gated, f"{net}conv1_decoder"))
            for t, frame in enumerate(masked @ self.p["model.dec.weight"][:, 0]):
                output[t * step : t * step + kernel, source] += frame
        return output

    def flash(self, x, name):
        half, fixed = x.shape[1] // 2, self.fixed
        late = torch.cat([torch.zeros(1, half, dtype=x.dtype), x[:-1, :half]])
        shifted = torch.cat([late, x[:, half:]], dim=1)
        v, u = self.ffconv(shifted, f"{name}.to_hidden").chunk(2, dim=1)
        qk = self.ffconv(shifted, f"{name}.to_qk")
        gamma = self.p[f"{name}.qk_offset_scale.gamma"]
        heads = [
            self.rotate(qk * gamma[i] + self.p[f"{name}.qk_offset_scale.beta"][i], name)
            for i in range(4)
        ]
        near_q, far_q, near_k, far_k = heads
        group = torch.arange(len(x)) // fixed["group_size"]
        same = group[:, None] == group
        weights = F.relu(near_q @ near_k.T / fixed["group_size"]).square() * same
        weights = weights + far_q @ far_k.T / len(x)
        attended_v, attended_u = weights @ v, weights @ u
        return self.ffconv((attended_u * v) * torch.sigmoid(attended_v * u), f"{name}.to_out")

    def rotate(self, x, name):
        turned = x.clone()
        for pair, frequency in enumerate(self.p[f"{name}.rotary_pos_emb.freqs"]):
            angle = torch.arange(len(x)) * frequency
            a, b = x[:, 2 * pair], x[:, 2 * pair + 1]
            turned[:, 2 * pair] = a * angle.cos() - b * angle.sin()
            turned[:, 2 * pair + 1] = b * angle.cos() + a * angle.sin()
        return turned

    def fsmn(self, x, name):
        x = self.prelu(self.linear(x, f"{name}.conv1.0"), f"{name}.conv1.1")
        x, gated = self.norm(x, f"{name}.norm1"), f"{name}.gated_fsmn"
        u, v = self.ffconv(x, f"{gated}.to_u"), self.ffconv(x, f"{gated}.to_v")
        hidden = F.relu(self.linear(u, f"{gated}.fsmn.linear"))
        seen = out = self.linear(hidden, f"{gated}.fsmn.project")
        for n in range(1, self.fixed["dense_depth"] + 1):
            dense = f"{gated}.fsmn.conv"
            out = self.convolve(seen, self.p[f"{dense}.conv{n}.weight"][..., 0], 2 ** (n - 1))
            out = self.norm(out.T, None).T * self.p[f"{dense}.norm{n}.weight"]
            out = self.prelu(out + self.p[f"{dense}.norm{n}.bias"], f"{dense}.prelu{n}")
            seen = torch.cat([out, seen], dim=1)
        x = self.norm(x + v * (u + out), f"{name}.norm2")
        return self.linear(x, f"{name}.conv2")

    def ffconv(self, x, name):
        if f"{name}.mdl.0.g" in self.p:
            rms = x.square().mean(1, keepdim=True).sqrt()
            x = self.p[f"{name}.mdl.0.g"] * x / rms.clamp(min=1e-5)
        else:
            x = self.norm(x, f"{name}.mdl.0")
        z = self.linear(x, f"{name}.mdl.1")
        z = z * torch.sigmoid(z)
        return z + self.convolve(z, self.p[f"{name}.mdl.3.sequential.1.conv.weight"])

    @staticmethod
    def convolve(x, weight, dilation=1):
        """Output c from the inputs c n … c n + n - 1, ``weight`` [out, n, taps]."""
        out, n, taps = weight.shape
        result = x.new_zeros(len(x), out)
        for tap in range(taps):
            shift = (tap - taps // 2) * dilation
            moved = torch.zeros_like(x)
            for t in range(len(x)):
                if 0 <= t + shift < len(x):
                    moved[t] = x[t + shift]
            result += (moved.unflatten(1, (out, n)) * weight[:, :, tap]).sum(2)
        return result

    def norm(self, x, name, eps=1e-5, whole=False):
        axes = (0, 1) if whole else (1,)
        x = x - x.mean(axes, keepdim=True)
        x = x / (x.square().mean(axes, keepdim=True) + eps).sqrt()
        return x if name is None else x * self.p[f"{name}.weight"] + self.p[f"{name}.bias"]

    def linear(self, x, name):
        return x @ self.p[f"{name}.weight"].flatten(1).T + self.p.get(f"{name}.bias", 0)

    def prelu(self, x, name):
        return torch.where(x > 0, x, self.p[f"{name}.weight"] * x)


def draw_config(rng):
    N = 2 * rng.randint(2, 7)
    fixed = {"group_size": rng.randint(3, 9), "query_key_dim": 2 * rng.randint(2, 20)}
    fixed |= {"rotary_dim": min(32, fixed["query_key_dim"]), "expansion_factor": 4.0}
    fixed |= {"fsmn_inner_channels": rng.randint(2, 6), "fsmn_lorder": rng.randint(2, 4)}
    fixed |= {"dense_depth": rng.randint(1, 3), "conv_module_kernel": rng.choice([1, 3, 5])}
    return {
        **{"encoder_embedding_dim": N, "mossformer_sequence_dim": N, "fixed": fixed},
        "num_mossformer_layer": rng.randint(1, 2),
        "encoder_kernel_size": rng.choice([2, 5, 8]),
        "num_spks": rng.randint(1, 3),
    }


@pytest.mark.parametrize("draw", range(3))
def test_a_configuration_drawn_at_random_is_the_plain_formulas(draw):
    rng = random.Random(3 * DRAWS + draw)
    config = draw_config(rng)
    state = draw_state(config, torch.Generator().manual_seed(rng.randrange(10**6)))
    model = from_reference(config, state).double()
    # What is loaded into float32 comes back as it was.
    state = {key: value.float().double() for key, value in state.items()}
    mixture = torch.randn(2, rng.randint(40, 60), dtype=torch.float64, requires_grad=True)
    output = model(mixture)
    expected = torch.stack([Plain(config, state).separate(item) for item in mixture])
    assert expected.std() > 1e-3
    assert relative_error(output, expected) < 1e-7
    weights = torch.randn_like(output)
    (found,) = torch.autograd.grad((output * weights).sum(), mixture)
    (exact,) = torch.autograd.grad((expected * weights).sum(), mixture)
    assert relative_error(found, exact) < 1e-6


@pytest.mark.parametrize("prefix", ["", "model.model.", "ss_network.", "module.model."])
def test_names_of_every_published_version(prefix):
    state = draw_state(draw_config(random.Random(0)), torch.Generator().manual_seed(0))
    expected = convert_state_dict(state)
    other = {prefix + key.removeprefix("model."): value for key, value in state.items()}
    assert convert_state_dict(other).keys() == expected.keys()
    authors = {}
    for key, value in state.items():
        key = re.sub(r"^model\.(enc|dec)\.", r"\1oder.", key)
        key = key.replace("model.mask_net.mdl.", "masknet.dual_mdl.0.")
        key = key.replace("model.mask_net.", "masknet.").replace("mossformerM", "mdl.flashT")
        authors[key.replace("intra_mdl.norm.", "intra_mdl.mdl.norm.norm.")] = value
    assert convert_state_dict(authors).keys() == expected.keys()


@pytest.mark.parametrize(("layers", "parameters"), [(11, 26_409_022), (24, 55_735_410)])
def test_sizes_are_the_published_ones(layers, parameters):
    assert count_parameters("mossformer2", num_layers=layers) == parameters


def test_any_length_comes_out_as_long():
    # One frame, one group, and more than one.
    check_lengths(small(), (1, 2, 15, 16, 17, 24, 143, 144, 145, 500))
    check_lengths(small(3, whole_frames=True), (1, 17, 500), sources=3)


@torch.no_grad()
def test_the_last_samples_are_separated_too():
    mixture = torch.zeros(1, 203)
    mixture[:, -1] = 1
    assert small()(mixture)[:, -1].any()
    assert not small(whole_frames=True)(mixture).any()


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("time", [1, 20, 600])
def test_silence_is_silent_and_finite(time, dtype):
    check_silence(small(), time, dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_agrees(dtype):
    check_half_precision(small(), dtype)


def test_sharp_attention_does_not_overflow_half_precision():
    """Scores of 300 are 90,000 when squared, beyond float16."""
    model = small(group_size=64)
    with torch.no_grad():
        for layer in model.masknet.layers:
            layer.attention.qk_gain.mul_(600)
    mixture = torch.randn(1, 4000)
    with torch.autocast("cpu", dtype=torch.float16):
        output = model(mixture)
    output.square().sum().backward()
    assert torch.isfinite(output).all()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.requires_grad)


def test_attention_starts_near_nothing():
    torch.manual_seed(0)
    attention = MossFormer2(2, N=8, num_layers=1).masknet.layers[0].attention
    assert 0.017 < attention.qk_gain.std() < 0.023
    assert not attention.qk_offset.any()


def test_dropout_is_of_both_parts_while_training():
    mixture = torch.randn(1, 300)
    for name in ("attn_dropout", "dropout"):
        model = small(**{"attn_dropout": 0, "dropout": 0} | {name: 0.5}).train()
        assert not torch.equal(model(mixture), model(mixture)), name
    model = small(attn_dropout=0, dropout=0).train()
    assert torch.equal(model(mixture), model(mixture))


def test_checkpointed_layers_compute_the_same():
    mixture, results = torch.randn(1, 500), []
    for checkpoint_blocks in (False, True):
        model = small(checkpoint_blocks=checkpoint_blocks).train()
        torch.manual_seed(1)  # of dropout
        model(mixture).square().sum().backward()
        results.append([p.grad for p in model.parameters() if p.requires_grad])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("N", 13, "even"),
        ("qk_channels", 7, "even"),
        ("conv_size", 4, "odd"),
        ("conv_size", 1.5, "whole"),
        ("kernel_size", 1, "from 2"),
        *[(key, 0, "from 1") for key in ("num_sources", "num_layers", "group_size")],
        *[(key, 1.5, "whole") for key in ("fsmn_channels", "fsmn_order", "fsmn_depth", "N")],
    ],
)
def test_bad_sizes_are_named(key, value, reason):
    with pytest.raises(InputError, match=f"--{key}={value}: must be .*{reason}"):
        MossFormer2(**{"num_sources": 2} | SIZES | {key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("num_mossformer_layer", value) for value in (0, "two", None)],
        *[("encoder_embedding_dim", 9), ("mossformer_sequence_dim", 10), ("causal", True)],
        *[("expansion_factor", 2), ("norm", "gln"), ("rotary_dim", 2), ("attn_dropout", 2)],
        *[("num_spks", 2.5), ("query_key_dim", "x"), ("conv_module_kernel", 4)],
    ],
)
def test_configurations_that_make_no_model_are_refused_by_their_key(key, value):
    config = draw_config(random.Random(1))
    config |= config.pop("fixed")
    # If their widths differ, either is at fault.
    with pytest.raises(InputError, match=rf"{key}={value}|mossformer_sequence_dim"):
        from_reference(config | {key: value}, {})
    del config["num_spks"]
    with pytest.raises(InputError, match="num_spks: is missing"):
        from_reference(config, {})


def test_weights_that_do_not_fit_are_refused():
    config = draw_config(random.Random(0)) | {"num_mossformer_layer": 2}
    state = draw_state(config, torch.Generator().manual_seed(0))
    with pytest.raises(RuntimeError, match="memory"):
        from_reference(config, {k: v for k, v in state.items() if "fsmn.1" not in k})
    name = f"{STACK}mossformerM.layers.1.rotary_pos_emb.freqs"
    with pytest.raises(InputError, match="rotary: differs between layers"):
        from_reference(config, state | {name: 2 * state[name]})
