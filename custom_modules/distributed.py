"""Devices and processes of a run, and what ends it that is nobody's bug."""

import contextlib
import dataclasses
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import speechbrain as sb
import torch
from speechbrain.utils.distributed import is_distributed_initialized
from speechbrain.utils.logger import get_logger
from speechbrain.utils.run_opts import RunOptions

from custom_modules.errors import InputError, raised_in
from custom_modules.limits import check_values, option

logger = get_logger(__name__)

# A CPU's allocator, cuBLAS and cuDNN raise a plain RuntimeError.
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "ALLOC_FAILED")
_LOST_PROCESS = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")
#: For want of shared memory.
FEWER_WORKERS = (
    "use a smaller --num_workers, 0 needs none, or a larger /dev/shm (docker run --shm-size=2g)"
)
_RERUN = "Nothing is lost: the same command goes on from the last checkpoint"


def read_run_options(arguments: list[str]) -> RunOptions:
    """SpeechBrain's own options, from ``hparams.split_arguments``."""
    printed = io.StringIO()  # its parser would print its usage
    try:
        with contextlib.redirect_stderr(printed):
            run_opts = RunOptions.from_command_line_args(arguments)[1]
    except SystemExit:
        reason = printed.getvalue().strip().rpartition("error: ")[2]
        raise InputError(f"{reason}; see --help") from None
    if "device" in run_opts.overridden_args:
        check_device(run_opts.device)
    limit = run_opts.optimizer_step_limit  # its parser leaves it a string
    if limit is not None:
        limit = option("optimizer_step_limit")(limit)
    check_values(
        {key: run_opts[key] for key in run_opts.overridden_args - {"optimizer_step_limit"}}
    )
    return dataclasses.replace(run_opts, optimizer_step_limit=limit)


def check_device(device: str) -> None:
    """Refuses a device that is not there."""
    try:
        asked = torch.device(device)
    except RuntimeError:
        message = "is not a device; use cpu, cuda or cuda:1"
        raise InputError(f"--device={device}: {message}") from None
    # Not by a tensor there: each process of many would take memory of the first GPU.
    if asked.type == "cuda":
        count = torch.cuda.device_count()
        if (asked.index or 0) >= count:
            raise InputError(
                f"--device={device}: {count} CUDA devices are in reach; "
                "leave the option out, or use cpu"
            )
        return
    try:
        torch.empty(1, device=asked)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"--device={device}: cannot be used ({reason})") from error


def settle_precision(hparams: dict[str, Any], run_opts: RunOptions) -> None:
    """Makes a file's fp16 or bf16, where a CPU has no such arithmetic, fp32.

    fp16 on a CPU is refused if it was asked for; bf16 is done, some fifty times as slowly.
    """
    device = run_opts.device or hparams.get("device")
    on_cpu = device == "cpu" if device else not torch.cuda.is_available()
    for key in ("precision", "eval_precision") if on_cpu else ():
        asked = key in run_opts.overridden_args
        if asked and run_opts[key] == "fp16":
            raise InputError(f"--{key}=fp16 needs a GPU; use bf16 or fp32 on a CPU")
        precision = hparams.get(key)
        if not asked and (precision == "fp16" or (precision == "bf16" and not _cpu_has_bf16())):
            logger.info("%s: this CPU has no %s; fp32", key, precision)
            hparams[key] = "fp32"


def _cpu_has_bf16() -> bool:
    if not torch.backends.mkldnn.is_available():
        return False
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def join_processes(run_opts: RunOptions) -> None:
    """Joins the processes that ``torchrun`` started, if it did."""
    try:
        sb.utils.distributed.ddp_init_group(run_opts)
    except ValueError as error:  # fewer GPUs than processes, or no such backend
        reason = " ".join(str(error).removeprefix("Killing process ").split())
        raise InputError(
            f"torchrun: {reason} Start at most one process per GPU "
            f"({torch.cuda.device_count()} here), or "
            "take CPUs with --distributed_backend=gloo --device=cpu"
        ) from error


def rank_and_processes() -> tuple[int, int]:
    """Which process of ``torchrun`` this is, and how many there are; else 0 and 1."""
    if not is_distributed_initialized():
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def leave_processes() -> None:
    """Takes leave of the others; a process that just ends may be aborted by gloo."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@contextmanager
def explained_failures(hparams: Mapping[str, Any]) -> Iterator[None]:
    """Turns running out of memory, and a lost process, into one line with a remedy."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        if _is_of_workers(error):
            message = f"a worker that loads data died, or cannot start; {FEWER_WORKERS}"
        elif isinstance(error, OSError):
            raise
        elif is_out_of_memory(error):
            message = f"out of memory with {_remedy(hparams)}"
        elif _is_of_the_compiler(error):
            raise InputError(
                f"torch.compile fails for this model ({type(error).__name__}); "
                "train without --compile and --compile_module_keys"
            ) from error
        elif is_lost_process(error):
            message = "another process of this run has ended"
        else:
            raise
        raise InputError(f"{message}. {_RERUN}") from error


def is_out_of_memory(error: Exception) -> bool:
    """Whether a device, or the machine, had no memory left."""
    says_so = any(sign in str(error) for sign in _OUT_OF_MEMORY)
    is_runtimes = isinstance(error, RuntimeError) and says_so
    return isinstance(error, MemoryError) or is_runtimes


def is_lost_process(error: Exception) -> bool:
    """Whether another process of ``torchrun`` could not be reached any more."""
    says_so = any(sign in str(error) for sign in _LOST_PROCESS)
    return isinstance(error, torch.distributed.DistError) or says_so


def _is_of_workers(error: Exception) -> bool:
    """Whether a data loader's process was killed, or semaphores for it have no room."""
    return str(error).startswith("DataLoader worker (pid") or (
        isinstance(error, OSError) and raised_in(error, "multiprocessing")
    )


def _is_of_the_compiler(error: Exception) -> bool:
    """Its ``TorchRuntimeError`` is what the model itself raises, while traced."""
    module = type(error).__module__
    is_compilers = module.startswith(("torch._dynamo", "torch._inductor"))
    return is_compilers and type(error).__name__ != "TorchRuntimeError"


def _remedy(hparams: Mapping[str, Any]) -> str:
    """What to lower, dearest last."""
    size, factor = hparams["batch_size"], hparams["grad_accumulation_factor"]
    remedies = ["--precision=bf16"] if hparams.get("precision") == "fp32" else []
    if size > 1:
        half, double = size // 2, factor * 2
        same = ", which takes the same steps" if size % 2 == 0 else ""
        steps = f"--grad_accumulation_factor={double}{same}"
        remedies.insert(0, f"--batch_size={half} {steps}")
    seconds = hparams["segment_seconds"]
    remedies.append(f"--segment_seconds={2.0 if seconds is None else seconds / 2:g}")
    return f"batch_size {size}; use {', or '.join(remedies)}"
