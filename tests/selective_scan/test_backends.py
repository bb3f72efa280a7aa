"""The choice of a backend, and the Triton kernels as far as a CPU can tell."""

import logging
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from custom_modules.selective_scan import backends, fused, numba_kernels, selective_scan
from custom_modules.selective_scan.reference import reference_scan
from tests.selective_scan.cases import random_inputs, relative_error

ROOT = Path(__file__).parents[2]


@pytest.fixture
def fresh(monkeypatch):
    """Nothing announced, nothing imported yet."""
    monkeypatch.setattr(backends, "_announced", set())
    backends._can_import.cache_clear()
    yield
    backends._can_import.cache_clear()


def on_cuda(inputs):
    """Stand-ins for tensors on a GPU, as far as the choice looks at them."""
    return [
        types.SimpleNamespace(
            is_cuda=True, device=torch.device("cuda:0"), dtype=x.dtype, shape=x.shape
        )
        for x in inputs
    ]


def offer_mamba_ssm(monkeypatch, function=reference_scan):
    """Pretends that mamba_ssm is installed with its extension."""
    interface = types.ModuleType("mamba_ssm.ops.selective_scan_interface")
    interface.selective_scan_fn = function
    for name in ("mamba_ssm", "mamba_ssm.ops", "selective_scan_cuda"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, interface.__name__, interface)


# Some at a time: most of what one takes is importing.
@pytest.mark.slow
@pytest.mark.parametrize(
    "cases",
    ["recorded", "shapes decays small_steps memory_layouts interface half_precision operator"],
)
def test_kernels_agree_in_the_interpreter(cases):
    done = subprocess.run(
        [sys.executable, "-m", "tests.selective_scan.interpreted_cases", *cases.split()],
        cwd=ROOT,
        env=os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize("signal", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("kernel", ["_scan_forward", "_scan_backward"])
def test_kernels_compile_without_a_gpu(kernel, signal, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    function = getattr(fused, kernel)
    flags = dict.fromkeys(("HAS_D", "HAS_Z", "HAS_BIAS", "SOFTPLUS", "KEEP"), True)
    constants = flags | {"CHUNK": 16, "STATES": 16, "CHANNELS": 32}
    constants = {k: v for k, v in constants.items() if k in function.arg_names}
    signals = {"u", "delta", "B", "C", "z", "output", "grad_output", "grad_u"}
    numbers = {"time", "dim", "state", "batch"}

    def kind(name):
        if name in constants:
            return "constexpr"
        if name in numbers or name.endswith(("_b", "_t")):
            return "i32"
        return f"*{signal}" if name in signals else "*fp32"

    source = ASTSource(
        function,
        {name: kind(name) for name in function.arg_names},
        {(function.arg_names.index(name),): value for name, value in constants.items()},
    )
    target = GPUTarget("cuda", 80, 32)
    compiled = triton.compile(source, target=target, options={"num_warps": 1})
    assert f".entry {kernel}" in compiled.asm["ptx"]


def test_the_choice_is_logged_once(caplog, fresh):
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            selective_scan(*random_inputs(1, 2, 5, 2))
    messages = [r.getMessage() for r in caplog.records]
    assert messages == ["selective scan: backend torch, compiled by Numba (once, on first use)"]


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_a_cpu_takes_numba_where_it_can(backend, fresh, monkeypatch):
    def way(tensors):
        return backends.choose(backend, tensors[0], tensors[2].shape[1], True)

    tensors = random_inputs(1, 2, 5, 2)
    assert way(tensors) == "numba"
    assert way([x.double() for x in tensors]) == "eager"
    assert way(random_inputs(1, 2, 5, 257)) == "eager"
    backends._can_import.cache_clear()
    monkeypatch.setitem(sys.modules, "custom_modules.selective_scan.compiled", None)
    assert way(tensors) == "eager"


def auto(tensors, return_last_state):
    states = tensors[2].shape[1]
    return backends.choose("auto", tensors[0], states, return_last_state)


def test_a_gpu_takes_what_is_installed(fresh, monkeypatch):
    tensors = on_cuda(random_inputs(1, 2, 5, 2))
    monkeypatch.setitem(sys.modules, "selective_scan_cuda", None)
    assert auto(tensors, False) == "triton"
    backends._can_import.cache_clear()
    monkeypatch.setitem(sys.modules, "custom_modules.selective_scan.fused", None)
    assert auto(tensors, False) == "eager"
    backends._can_import.cache_clear()
    offer_mamba_ssm(monkeypatch)
    assert auto(tensors, False) == "mamba_ssm"


def test_mamba_ssm_is_passed_over_where_it_falls_short(fresh, monkeypatch):
    offer_mamba_ssm(monkeypatch)
    assert auto(on_cuda(random_inputs(1, 2, 5, 300)), False) == "triton"
    assert auto(on_cuda(random_inputs(1, 2, 5, 2)), True) == "triton"
    with torch.no_grad():
        assert auto(on_cuda(random_inputs(1, 2, 5, 2)), True) == "mamba_ssm"
    double = random_inputs(1, 2, 5, 2, dtype=torch.float64)
    assert auto(on_cuda(double), False) == "eager"


def test_mamba_ssm_without_its_extension_is_as_good_as_none(fresh, monkeypatch):
    offer_mamba_ssm(monkeypatch)
    monkeypatch.setitem(sys.modules, "selective_scan_cuda", None)
    assert auto(on_cuda(random_inputs(1, 2, 5, 2)), False) == "triton"


def test_mamba_ssm_is_called_as_it_expects(fresh, monkeypatch):
    calls = []

    def selective_scan_fn(*arguments, return_last_state):
        calls.append([getattr(x, "dtype", x) for x in arguments])
        assert return_last_state
        return reference_scan(*arguments)

    offer_mamba_ssm(monkeypatch, selective_scan_fn)
    inputs = random_inputs(2, 3, 10, 4)
    mixed = [x.bfloat16() if i in (0, 2, 5) else x for i, x in enumerate(inputs)]
    output, _ = backends._scan_by_mamba_ssm(*mixed, True)
    half, single = torch.bfloat16, torch.float32
    assert calls == [[half, half, single, half, half, single, half, single, True]]
    assert relative_error(output.float(), reference_scan(*inputs, True)[0]) < 0.05


def test_without_room_for_a_cache_kernels_are_compiled_again(monkeypatch):
    def njit(cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: (function, options)

    monkeypatch.setattr(numba_kernels.numba, "njit", njit)
    function, options = numba_kernels._compile(fastmath={"contract"})(max)
    assert function is max
    assert options["fastmath"] == {"contract"}


@pytest.mark.parametrize(
    ("backend", "error", "message"),
    [
        ("cuda", ValueError, "'cuda'; there are auto, torch, mamba_ssm, triton"),
        ("triton", RuntimeError, "triton needs tensors on a CUDA device, not cpu"),
        ("mamba_ssm", RuntimeError, "mamba_ssm needs tensors on a CUDA device"),
    ],
)
def test_backends_that_cannot_be_used_are_refused(backend, error, message):
    with pytest.raises(error, match=message):
        selective_scan(*random_inputs(1, 2, 5, 2), backend=backend)


@pytest.mark.slow
def test_without_any_other_package_everything_runs_in_silence():
    """One line in the log, not a warning."""
    program = """
import logging, sys, warnings
warnings.simplefilter("error")
logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
missing = ("numba", "triton", "mamba_ssm", "selective_scan_cuda")
sys.modules.update(dict.fromkeys(missing))
import torch
from custom_modules.models.mamba import Mamba
model = Mamba(8)
model(torch.randn(2, 9, 8)).sum().backward()
model(torch.randn(2, 9, 8)).sum().backward()
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == "INFO selective scan: backend torch, not compiled\n"
    assert not done.stdout


def test_the_reference_can_be_differentiated_twice():
    """As the plain loop that it is, unlike the others."""
    inputs = [x.requires_grad_() for x in random_inputs(1, 2, 5, 2)]
    output = selective_scan(*inputs, delta_softplus=True, backend="reference")
    (grad,) = torch.autograd.grad(output.sum(), inputs[1], create_graph=True)
    (second,) = torch.autograd.grad(grad.sum(), inputs[1])
    assert second.abs().sum() > 0


def test_ddp_averages_the_gradients_of_a_scan(tmp_path):
    """One process suffices to go through DDP's hooks."""
    from torch.nn.parallel import DistributedDataParallel

    from custom_modules.models.mamba import Mamba

    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1
    )
    try:
        torch.manual_seed(0)
        mamba, x = Mamba(4), torch.randn(2, 9, 4)
        mamba(x).sum().backward()
        expected = [p.grad.clone() for p in mamba.parameters()]
        mamba.zero_grad()
        DistributedDataParallel(mamba)(x).sum().backward()
        for parameter, grad in zip(mamba.parameters(), expected, strict=True):
            torch.testing.assert_close(parameter.grad, grad)
    finally:
        torch.distributed.destroy_process_group()
