"""Runs the Triton kernels in its interpreter, on CPU; a script for a subprocess.

Whether kernels are interpreted is settled when they are imported, hence a process
of its own. Prints a line per case; leaves with an error if one does not agree.
"""

import sys
from functools import cache

import torch
from triton.runtime import interpreter

from custom_modules.selective_scan import selective_scan
from custom_modules.selective_scan.fused import CHUNK, fused_scan
from tests.draws import DRAWS
from tests.selective_scan.cases import (
    NAMES,
    assert_agrees,
    random_inputs,
    recorded_cases,
    relative_error,
    run,
)


def patch_once():
    """Once for each function; a third of the time is the interpreter's patching anew."""
    interpreter._LangPatchScope.restore = lambda scope: None
    interpreter._patch_lang = cache(interpreter._patch_lang)


def recorded():
    """Every recorded case, outputs and gradients."""
    for name, case in recorded_cases().items():
        inputs = [case["inputs"][key] for key in NAMES]
        output, state, *grads = run(fused_scan, inputs, case["grad_output"], case["delta_softplus"])
        expected = [case["grads"][key] for key in NAMES if key in case["grads"]]
        pairs = [(output, case["output"]), (state, case["last_state"])]
        pairs += zip(grads, expected, strict=True)
        worst = max(relative_error(a, b) for a, b in pairs)
        print(f"{name}: {worst:.1e}")
        assert worst < 1e-5, name


def shapes():
    """Sizes that are no powers of two, edges of chunks, several programs."""
    for sizes in [
        (1, 1, 1, 1),
        (2, 3, 2, 5),
        (1, 5, CHUNK - 1, 3),
        (1, 5, CHUNK, 3),
        (2, 5, CHUNK + 1, 64),
        (1, 70, 2 * CHUNK + 3, 16),
    ]:
        assert_agrees(fused_scan, random_inputs(*sizes))
        print(sizes)


def decays():
    """No decay and strong decay."""
    for rate in (0.0, 10.0, 80.0, 1e4):
        inputs = random_inputs(1, 3, 40, 4)
        inputs[1] = torch.ones_like(inputs[1])
        inputs[2] = torch.full_like(inputs[2], -rate)
        inputs[7] = None
        assert_agrees(fused_scan, inputs, softplus=False)
        print(f"decay {rate}")


def small_steps():
    """softplus keeps its digits far below zero."""
    inputs = random_inputs(1, 3, 20, 4)
    inputs[1] = inputs[1] - torch.tensor([5.0, 12.0, 30.0])[:, None]
    assert_agrees(fused_scan, inputs)
    print("small steps")


def memory_layouts():
    """Channels next to each other, time next to each other, and neither."""
    plain = random_inputs(2, 6, 19, 4)
    grad = torch.randn(2, 6, 19)
    expected = run(fused_scan, plain, grad)
    for order in ((0, 2, 1), (2, 1, 0)):
        inputs = list(plain)
        for index in (0, 1, 3, 4, 6):
            inputs[index] = plain[index].permute(order).contiguous().permute(order)
        found = run(fused_scan, inputs, grad.permute(order).contiguous().permute(order))
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    print("memory layouts")


def interface():
    """The backend can be asked for by its name; float64 is refused."""
    inputs = random_inputs(1, 3, 10, 4)
    found = selective_scan(*inputs, delta_softplus=True, backend="triton")
    expected = selective_scan(*inputs, delta_softplus=True, backend="eager")
    assert relative_error(found, expected) < 1e-5
    try:
        selective_scan(*[x.double() for x in inputs], backend="triton")
    except RuntimeError as error:
        assert "float64" in str(error)
    else:
        raise AssertionError("computed in float32 without a word")
    print("interface")


def assert_within_one_place(found, exact):
    """Bfloat16 has 8 binary places; the interpreter cuts off what is beyond them."""
    torch.testing.assert_close(found.float(), exact, rtol=2**-7, atol=1e-6)


def half_precision():
    """Only inputs and outputs are rounded."""
    inputs = random_inputs(1, 3, 20, 4)
    for index in (0, 1, 3, 4, 6):
        inputs[index] = inputs[index].bfloat16()
    grad = torch.randn(1, 3, 20).bfloat16()
    found = run(fused_scan, inputs, grad)
    expected = run(fused_scan, [x.float() for x in inputs], grad.float())
    for a, b, x in zip(found[2:], expected[2:], inputs, strict=True):
        assert a.dtype == x.dtype
        assert_within_one_place(a, b)
    assert found[0].dtype == torch.bfloat16
    assert_within_one_place(found[0], expected[0])
    print("half precision")


def operator():
    """What compilers are told of the operator is true; no second derivative."""
    inputs = [x.requires_grad_() for x in random_inputs(2, 3, 18, 4)]
    arguments = (*inputs, True, 16, True)
    torch.library.opcheck(torch.ops.custom_modules.fused_scan.default, arguments)
    output, _ = fused_scan(*inputs, True)
    (grad,) = torch.autograd.grad(output.sum(), inputs[0], create_graph=True)
    try:
        torch.autograd.grad(grad.sum(), inputs[0])
    except RuntimeError as error:
        assert "fused_scan_backward" in str(error)
    else:
        raise AssertionError("differentiated twice")
    print("operator")


if __name__ == "__main__":
    torch.manual_seed(DRAWS)
    patch_once()
    for name in sys.argv[1:]:
        globals()[name]()
