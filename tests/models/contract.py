"""What every separator must do, whatever it is made of."""

from pathlib import Path

import torch

DATA = Path(__file__).parent.parent / "data"


def relative_error(a, b):
    return ((a - b).norm() / b.norm()).item()


def perturb(model, scale=0.1):
    """No parameter stays at a value that hides it."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += scale * torch.randn_like(parameter)
    return model


def check_grad_probes(model, probes, names, tolerance=2e-5):
    """Norm, sum and product with cos(0, 1, 2, …) of the gradients of all parameters."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for key, (norm, total, dot) in probes.items():
        grad = parameters.pop(names[key]).grad.double().flatten()
        weights = torch.cos(torch.arange(len(grad), dtype=torch.float64))
        found = torch.stack([grad.norm(), grad.sum(), grad @ weights])
        expected = torch.tensor([norm, total, dot], dtype=torch.float64)
        torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * norm, msg=key)
    assert not parameters


@torch.no_grad()
def check_lengths(model, times, sources=2):
    """Any length comes out as long, finite, and alike alone or in a batch."""
    for time in times:
        mixture = 0.1 * torch.randn(3, time)
        output = model(mixture)
        assert output.shape == (3, time, sources)
        assert torch.isfinite(output).all()
        torch.testing.assert_close(output[1:2], model(mixture[1:2]), atol=1e-5, rtol=1e-4)


def check_silence(model, time, dtype=None):
    """Silence beside noise: no output, finite gradients, and the noise's output as alone."""
    mixture = torch.zeros(2, time)
    mixture[1] = torch.randn(time)
    alone = model(mixture[1:])
    mixture.requires_grad_()
    with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
        output = model(mixture)
    assert not output[0].any()
    if dtype is None:
        torch.testing.assert_close(output[1:], alone, atol=1e-5, rtol=1e-4)
    (output - 1).square().sum().backward()
    check_finite(model, output, mixture.grad)


def check_half_precision(model, dtype, tolerance=0.03):
    """Finite, and a few percent from float32; so are the gradients of all parameters."""
    mixture, results = 0.1 * torch.randn(2, 1000), []
    for enabled in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", dtype=dtype, enabled=enabled):
            output = model(mixture).float()
        (output - 0.5 * mixture.unsqueeze(2)).square().sum().backward()
        check_finite(model, output)
        grads = torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])
        results.append((output, grads))
    for exact, rounded in zip(*results, strict=True):
        assert relative_error(rounded, exact) < tolerance


def check_finite(model, *tensors):
    grads = [p.grad for p in model.parameters() if p.requires_grad]
    assert all(torch.isfinite(tensor).all() for tensor in (*tensors, *grads))
