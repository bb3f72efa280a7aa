"""Process-wide settings that make PyTorch pleasant on a CPU.

Import nothing heavy here: some settings count only before torch is loaded.
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
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from custom_modules.errors import InputError

_M_TRIM_THRESHOLD = -1  # glibc's numbers, malloc.h
_M_MMAP_THRESHOLD = -3
_ONE_GIB = 1 << 30


def prepare_process():
    """Sets what must be set before torch is imported. Scripts call it first.

    * Idle OpenMP threads sleep instead of spinning: with another job on a core,
      spinning made training steps up to 50 times slower.
    * Numba and matplotlib keep their notes on how they work to themselves, where a
      log file takes everything: Numba writes thousands of lines for a kernel.
    * SpeechBrain does not warn that torchvision, which nothing here needs, is missing.
    * glibc keeps large blocks instead of giving them back to the kernel after
      each use, whose page faults took up to half of a forward pass. Without
      glibc nothing happens.

    The environment's own ``OMP_WAIT_POLICY`` wins.

    Example
    -------
    >>> prepare_process()
    >>> "OMP_WAIT_POLICY" in os.environ
    True
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for name in ("numba", "matplotlib"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("speechbrain.utils.train_logger").addFilter(_is_of_use)
    keep_freed_blocks(_ONE_GIB)


def keep_freed_blocks(largest):
    """Has glibc keep freed blocks for reuse; without glibc nothing happens.

    Arguments
    ---------
    largest : int
        Bytes. Larger blocks go back to the kernel; at most 1 GiB. By itself glibc
        settles at 32 MiB.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, largest)
        mallopt(_M_TRIM_THRESHOLD, min(2 * largest, _ONE_GIB))  # glibc's own ratio


def _is_of_use(record):
    return "torchvision" not in record.getMessage()


def begin_worker():
    """Leaves Ctrl-C to the parent process, and makes this process end with it.

    The initializer of a process pool, or the first thing that one does.
    """
    # Ctrl-C reaches every process of the terminal; only the parent answers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent():
    # A killed parent closes no queues, and its workers would wait for ever.
    multiprocessing.parent_process().join()
    os._exit(1)


#: Rows per piece: enough that handing them over costs nothing beside reading
#: their files, few enough that the progress bar moves.
PIECE = 128


def available_cores():
    """How many cores this process may use.

    Returns
    -------
    int
    """
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        return os.cpu_count() or 1


def map_pieces(function, items, workers):
    """Applies a function to slices of a list, in order.

    Arguments
    ---------
    function : callable
        Takes a list of items, returns a list of results. With more than one
        worker it must be picklable and must not touch torch: on Linux the
        processes are forked, and torch's threads do not survive that.
    items : list
        What to work on.
    workers : int
        Number of processes; with 1, everything happens in this one.

    Yields
    ------
    object
        The results, one after the other.

    Example
    -------
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
    pool = ProcessPoolExecutor(
        min(workers, len(pieces)),
        mp_context=process_context(),
        initializer=begin_worker,
    )
    try:
        for results in pool.map(function, pieces):
            yield from results
    finally:
        # Also when interrupted: do not finish what nobody waits for.
        pool.shutdown(cancel_futures=True)


def process_context():
    """How worker processes start.

    Returns
    -------
    multiprocessing.context.BaseContext
    """
    # Forked workers start at once; spawned ones would first import all that
    # the training script imports.
    methods = multiprocessing.get_all_start_methods()
    return multiprocessing.get_context("fork" if "fork" in methods else None)


POLL_SECONDS = 0.5
#: How long a trial may take to end when it is told to.
GRACE_SECONDS = 10


class TrialProcess:
    """Runs a command and reads the ``history.csv`` that it writes.

    It ends with this process, whatever ends it, so that a rerun finds its folder
    alone.

    Arguments
    ---------
    command : list of str
    folder : str or pathlib.Path
        Where the command writes ``history.csv``; its output goes to ``output.txt``.
    metric : str
        A column of ``history.csv``.
    environment : dict of str to str
        In addition to ours.
    """

    def __init__(self, command, folder, metric, environment=()):
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
    def output(self):
        """What the command printed."""
        return self.folder / "output.txt"

    def values(self, tick=lambda: None):
        """Yields epoch and value of each epoch, as they are done, until the end.

        Arguments
        ---------
        tick : callable
            Called every :data:`POLL_SECONDS`, also where an epoch takes hours.

        Yields
        ------
        tuple of int and float
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

    def stop(self):
        """Ends it and all that it started."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self.process.poll() is not None:
                return
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(GRACE_SECONDS)

    def failure(self):
        """Why it failed, in a line; None if it did not."""
        status = self.process.wait()
        if not status:
            return None if self.rows() else f"no {self.metric} in history.csv"
        printed = self.output.read_bytes()[self.begin :]
        lines = printed.decode("utf-8", errors="replace").splitlines()
        told = [line for line in lines if line.startswith("error: ")] or lines or [""]
        return f"exit status {status}: {told[-1]}"

    def rows(self):
        """Epoch and value of each epoch that is done, also by an earlier run.

        Returns
        -------
        list of tuple of int and float
        """
        try:
            with open(self.folder / "history.csv", encoding="utf-8") as stream:
                rows = list(csv.DictReader(stream))
        except FileNotFoundError:
            return []
        pairs = [(row["epoch"], row.get(self.metric) or "nan") for row in rows]
        values = [(int(epoch), float(value)) for epoch, value in pairs]
        return [(epoch, value) for epoch, value in values if not math.isnan(value)]


def _die_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def gpus_here():
    """The GPUs that trials may use, by what ``CUDA_VISIBLE_DEVICES`` takes.

    Returns
    -------
    list of str
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name]
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return []
    return done.stdout.split()


@contextlib.contextmanager
def worker_pool(
    workers: int,
    remedy: str,
    context: multiprocessing.context.BaseContext | None = None,
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
