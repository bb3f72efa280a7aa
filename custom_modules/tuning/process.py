"""One trial: a training in a process of its own, watched as it goes."""

import contextlib
import ctypes
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd

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
            history = pd.read_csv(self.folder / "history.csv")
        except (FileNotFoundError, pd.errors.EmptyDataError):
            return []
        if self.metric not in history:
            return []
        values = history[self.metric].tolist()
        pairs = zip(history["epoch"].tolist(), values, strict=True)
        return [(int(epoch), value) for epoch, value in pairs if not math.isnan(value)]


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
