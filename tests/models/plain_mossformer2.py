"""MossFormer2 as plain loops on weights drawn at random, to compare ours with."""

import math

import torch
import torch.nn.functional as F

from tests.models.plain_rotary import rotated

STACK = "model.mask_net.mdl.intra_mdl."


def draw_state(config, generator):
    """A state dict with the authors' names, for a configuration."""
    N, fixed = config["encoder_embedding_dim"], config["fixed"]
    kernel, net = config["encoder_kernel_size"], STACK[:15]
    drawn = Drawn(fixed, generator)
    frequencies = torch.arange(0, N, 2, dtype=torch.float64) / N
    drawn.state[f"{net}pos_enc.inv_freq"] = 10_000**-frequencies
    drawn.add("model.enc.conv1d.weight", N, 1, kernel, spread=1)
    drawn.add("model.dec.weight", N, 1, kernel, spread=1)
    drawn.add(f"{net}pos_enc.scale", 1, around=1)
    drawn.norm(f"{net}norm", N)
    drawn.norm(f"{STACK}norm", N)
    drawn.norm(f"{net}mdl.intra_norm", N)
    drawn.linear(f"{net}conv1d_encoder", N, N, bias=False, tail=(1,))
    drawn.linear(f"{net}conv1d_out", N, N * config["num_spks"], tail=(1,))
    drawn.linear(f"{net}conv1_decoder", N, N, bias=False, tail=(1,))
    drawn.linear(f"{net}output.0", N, N, tail=(1,))
    drawn.linear(f"{net}output_gate.0", N, N, tail=(1,))
    drawn.add(f"{net}prelu.weight", 1, around=0.25)
    for i in range(config["num_mossformer_layer"]):
        drawn.flash(f"{STACK}mossformerM.layers.{i}", N)
        drawn.fsmn(f"{STACK}mossformerM.fsmn.{i}", N)
    return drawn.state


class Drawn:
    """Weights of layers, drawn at random one after the other."""

    def __init__(self, fixed, generator):
        self.fixed, self.generator, self.state = fixed, generator, {}

    def add(self, name, *shape, spread=0.3, around=0.0):
        values = torch.randn(*shape, generator=self.generator, dtype=torch.float64)
        self.state[name] = around + spread * values / math.sqrt(math.prod(shape[1:]))

    def norm(self, name, channels):
        self.add(f"{name}.weight", channels, around=1)
        self.add(f"{name}.bias", channels)

    def linear(self, name, channels, out, bias=True, tail=()):
        self.add(f"{name}.weight", out, channels, *tail, spread=1)
        if bias:
            self.add(f"{name}.bias", out)

    def ffconv(self, name, channels, out, is_scaled):
        if is_scaled:
            self.add(f"{name}.mdl.0.g", 1, around=1)
        else:
            self.norm(f"{name}.mdl.0", channels)
        self.linear(f"{name}.mdl.1", channels, out)
        taps = self.fixed["conv_module_kernel"]
        self.add(f"{name}.mdl.3.sequential.1.conv.weight", out, 1, taps)

    def flash(self, name, N):
        qk, rotary = self.fixed["query_key_dim"], self.fixed["rotary_dim"]
        rotated = torch.arange(0, rotary, 2, dtype=torch.float64) / rotary
        self.state[f"{name}.rotary_pos_emb.freqs"] = 10_000**-rotated
        self.ffconv(f"{name}.to_hidden", N, 4 * N, is_scaled=True)
        self.ffconv(f"{name}.to_qk", N, qk, is_scaled=True)
        self.ffconv(f"{name}.to_out", 2 * N, N, is_scaled=True)
        self.add(f"{name}.qk_offset_scale.gamma", 4, qk, spread=3)
        self.add(f"{name}.qk_offset_scale.beta", 4, qk)

    def fsmn(self, name, N):
        inner = self.fixed["fsmn_inner_channels"]
        self.linear(f"{name}.conv1.0", N, inner, tail=(1,))
        self.add(f"{name}.conv1.1.weight", 1, around=0.25)
        self.norm(f"{name}.norm1", inner)
        self.norm(f"{name}.norm2", inner)
        self.linear(f"{name}.conv2", inner, N, tail=(1,))
        gated = f"{name}.gated_fsmn"
        self.ffconv(f"{gated}.to_u", inner, inner, is_scaled=False)
        self.ffconv(f"{gated}.to_v", inner, inner, is_scaled=False)
        self.linear(f"{gated}.fsmn.linear", inner, inner)
        self.linear(f"{gated}.fsmn.project", inner, inner, bias=False)
        for n in range(1, self.fixed["dense_depth"] + 1):
            dense, taps = f"{gated}.fsmn.conv", 2 * self.fixed["fsmn_lorder"] - 1
            self.add(f"{dense}.conv{n}.weight", inner, n, taps, 1, spread=1)
            self.norm(f"{dense}.norm{n}", inner)
            self.add(f"{dense}.prelu{n}.weight", inner, around=0.25)


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
        return rotated(x, self.p[f"{name}.rotary_pos_emb.freqs"])

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
