"""What ends a training that is nobody's bug."""

import pytest
import torch
from torch._dynamo.exc import TorchDynamoException, TorchRuntimeError

from custom_modules.distributed import explained_failures
from custom_modules.errors import InputError


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), "--batch_size=3 --grad_accum"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "batch_size 6"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"), "--segment_seconds=1"),
        (TorchDynamoException("no backend"), "torch.compile fails .* without --compile"),
        (torch.distributed.DistNetworkError("reset"), "another process"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed"), "num_workers"),
        (RuntimeError("[gloo] Connection closed by peer [::1]"), "another process"),
    ],
)
def test_what_ends_a_training_is_told_in_one_line(error, message):
    sizes = {"batch_size": 6, "segment_seconds": 2.0, "grad_accumulation_factor": 1}
    with pytest.raises(InputError, match=message) as caught, explained_failures(sizes):
        raise error
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [RuntimeError, TorchRuntimeError, ValueError])
def test_a_bug_of_the_model_is_not_explained_away(kind):
    """Also where torch.compile was tracing it."""
    sizes = {"batch_size": 6, "segment_seconds": 2.0, "grad_accumulation_factor": 1}
    with pytest.raises(kind, match="a bug"), explained_failures(sizes):
        raise kind("a bug")
