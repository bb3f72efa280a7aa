"""Several trainings at a time, each in a process of its own."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

from custom_modules.processes import TrialProcess

Item = TypeVar("Item")
Result = TypeVar("Result")


class Trainings:
    """Threads that each watch one training at a time, and can stop all of them.

    ``gpus`` are given to the trainings in turn, by ``CUDA_VISIBLE_DEVICES``.
    """

    def __init__(self, jobs: int, gpus: Sequence[str] = ()) -> None:
        self.jobs, self._gpus = jobs, queue.SimpleQueue[str | None]()
        for place in range(jobs):
            self._gpus.put(gpus[place % len(gpus)] if gpus else None)
        self._stopping = threading.Event()
        self._processes: set[TrialProcess] = set()

    @property
    def are_stopping(self) -> bool:
        return self._stopping.is_set()

    def stop(self) -> None:
        """Ends all trainings, and those that are about to begin."""
        self._stopping.set()
        for process in list(self._processes):
            process.stop()

    def map(self, work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """Applies ``work`` in threads; what one raises, or Ctrl-C, stops all."""
        with ThreadPoolExecutor(self.jobs) as pool:
            futures = [pool.submit(work, item) for item in items]
            try:
                for future in as_completed(futures):
                    future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                self.stop()
                raise
        return [future.result() for future in futures]

    @contextmanager
    def run(
        self,
        command: Sequence[str],
        folder: str | Path,
        metric: str,
        environment: Mapping[str, str] | None = None,
    ) -> Iterator[TrialProcess]:
        """A training, which ends with the block."""
        with ExitStack() as stack:
            gpu = self._gpus.get()
            stack.callback(self._gpus.put, gpu)
            device = {} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}
            variables = device | dict(environment or {})
            process = TrialProcess(list(command), folder, metric, variables)
            stack.callback(self._processes.discard, process)
            stack.callback(process.stop)
            self._processes.add(process)
            if self.are_stopping:  # stop() may have looked before
                process.stop()
            yield process
