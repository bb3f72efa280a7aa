"""Time and memory of work in a process of its own, and of several ways side by side."""

import argparse
import multiprocessing
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import NamedTuple, TypeVar

from custom_modules.startup import prepare_process

prepare_process(__name__)  # the same allocator for all that are compared

import torch
from torch import Tensor

from custom_modules import markdown
from custom_modules.objectives import pit_si_sdr_loss

MIB = 1 << 20

Work = dict[str, Callable[[], None]]
Result = TypeVar("Result")


def in_fresh_process(function: Callable[..., Result], *arguments: object) -> Result:
    """What a module-level function returns in a process of its own, not forked.

    MemoryError if it was killed, as the kernel does where memory ends.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(function, *arguments).result()
        except BrokenProcessPool as error:
            raise MemoryError("the process that measures was killed") from error


def measure(
    make: Callable[..., Work], arguments: tuple, threads: int = 1, repeats: int = 3
) -> dict[str, float]:
    """Runs some work in a fresh process, a few times after a warm-up.

    ``make``, a module-level function, returns the work when it is called there with the
    arguments. The result has the least seconds of each piece (process time on CPU, so
    that other processes count little; time between events on CUDA), as ``wall …`` what
    passed on the clock, as ``first …`` that of the warm-up, and ``MiB``, the peak memory of
    all of it beyond what ``make`` took.
    """
    return in_fresh_process(_measure, make, arguments, threads, repeats)


def _measure(
    make: Callable[..., Work], arguments: tuple, threads: int, repeats: int
) -> dict[str, float]:
    torch.set_num_threads(threads)
    work = make(*arguments)
    before = _memory()
    figures = {}
    for name, piece in work.items():
        times = [_time(piece) for _ in range(repeats + 1)]
        figures[name], figures[f"wall {name}"] = map(min, zip(*times[1:], strict=True))
        figures[f"first {name}"] = times[0][1]
    return figures | {"MiB": (_peak() - before) / MIB}


def _time(piece: Callable[[], None]) -> tuple[float, float]:
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


def training_step(
    separator: Callable[[Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    targets: Tensor,
    dtype: torch.dtype = torch.float32,
    loss: Callable[[Tensor, Tensor], tuple[Tensor, ...]] = pit_si_sdr_loss,
) -> Callable[[], None]:
    """A step of the optimiser on one batch of targets, ``[batch, time, sources]``.

    Their sum is the mixture; ``dtype`` is autocast's, none for float32.
    """

    def step() -> None:
        is_half = dtype != torch.float32
        with torch.autocast(targets.device.type, dtype=dtype, enabled=is_half):
            estimates = separator(targets.sum(2))
        losses = loss(estimates, targets)[0]
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()

    return step


def _memory() -> int:
    """Bytes in use, and starts measuring the peak."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    with open("/proc/self/statm") as stream:
        return int(stream.read().split()[1]) * resource.getpagesize()


def _peak() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return host_peak()


def host_peak() -> int:
    """Bytes that this process has held at most, the libraries included.

    Not ``getrusage``'s, which counts what its parent held when it was started.
    """
    with open("/proc/self/status") as stream:
        return next(1024 * int(line.split()[1]) for line in stream if line.startswith("VmHWM:"))


def limit_memory(gib: float) -> None:
    """From here on, allocations of so much more fail, before the machine is out of memory."""
    with open("/proc/self/statm") as stream:
        mapped = int(stream.read().split()[0]) * resource.getpagesize()
    room = mapped + round(gib * (1 << 30))
    resource.setrlimit(resource.RLIMIT_AS, (room, room))


def device_name() -> str:
    """The GPU's, or the processor's."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    with open("/proc/cpuinfo") as stream:
        names = [line for line in stream if line.startswith("model name")]
    return names[0].split(":")[1].strip() if names else "CPU"


def describe() -> str:
    """The device and the versions that figures belong to."""
    python = ".".join(map(str, sys.version_info[:2]))
    return f"{device_name()}, torch {torch.__version__}, Python {python}"


def add_cpu_options(parser: argparse.ArgumentParser, threads: int) -> None:
    """Adds ``threads`` and ``repeats`` of what is measured on a CPU; gpu.py measures elsewhere."""
    parser.add_argument("--threads", type=int, default=threads)
    parser.add_argument("--repeats", type=int, default=3)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""


class Row(NamedTuple):
    """A line of a table of ways beside each other."""

    what: str
    figure: str
    ratio: str = markdown.DASH  # times as fast as the plain way


def time_alternately(
    ways: Mapping[str, Callable[[], object]], repeats: int = 3
) -> dict[str, float]:
    """Median seconds of each way; every other round runs backwards.

    One round more than ``repeats`` goes before them, to warm caches.
    """
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for repeat in range(repeats + 1):
        for way in list(ways) if repeat % 2 else reversed(list(ways)):
            start = time.perf_counter()
            ways[way]()
            if repeat:
                seconds[way].append(time.perf_counter() - start)
    return {way: statistics.median(spent) for way, spent in seconds.items()}


def speeds(seconds: Mapping[str, float], count: float, unit: str) -> list[Row]:
    """What each way does in a second, and beside the first, which is the plain one.

    >>> speeds({"loop": 4.0, "ours": 2.0}, count=100, unit="rows")[1]
    Row(what='ours', figure='50.00 rows/s', ratio='2.00')
    """
    plain, rows = next(iter(seconds.values())), []
    for way, spent in seconds.items():
        rate = markdown.number(count / spent, 0 if count / spent >= 100 else 2)
        rows.append(Row(way, f"{rate} {unit}/s", markdown.number(plain / spent, 2)))
    return rows


def rows_of(table: Sequence[Row]) -> list[list[str]]:
    """The headings, and the cells of each line."""
    return [["what", "measured", "times as fast"], *map(list, table)]
