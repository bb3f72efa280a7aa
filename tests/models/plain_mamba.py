"""Mamba separators as plain loops, to compare ours with, and what both must do."""

from pathlib import Path

import torch
import torch.nn.functional as F

from tests.models.contract import relative_error

DATA = Path(__file__).parent.parent / "data"


def perturb(model, scale=0.1):
    """No parameter stays at a value that hides it."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += scale * torch.randn_like(parameter)
    return model


def below(state, prefix):
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def plain_norm(x, p):
    """RMS norm, or a layer norm where there is a bias; channels are last."""
    if "bias" in p:
        x = x - x.mean(-1, keepdim=True)
    x = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * p["weight"]
    return x + p.get("bias", 0)


def plain_direction(u, gate, p, suffix=""):
    """Convolution, scan and gate, step by step."""
    A_log, D = (p["A_b_log"], p["D_b"]) if suffix else (p["A_log"], p["D"])
    kernel = p[f"conv1d{suffix}.weight"][:, 0]  # [inner, taps]
    taps, rank = kernel.shape[1], p[f"dt_proj{suffix}.weight"].shape[1]
    state = A_log.shape[1]
    h, outputs = 0, []
    for t in range(u.shape[1]):
        past = [u[:, t - k] * kernel[:, taps - 1 - k] for k in range(taps) if t >= k]
        v = F.silu(sum(past) + p[f"conv1d{suffix}.bias"])  # [batch, inner]
        parts = v @ p[f"x_proj{suffix}.weight"].T
        dt, B, C = parts.split([rank, state, state], dim=1)
        dt = dt @ p[f"dt_proj{suffix}.weight"].T + p[f"dt_proj{suffix}.bias"]
        dt = torch.log1p(torch.exp(dt))[:, :, None]
        h = torch.exp(-dt * A_log.exp()) * h + dt * B[:, None] * v[:, :, None]
        outputs.append((h * C[:, None]).sum(2) + D * v)
    return torch.stack(outputs, dim=1) * F.silu(gate)


def plain_mixer(x, p):
    u, gate = (x @ p["in_proj.weight"].T).chunk(2, dim=2)
    y = plain_direction(u, gate, p)
    if "D_b" in p:
        y = (y + plain_direction(u.flip(1), gate.flip(1), p, "_b").flip(1)) / 2
    return y @ p["out_proj.weight"].T


def plain_stack(x, state):
    """``[batch, time, channels]`` through the blocks of a state dict."""
    layers = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("layers."))
    for layer in range(layers):
        p = below(state, f"layers.{layer}.")
        x = x + plain_mixer(plain_norm(x, below(p, "norm.")), below(p, "mixer."))
    return plain_norm(x, below(state, "norm_f."))


def plain_separator(mixture, state, masks_of):
    """Encodes, masks and decodes; samples that fill no frame come out as 0."""
    basis, synthesis = state["encoder.conv1d.weight"][:, 0], state["decoder.weight"][:, 0]
    kernel, step = basis.shape[1], basis.shape[1] // 2
    features = F.relu(mixture.unfold(1, kernel, step) @ basis.T)  # [batch, frames, channels]
    masks = masks_of(features, below(state, "masknet."))  # [batch, frames, sources, channels]
    frames = (features[:, :, None] * masks) @ synthesis  # [batch, frames, sources, kernel]
    output = mixture.new_zeros(*mixture.shape, masks.shape[2])
    for t in range(frames.shape[1]):
        output[:, t * step : t * step + kernel] += frames[:, t].transpose(1, 2)
    return output


def check_golden(name, module):
    """Outputs and all gradients of a recording."""
    golden = torch.load(DATA / f"{name}.pt", weights_only=True)
    model = module.from_reference(golden["config"], golden["state_dict"])
    assert not model.training

    def as_ours(output):
        return output.transpose(1, 2) if "predecessor" in name else output

    x = golden["input"].requires_grad_()
    output = model(x)
    assert relative_error(output, as_ours(golden["output"])) < 2e-6
    output.square().sum().backward()
    assert relative_error(x.grad, golden["grad_input"]) < 5e-6
    parameters = dict(model.named_parameters())
    theirs = golden["state_dict"]
    names = dict(zip(theirs, module.convert_state_dict(theirs), strict=True))
    for key, (norm, total, dot) in golden["grad_probes"].items():
        grad = parameters.pop(names[key]).grad.double().flatten()
        weights = torch.cos(torch.arange(len(grad), dtype=torch.float64))
        found = torch.stack([grad.norm(), grad.sum(), grad @ weights])
        expected = torch.tensor([norm, total, dot], dtype=torch.float64)
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-5 * norm)
    assert not parameters
    odd, expected = model(golden["input_odd"]), as_ours(golden["output_odd"])
    covered = 600
    assert odd.shape[1] == golden["input_odd"].shape[1] == 603
    assert relative_error(odd[:, :covered], expected[:, :covered]) < 2e-6
    assert not odd[:, covered:].any()


def check_lengths(model):
    """Any length comes out as long, finite, and alike alone or in a batch."""
    for time in (1, 2, 15, 16, 17, 500):
        mixture = 0.1 * torch.randn(3, time)
        with torch.no_grad():
            output = model(mixture)
            torch.testing.assert_close(output[1:2], model(mixture[1:2]), atol=1e-6, rtol=1e-4)
        assert output.shape == (3, time, 2)
        assert torch.isfinite(output).all()
    # Frames reach the last sample.
    mixture = torch.zeros(1, 203)
    mixture[:, -1] = 1
    with torch.no_grad():
        assert model(mixture)[:, -1].any()


def check_silence(model, autocast, beside_speech):
    mixture = torch.zeros(2, 600)
    if beside_speech:
        mixture[1] = torch.randn(600)
    mixture.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        output = model(mixture)
    assert not output[0].any()
    (output - 1).square().sum().backward()
    assert torch.isfinite(output).all() and torch.isfinite(mixture.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def check_half_precision(model):
    mixture = 0.1 * torch.randn(2, 1000)
    losses = []
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            output = model(mixture).float()
        loss = (output - 0.5 * mixture.unsqueeze(2)).square().sum()
        model.zero_grad()
        loss.backward()
        assert all(torch.isfinite(p.grad).all() for p in model.parameters())
        losses.append(loss.item())
    assert abs(losses[1] / losses[0] - 1) < 0.02


def check_initialisation(model, layers):
    """Step sizes of both directions from 0.001 to 0.1; out_proj by the blocks of a stack."""
    for name, parameter in model.named_parameters():
        if name.endswith(("dt_proj.bias", "dt_proj_b.bias")):
            steps = F.softplus(parameter.detach())
            assert steps.min() >= 0.001 and steps.max() <= 0.1001, name
            assert steps.std() > 0.01, name
        if name.endswith("out_proj.weight"):
            bound = (parameter.shape[1] * layers) ** -0.5
            assert 0.9 * bound < parameter.max() <= bound, name
