"""Triton's scan on a GPU; as a script, the quick cases in Triton's interpreter.

Whether kernels are interpreted is settled when they are imported, hence a process of
its own.
"""

import torch

from custom_modules.selective_scan import selective_scan
from tests.selective_scan import interpreted_cases
from tests.selective_scan.cases import random_inputs, relative_error, run


def scan_on(device, backend="triton"):
    """A scan of tensors on the CPU that is done on a device, with its gradients."""

    def scan(*arguments):
        *tensors, softplus = arguments
        tensors = [x if x is None else x.to(device) for x in tensors]
        output, state = selective_scan(
            *tensors, delta_softplus=softplus, return_last_state=True, backend=backend
        )
        return output.cpu(), state.cpu()

    return scan


def case_of_the_interpreter(name, device):
    """One of those that the interpreter goes through elsewhere, on a device."""
    before = interpreted_cases.fused_scan
    interpreted_cases.fused_scan = scan_on(device)
    try:
        getattr(interpreted_cases, name)()
    finally:
        interpreted_cases.fused_scan = before


def assert_near(device, inputs, tolerance, backend="triton"):
    """As PyTorch's own scan in float64, values and gradients."""
    grad = torch.randn(inputs[0].shape)
    found = run(scan_on(device, backend), inputs, grad.to(inputs[0].dtype))
    exact = [x.double() for x in inputs]
    expected = run(scan_on("cpu", "eager"), exact, grad.to(inputs[0].dtype).double())
    for place, (a, b) in enumerate(zip(found, expected, strict=True)):
        assert torch.isfinite(a).all(), place
        assert relative_error(a.double(), b) < tolerance, place


def one_step(device):
    assert_near(device, random_inputs(3, 5, 1, 4), 1e-5)


def many_steps(device):
    """Rounding adds up over 100,000 of them, most of all in sums."""
    inputs = random_inputs(1, 5, 100_000 if device == "cuda" else 20, 4)
    assert_near(device, inputs, 1e-4)


def shape_of_spmamba(device):
    """Its own on a GPU: 126 sequences of 498 steps and 256 channels, 16 states."""
    sizes = (126, 256, 498, 16) if device == "cuda" else (1, 33, 3, 16)
    assert_near(device, random_inputs(*sizes), 1e-4)


def half_precision(device):
    """Inputs and outputs are rounded to 8 or 11 binary places, and nothing else."""
    for dtype, places in ((torch.bfloat16, 8), (torch.float16, 11)):
        inputs = random_inputs(2, 6, 20, 4)
        for index in (0, 1, 3, 4, 6):
            inputs[index] = inputs[index].to(dtype)
        output, _ = scan_on(device)(*inputs, True)
        assert output.dtype == dtype
        assert_near(device, inputs, 2 ** (1 - places))


def not_contiguous(device):
    """Every other channel, every other step, and one sequence for all."""
    wide, inputs = random_inputs(2, 12, 40, 4), random_inputs(2, 6, 20, 4)
    for index in (0, 1, 6):
        inputs[index] = wide[index][:, ::2, ::2]
    for index in (3, 4):
        inputs[index] = wide[index][:1, :, ::2].expand(2, -1, -1)
    assert_near(device, inputs, 1e-5)


OWN = {
    case.__name__: case
    for case in (one_step, many_steps, shape_of_spmamba, half_precision, not_contiguous)
}
SHARED = ("recorded", "shapes", "decays", "small_steps", "memory_layouts")

if __name__ == "__main__":
    interpreted_cases.patch_once()
    for name, case in OWN.items():
        torch.manual_seed(0)
        case("cpu")
        print(name)
