"""Processes that work for this one, and trainings of a search.

Import nothing heavy here: worker processes must start quickly.
"""

import contextlib
import csv
import ctypes
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
from itertools import chain
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any, TypeVar

from custom_modules.errors import InputError, raised_in

T = TypeVar("T")
R = TypeVar("R")

#: Rows per piece: enough that handing them over costs nothing beside reading
#: their files, few enough that the progress bar moves.
PIECE = 128

POLL_SECONDS = 0.5
#: How long a trial may take to end when it is told to.
GRACE_SECONDS = 10

_PR_SET_PDEATHSIG = 1  # Linux's, prctl.h


def available_cores() -> int:
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


def begin_worker() -> None:
    """Leaves Ctrl-C to the parent process, and makes this process end with it."""
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
    # Forked workers start at once; spawned ones would first import all that
    # the training script imports.
    methods = multiprocessing.get_all_start_methods()
    fork = multiprocessing.get_context("fork" if "fork" in methods else None)
    try:
        pool = ProcessPoolExecutor(workers, context or fork, initializer, initargs)
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)
    except BrokenProcessPool as error:
        raise InputError(f"a worker process died, perhaps for want of memory; {remedy}") from error
    except OSError as error:  # semaphores are in /dev/shm
        if not raised_in(error, "multiprocessing"):
            raise
        reason = f"{error.strerror}; is /dev/shm full?"
        raise InputError(f"worker processes cannot start ({reason}); {remedy}") from error


def map_pieces(
    function: Callable[[Sequence[T]], list[R]], items: Sequence[T], workers: int
) -> Generator[R, None, None]:
    """Applies a function to slices of a list; yields the results, in order.

    The function must be picklable and must not touch torch, whose threads do not
    survive a fork.
    """
    pieces = [items[i : i + PIECE] for i in range(0, len(items), PIECE)]
    if workers <= 1 or len(pieces) <= 1:
        yield from chain.from_iterable(map(function, pieces))
        return
    with worker_pool(min(workers, len(pieces)), "use fewer workers") as pool:
        yield from chain.from_iterable(pool.map(function, pieces))


class TrialProcess:
    """Runs a command that writes ``history.csv`` into a folder; reads its ``metric``.

    An empty ``metric`` is of a command that writes none. What it prints goes to
    ``output.txt``. It ends with this process, whatever ends it.
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
        return self.folder / "output.txt"

    def values(self, tick: Callable[[], Any] = lambda: None) -> Iterator[tuple[int, float]]:
        """Yields epoch and value of each to the end; ``tick`` is called all along."""
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
            return None if self.rows() or not self.metric else f"no {self.metric} in history.csv"
        printed = self.output.read_bytes()[self.begin :]
        lines = printed.decode("utf-8", errors="replace").splitlines()
        errors = [line for line in lines if line.startswith("error: ")]
        return f"exit status {status}: {(errors or lines or [''])[-1]}"

    def rows(self) -> list[tuple[int, float]]:
        """Epoch and value of each epoch that is done, also by an earlier run.

        None of a file that is damaged, which the command itself names.
        """
        try:
            with open(self.folder / "history.csv", encoding="utf-8") as stream:
                known = [row for row in csv.DictReader(stream) if row.get(self.metric)]
            values = [(int(row["epoch"]), float(row[self.metric])) for row in known]
        except (OSError, LookupError, TypeError, ValueError, csv.Error):
            return []
        return [(epoch, value) for epoch, value in values if not math.isnan(value)]


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
