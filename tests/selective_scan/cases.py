"""Inputs for the selective scan, recorded and random."""

from pathlib import Path

import torch

from custom_modules.selective_scan.reference import reference_scan

NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")
DATA = Path(__file__).parent.parent / "data"


def recorded_cases():
    """Cases of mamba_ssm's own reference, by name."""
    cases = torch.load(DATA / "selective_scan.pt", weights_only=True)["cases"]
    return {case["name"]: case for case in cases}


def random_inputs(batch, dim, time, state, dtype=torch.float32, seed=0):
    """Arguments in the order of :data:`NAMES`, of moderate decay."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=dtype)

    return [
        normal(batch, dim, time),
        normal(batch, dim, time) * 0.5,
        -torch.exp(normal(dim, state)),
        normal(batch, state, time),
        normal(batch, state, time),
        normal(dim),
        normal(batch, dim, time),
        normal(dim) * 0.5,
    ]


def relative_error(a, b):
    """‖a − b‖ / ‖b‖; the absolute one where b is zero."""
    return ((a - b).norm() / (b.norm() if b.norm() > 0 else 1)).item()


def run(scan, inputs, grad_output, softplus=True, grad_state=None, **options):
    """Output, last state and the gradients of all inputs that are there."""
    inputs = [None if x is None else x.detach().requires_grad_() for x in inputs]
    output, state = scan(*inputs, softplus, **options)
    present = [x for x in inputs if x is not None]
    outputs, grads = [output], [grad_output]
    if grad_state is not None:
        outputs, grads = [output, state], [grad_output, grad_state]
    return [output.detach(), state.detach(), *torch.autograd.grad(outputs, present, grads)]


def assert_agrees(scan, inputs, tolerance=1e-5, softplus=True, **options):
    """The scan gives what the plain loop gives in float64, gradients too."""
    generator = torch.Generator().manual_seed(1)
    grad_output = torch.randn(inputs[0].shape, generator=generator)
    state = (*inputs[0].shape[:2], inputs[2].shape[1])
    grad_state = torch.randn(state, generator=generator)
    grads = {"grad_output": grad_output, "grad_state": grad_state}
    found = run(scan, inputs, softplus=softplus, **grads, **options)
    exact = [None if x is None else x.double() for x in inputs]
    grads = {name: grad.double() for name, grad in grads.items()}
    expected = run(reference_scan, exact, softplus=softplus, **grads)
    names = [name for name, x in zip(NAMES, inputs, strict=True) if x is not None]
    names = ["output", "last state", *names]
    for name, a, b in zip(names, found, expected, strict=True):
        assert torch.isfinite(a).all(), name
        assert relative_error(a, b) < tolerance, name
