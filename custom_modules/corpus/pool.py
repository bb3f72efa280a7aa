"""Making mixtures in several processes; the result is the same as in one."""

import multiprocessing
import os
import signal
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import resource_tracker

from custom_modules.corpus import audio, layout
from custom_modules.errors import InputError
from custom_modules.workers import begin_worker

#: Mixtures handed to a worker at a time.
CHUNK = 4

#: What a worker process works with.
_worker = {}


class Pool:
    """Runs a mixer in this process, or in several; a context manager.

    Arguments
    ---------
    mixer : Mixer
        Makes the mixtures; its setup says how many workers there are.
    state : State
        Knows where they go.
    """

    def __init__(self, mixer, state):
        self.mixer = mixer
        self.state = state
        self.workers = mixer.setup.workers
        self.executor = None

    def __enter__(self):
        if self.workers > 1:
            try:
                self._start()
            except KeyboardInterrupt:
                self.__exit__()
                raise
        return self

    def __exit__(self, *_):
        if self.executor:
            # Mixtures in progress are finished: that takes a fraction of a second,
            # and nothing half-written is left.
            self.executor.shutdown(cancel_futures=True)

    def run(self, tasks):
        """Makes and writes mixtures.

        Arguments
        ---------
        tasks : list of tuple
            (subset, index)

        Yields
        ------
        tuple
            (index, row, number of candidates), in the order of the tasks.

        Raises
        ------
        InputError
            If a mixture cannot be made, or a worker was killed.
        """
        if not self.executor:
            yield from (_make(self.mixer, self.state, task) for task in tasks)
            return
        try:
            yield from self.executor.map(_make_in_worker, tasks, chunksize=CHUNK)
        except BrokenProcessPool as error:
            raise InputError(
                "a worker process was killed, perhaps for want of memory; run again to "
                "resume, with fewer --workers"
            ) from error

    def _start(self):
        # One thread of BLAS per worker: set before the workers import numpy.
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ.setdefault(name, "1")
        arguments = self.workers, _context(), _start_worker, (self.mixer, self.state)
        resource_tracker.ensure_running()  # it would undo the blocking of signals
        with _ctrl_c_deferred():
            self.executor = ProcessPoolExecutor(*arguments)
            wait([self.executor.submit(os.getpid) for _ in range(self.workers)])


def _context():
    """Never plain fork: this process may hold torch, threads and espeak-ng."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "custom_modules.corpus.mixing"])
    return context


@contextmanager
def _ctrl_c_deferred():
    """Keeps Ctrl-C back while processes start, and from those processes for good.

    It reaches the whole process group. A process that is starting up would die of it
    with a traceback; the main process alone answers, when they have started.
    """
    pressed = []
    handler = signal.signal(signal.SIGINT, lambda *_: pressed.append(True))
    masked = getattr(signal, "pthread_sigmask", lambda *_: None)  # not on Windows
    masked(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        masked(signal.SIG_UNBLOCK, {signal.SIGINT})
        signal.signal(signal.SIGINT, handler)
    if pressed:
        raise KeyboardInterrupt


def _start_worker(mixer, state):
    _worker.update(mixer=mixer, state=state)
    begin_worker()


def _make_in_worker(task):
    return _make(_worker["mixer"], _worker["state"], task)


def _make(mixer, state, task):
    """Makes and writes one mixture; the row comes last, so that it is a promise."""
    mixture = mixer.mixture(*task)
    for layer, path in layout.file_paths(state.root, mixture.row).items():
        audio.write_pcm16(path, mixture.layers[layer], mixer.setup.rate)
    state.keep_row(mixture.row)
    return task[1], mixture.row, mixture.tries
