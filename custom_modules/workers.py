"""What every worker process needs, whatever its work."""

import multiprocessing
import os
import signal
import threading


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
