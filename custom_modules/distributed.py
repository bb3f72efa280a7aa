"""What ends a training that is nobody's bug, told in one line."""

from contextlib import contextmanager

import speechbrain as sb
import torch
from speechbrain.utils.distributed import is_distributed_initialized

from custom_modules.errors import InputError

# A CPU's allocator, cuBLAS and cuDNN raise a plain RuntimeError.
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "ALLOC_FAILED")
_LOST_PROCESS = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")
_RERUN = "Nothing is lost: the same command goes on from the last checkpoint"


@contextmanager
def explained_failures(hparams):
    """Turns running out of memory, and losing a process, into one line.

    Arguments
    ---------
    hparams : dict
        ``batch_size``, ``segment_seconds``, ``grad_accumulation_factor``, and
        ``precision``.

    Raises
    ------
    InputError
        Says what to lower.

    Example
    -------
    >>> sizes = {
    ...     "batch_size": 8, "segment_seconds": None, "grad_accumulation_factor": 1
    ... }
    >>> with explained_failures(sizes):  # doctest: +ELLIPSIS
    ...     raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate …")
    Traceback (most recent call last):
    custom_modules.errors.InputError: out of memory with batch_size 8; use \
--batch_size=4 --grad_accumulation_factor=2, which takes the same steps, ...
    """
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            message = f"out of memory with {_remedy(hparams)}"
        elif type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise InputError(
                f"torch.compile fails for this model ({type(error).__name__}); "
                "train without --compile and --compile_module_keys"
            ) from error
        elif is_lost_process(error):
            message = "another process of this run has ended"
        else:
            raise
        raise InputError(f"{message}. {_RERUN}") from error


def is_out_of_memory(error):
    """Whether a device, or the machine, had no memory left.

    Arguments
    ---------
    error : Exception

    Returns
    -------
    bool
    """
    told = any(sign in str(error) for sign in _OUT_OF_MEMORY)
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and told)


def is_lost_process(error):
    """Whether another process of ``torchrun`` could not be reached any more.

    Arguments
    ---------
    error : Exception

    Returns
    -------
    bool
    """
    told = any(sign in str(error) for sign in _LOST_PROCESS)
    return isinstance(error, torch.distributed.DistError) or told


def _remedy(hparams):
    """What to lower, dearest last."""
    size, factor = hparams["batch_size"], hparams["grad_accumulation_factor"]
    whole = hparams.get("precision") == "fp32"
    remedies = ["--precision=bf16"] if whole else []
    if size > 1:
        half, double = size // 2, factor * 2
        same = ", which takes the same steps" if size % 2 == 0 else ""
        smaller = f"--batch_size={half} --grad_accumulation_factor={double}{same}"
        remedies.insert(0, smaller)
    seconds = hparams["segment_seconds"]
    shorter = 2.0 if seconds is None else seconds / 2
    remedies.append(f"--segment_seconds={shorter:g}")
    return f"batch_size {size}; use {', or '.join(remedies)}"


def join_processes(run_opts):
    """Joins the processes that ``torchrun`` started, if it did.

    Arguments
    ---------
    run_opts : speechbrain.utils.run_opts.RunOptions

    Raises
    ------
    InputError
        If there are fewer GPUs than processes, or the backend is not there.
    """
    try:
        sb.utils.distributed.ddp_init_group(run_opts)
    except ValueError as error:
        reason = " ".join(str(error).removeprefix("Killing process ").split())
        raise InputError(
            f"torchrun: {reason} Start at most one process per GPU "
            f"({torch.cuda.device_count()} here), or "
            "take CPUs with --distributed_backend=gloo --device=cpu"
        ) from error


def rank_and_processes():
    """Which of the processes of ``torchrun`` this one is, and how many there are.

    Returns
    -------
    rank, processes : int
        0 and 1 without ``torchrun``.

    Example
    -------
    >>> rank_and_processes()
    (0, 1)
    """
    if not is_distributed_initialized():
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def leave_processes():
    """Takes leave of the others; a process that just ends may be aborted by gloo."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
