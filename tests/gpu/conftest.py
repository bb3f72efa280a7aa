"""Tests of a GPU; without one they are skipped, and the rest runs on a CPU instead."""

import os

import pytest
import torch

from tests.integration.training import ROOT

HAS_GPU = torch.cuda.is_available()
# What cuBLAS needs to repeat itself to the bit; it is read when CUDA starts.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu") and not HAS_GPU:
        pytest.skip("no GPU")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    """A GPU, and a CPU in its place, where typing errors are found."""
    return request.param


@pytest.fixture
def full_precision():
    """Float32 has all its digits; SpeechBrain has GPUs drop some (TF32)."""
    flags = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [flag.allow_tf32 for flag in flags]
    for flag in flags:
        flag.allow_tf32 = False
    yield
    for flag, value in zip(flags, before, strict=True):
        flag.allow_tf32 = value


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("POLSESS_DATA_ROOT", raising=False)
