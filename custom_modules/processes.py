"""Processes: how this one starts, those that work for it, and trainings of a search.

Import nothing heavy here: some settings count only before torch is loaded, and worker
processes must start quickly.
"""

import contextlib
import csv
import ctypes
import logging
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any, TypeVar

from custom_modules.errors import InputError

T = TypeVar("T")
R = TypeVar("R")

#: Rows per piece: enough that handing them over costs nothing beside reading
#: their files, few enough that the progress bar moves.
PIECE = 128

POLL_SECONDS = 0.5
#: How long a trial may take to end when it is told to.
GRACE_SECONDS = 10

_M_TRIM_THRESHOLD = -1  # glibc's numbers, malloc.h
_M_MMAP_THRESHOLD = -3
_PR_SET_PDEATHSIG = 1  # Linux's, prctl.h
_ONE_GIB = 1 << 30


def prepare_process() -> None:
    """Sets what must be set before torch is imported. Scripts call it first.

    * Idle OpenMP threads sleep instead of spinning: with another job on a core,
      spinning made training steps up to 50 times slower. The environment's own
      ``OMP_WAIT_POLICY`` wins.
    * Numba and matplotlib keep their notes on how they work to themselves, where a
      log file takes everything: Numba writes thousands of lines for a kernel.
    * SpeechBrain does not warn that torchvision, which nothing here needs, is missing.
    * glibc keeps large blocks instead of giving them back to the kernel after
      each use, whose page faults took up to half of a forward pass.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for name in ("numba", "matplotlib"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("speechbrain.utils.train_logger").addFilter(_is_of_use)
    keep_freed_blocks(_ONE_GIB)


def _is_of_use(record: logging.LogRecord) -> bool:
    return "torchvision" not in record.getMessage()


def keep_freed_blocks(largest: int) -> None:
    """Has glibc keep freed blocks for reuse; without glibc nothing happens.

    Blocks above ``largest`` bytes, at most 1 GiB, go back to the kernel. By itself
    glibc settles at 32 MiB.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, largest)
        mallopt(_M_TRIM_THRESHOLD, min(2 * largest, _ONE_GIB))  # glibc's own ratio


def available_cores() -> int:
    """How many cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        return os.cpu_count() or 1


def gpus_here() -> list[str]:
    """The GPUs that trials may use, by what ``CUDA_VISIBLE_DEVICES`` takes."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name]
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return []
    return done.stdout.split()


def process_context() -> BaseContext:
    """How worker processes start."""
    # Forked workers start at once; spawned ones would first import all that
    # the training script imports.
    methods = multiprocessing.get_all_start_methods()
    return multiprocessing.get_context("fork" if "fork" in methods else None)


def begin_worker() -> None:
    """Leaves Ctrl-C to the parent process, and makes this process end with it.

    The initializer of a process pool, or the first thing that one does.
    """
    # Ctrl-C reaches every process of the terminal; only the parent answers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    # A killed parent closes no queues, and its workers would wait for ever.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)


@contextlib.contextmanager
def worker_pool(
    workers: int,
    remedy: str,
    context: BaseContext | None = None,
    initializer: Callable[..., None] = begin_worker,
    initargs: tuple = (),
) -> Iterator[ProcessPoolExecutor]:
    """A pool of processes that ends with its block, finishing nothing that waits.

    Another initializer calls :func:`begin_worker` itself. A worker that dies, as for
    want of memory, is one line with ``remedy``: "the same command goes on from here".
    """
    pool = ProcessPoolExecutor(
        workers, context or process_context(), initializer, initargs
    )
    try:
        yield pool
    except BrokenProcessPool as error:
        raise InputError(
            f"a worker process died, perhaps for want of memory; {remedy}"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def map_pieces(
    function: Callable[[Sequence[T]], list[R]], items: Sequence[T], workers: int
) -> Generator[R, None, None]:
    """Applies a function to slices of a list; yields the results, in order.

    With more than one worker, the function must be picklable and must not touch torch:
    on Linux the processes are forked, and torch's threads do not survive that.

    >>> def double(numbers):
    ...     return [2 * number for number in numbers]
    >>> list(map_pieces(double, [1, 2, 3], workers=1))
    [2, 4, 6]
    """
    pieces = [items[i : i + PIECE] for i in range(0, len(items), PIECE)]
    if workers <= 1 or len(pieces) <= 1:
        for piece in pieces:
            yield from function(piece)
        return
    with worker_pool(min(workers, len(pieces)), "use fewer workers") as pool:
        for results in pool.map(function, pieces):
            yield from results


class TrialProcess:
    """Runs a command that writes ``history.csv`` into a folder, and reads it.

    ``metric`` is a column of it. What the command prints goes to ``output.txt``. It
    ends with this process, whatever ends it, so that a rerun finds its folder alone.
    """

    def __init__(
        self,
        command: Sequence[str],
        folder: str | Path,
        metric: str,
        environment: Mapping[str, str] | tuple[()] = (),
    ) -> None:
        self.folder, self.metric = Path(folder), metric
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.output, "ab") as stream:
            self.begin = stream.tell()  # an earlier attempt's is kept before it
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=os.environ | dict(environment),
                start_new_session=True,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )

    @property
    def output(self) -> Path:
        """What the command printed."""
        return self.folder / "output.txt"

    def values(
        self, tick: Callable[[], Any] = lambda: None
    ) -> Iterator[tuple[int, float]]:
        """Yields epoch and value of each epoch, as they are done, until the end.

        ``tick`` is called every :data:`POLL_SECONDS`, also where an epoch takes hours.
        """
        seen, running = 0, True
        while running:
            running = self.process.poll() is None
            rows = self.rows()
            yield from rows[seen:]
            seen = len(rows)
            if running:
                tick()
                time.sleep(POLL_SECONDS)

    def stop(self) -> None:
        """Ends it and all that it started."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self.process.poll() is not None:
                return
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(GRACE_SECONDS)

    def failure(self) -> str | None:
        """Why it failed, in a line; None if it did not."""
        status = self.process.wait()
        if not status:
            return None if self.rows() else f"no {self.metric} in history.csv"
        printed = self.output.read_bytes()[self.begin :]
        lines = printed.decode("utf-8", errors="replace").splitlines()
        errors = [line for line in lines if line.startswith("error: ")]
        return f"exit status {status}: {(errors or lines or [''])[-1]}"

    def rows(self) -> list[tuple[int, float]]:
        """Epoch and value of each epoch that is done, also by an earlier run."""
        try:
            with open(self.folder / "history.csv", encoding="utf-8") as stream:
                rows = list(csv.DictReader(stream))
        except FileNotFoundError:
            return []
        pairs = [(row["epoch"], row.get(self.metric) or "nan") for row in rows]
        values = [(int(epoch), float(value)) for epoch, value in pairs]
        return [(epoch, value) for epoch, value in values if not math.isnan(value)]


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
