"""Time and peak memory of a piece of work, in a process of its own."""

import multiprocessing
import resource
import sys
import time

from custom_modules.processes import prepare_process

prepare_process()  # the same allocator for all that are compared

import torch

from custom_modules.objectives import pit_si_sdr_loss

MIB = 1 << 20


def measure(make, arguments, threads=1, repeats=3):
    """Runs some work in a fresh process, a few times after a warm-up.

    Arguments
    ---------
    make : callable
        Module-level function; ``make(*arguments)`` returns the work, a dict of
        name to a function without arguments that returns nothing.
    arguments : tuple
        What can be pickled.
    threads : int
        PyTorch's, on CPU.
    repeats : int
        Of each piece of work, after one that warms up.

    Returns
    -------
    dict of str to float
        The least seconds of each piece (process time on CPU, so that other
        processes count little; time between events on CUDA), as ``wall …`` what
        passed on the clock, and ``MiB``, the peak memory of all of it beyond what
        ``make`` took.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure, (make, arguments, threads, repeats))


def _measure(make, arguments, threads, repeats):
    torch.set_num_threads(threads)
    work = make(*arguments)
    before = _memory()
    found = {}
    for name, piece in work.items():
        times = [_time(piece) for _ in range(repeats + 1)][1:]
        found[name], found[f"wall {name}"] = map(min, zip(*times, strict=True))
    return found | {"MiB": (_peak() - before) / MIB}


def _time(piece):
    """Seconds that a piece of work takes, and those on the clock."""
    if not torch.cuda.is_available():
        wall, process = time.perf_counter(), time.process_time()
        piece()
        return time.process_time() - process, time.perf_counter() - wall
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    piece()
    end.record()
    torch.cuda.synchronize()
    return (start.elapsed_time(end) / 1000,) * 2


def training_step(separator, optimizer, targets, dtype=torch.float32):
    """A step of the optimiser on one batch, for :func:`measure`.

    Arguments
    ---------
    separator : callable
        ``[batch, time]`` → ``[batch, time, sources]``.
    optimizer : torch.optim.Optimizer
    targets : torch.Tensor
        ``[batch, time, sources]``; their sum is the mixture.
    dtype : torch.dtype
        Of autocast; none for float32.

    Returns
    -------
    callable
    """

    def step():
        is_half = dtype != torch.float32
        with torch.autocast(targets.device.type, dtype=dtype, enabled=is_half):
            estimates = separator(targets.sum(2))
        loss, _ = pit_si_sdr_loss(estimates, targets)
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()

    return step


def _memory():
    """Bytes in use, and starts measuring the peak."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    with open("/proc/self/statm") as stream:
        return int(stream.read().split()[1]) * resource.getpagesize()


def _peak():
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def device_name():
    """The GPU's, or the processor's.

    Returns
    -------
    str
    """
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    with open("/proc/cpuinfo") as stream:
        names = [line for line in stream if line.startswith("model name")]
    return names[0].split(":")[1].strip() if names else "CPU"


def describe():
    """The device and the versions that figures belong to."""
    python = ".".join(map(str, sys.version_info[:2]))
    return f"{device_name()}, torch {torch.__version__}, Python {python}"
