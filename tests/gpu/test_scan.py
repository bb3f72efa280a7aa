"""Triton's scan, and mamba_ssm's, on a GPU; in the interpreter without one."""

import os
import subprocess
import sys

import pytest
import torch

from custom_modules.models.mamba import Mamba
from custom_modules.selective_scan import selective_scan
from tests.gpu import scan_cases
from tests.integration.training import ROOT
from tests.selective_scan.cases import random_inputs, relative_error


@pytest.fixture(scope="module")
def interpreted():
    """The interpreter, in which each step takes milliseconds."""
    return subprocess.run(
        [sys.executable, "-m", "tests.gpu.scan_cases"],
        cwd=ROOT,
        env=os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("case", scan_cases.OWN)
def test_triton_as_pytorch(case, device, interpreted, full_precision):
    if device == "cuda":
        return scan_cases.OWN[case](device)
    assert case in interpreted.stdout.split(), interpreted.stderr


@pytest.mark.gpu
@pytest.mark.parametrize("case", scan_cases.SHARED)
def test_triton_as_its_interpreter(case):
    scan_cases.case_of_the_interpreter(case, "cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("steps", [1, 300])
def test_mamba_ssm_as_pytorch(steps):
    pytest.importorskip("selective_scan_cuda", reason="no mamba_ssm")
    # It has no gradient of the last state, so that selective_scan passes it over.
    inputs = [x.cuda().requires_grad_() for x in random_inputs(2, 6, steps, 4)]
    results = []
    for backend in ("mamba_ssm", "triton", "torch"):
        output = selective_scan(*inputs, delta_softplus=True, backend=backend)
        gradients = torch.autograd.grad(output.square().sum(), inputs)
        results.append([output, *gradients])
    for others in results[1:]:
        for a, b in zip(results[0], others, strict=True):
            assert relative_error(a, b) < 1e-4


@pytest.mark.gpu
def test_mamba_ssms_own_block_as_ours(full_precision):
    pytest.importorskip("selective_scan_cuda", reason="no mamba_ssm")
    from mamba_ssm.modules.mamba_simple import Mamba as Theirs

    theirs, ours = Theirs(16).cuda(), Mamba(16).cuda()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(3, 100, 16, device="cuda")
    assert relative_error(ours(x), theirs(x)) < 1e-4


def test_mamba_is_the_same_on_a_gpu(device, full_precision):
    mamba, x = Mamba(16), torch.randn(3, 100, 16)
    expected = mamba(x)
    found = mamba.to(device)(x.to(device))
    assert relative_error(found.cpu(), expected) < 1e-4
