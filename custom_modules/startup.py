"""How a command starts, and how Ctrl-C or SIGTERM, as SLURM sends it, ends it.

Import nothing heavy here: before :func:`prepare_process` Ctrl-C is a traceback, some
settings count only before torch is loaded, and worker processes must start quickly.
"""

import io
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it
#: For what must be undone; a worker, or one long call, may take longer.
GRACE_SECONDS = 5

_M_TRIM_THRESHOLD = -1  # glibc's numbers, malloc.h
_M_MMAP_THRESHOLD = -3
_ONE_GIB = 1 << 30

_begun = _interrupted = False
_command = 0  # the process that answers signals
_leaving = threading.Lock()  # held from the first call of _leave on


def prepare_process(name: str = "") -> None:
    """Sets what must be set before torch is imported; scripts call it first.

    ``name`` is the script's ``__name__``: only a command answers signals.
    """
    if name == "__main__":
        _answer_signals()
        for stream in (sys.stdout, sys.stderr):  # a file's name may be any bytes
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
    elif name == "__mp_main__":  # a worker that starts anew
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    import logging

    # Idle OpenMP threads sleep: with another job on a core, spinning made training
    # steps up to 50 times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # A line for each signal, or thousands for a log file.
    for noisy in ("faster_whisper", "matplotlib", "numba"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("speechbrain.utils.train_logger").addFilter(
        lambda record: "torchvision" not in record.getMessage()  # nothing needs it
    )
    # Page faults of large blocks took up to half of a forward pass.
    keep_freed_blocks(_ONE_GIB)


def keep_freed_blocks(largest: int) -> None:
    """Has glibc, if it is there, keep freed blocks up to ``largest`` bytes, ≤ 1 GiB."""
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, largest)
        mallopt(_M_TRIM_THRESHOLD, min(2 * largest, _ONE_GIB))  # glibc's own ratio


@contextmanager
def interruptible() -> Iterator[None]:
    """What may be interrupted is undone first; before and after, the process just ends."""
    global _begun
    _begun = True
    try:
        yield
    finally:
        _begun = False
        if _interrupted:  # whatever a library made of it
            _leave()


def _answer_signals() -> None:
    global _command
    _command = os.getpid()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:  # as of a shell's background jobs
            signal.signal(number, _interrupt)
    threading.Thread(target=_leave_in_time, args=(reader,), daemon=True).start()
    os.register_at_fork(after_in_child=_leave_signals_to_parent)
    sys.unraisablehook = _report_unraisable


def _interrupt(number: int, frame: FrameType | None) -> None:
    global _interrupted
    if os.getpid() != _command:  # a worker forked a moment ago
        _leave_signals_to_parent()
        os.kill(os.getpid(), number)
        return
    if _interrupted:
        return
    _interrupted = True
    if not _begun:
        _leave()
    raise KeyboardInterrupt


def _leave_in_time(reader: int) -> None:
    """Ends what does not end by itself: the kernel writes each signal into a pipe."""
    while os.read(reader, 1)[0] not in (signal.SIGINT, signal.SIGTERM):
        pass
    time.sleep(GRACE_SECONDS)
    _leave()


def _leave() -> NoReturn:
    """Ends this process and its workers: no destructor has a word."""
    _leaving.acquire()  # for ever, if another thread is about to end the process
    with suppress(ValueError):  # of another thread
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's raises
    multiprocessing = sys.modules.get("multiprocessing")
    for child in multiprocessing.active_children() if multiprocessing else ():
        child.kill()
        child.join(1)
    with suppress(OSError):
        if os.environ.get("RANK", "0") == "0":  # of torchrun
            os.write(2, b"interrupted\n")
    os._exit(EXIT_INTERRUPTED)


def _leave_signals_to_parent() -> None:
    """In a forked worker: Ctrl-C reaches the whole process group."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _report_unraisable(problem: Any) -> None:
    if problem.exc_type is KeyboardInterrupt:  # in a destructor, which swallows it
        _leave()
    # One that could not start its workers; why, is told.
    half_made = "_MultiProcessingDataLoaderIter" in repr(problem.object)
    if not (_interrupted or half_made):
        sys.__unraisablehook__(problem)
