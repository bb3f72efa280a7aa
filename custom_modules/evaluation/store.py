"""What was scored so far, so that a killed evaluation goes on where it was."""

import json
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, BinaryIO

from speechbrain.utils.logger import get_logger

from custom_modules.errors import InputError
from custom_modules.evaluation.scoring import Failure, MixtureScores, SignalScores
from custom_modules.files import regular_file
from custom_modules.metrics import SIGNALS

logger = get_logger(__name__)

#: In the results folder: what was scored, so that a rerun goes on.
SCORES_FOLDER = "test_scores"


class LineStore(ABC):
    """JSON records, appended to a file as they come: a line each.

    Processes append to files of their own and read those of all. What a kill cut off
    in the middle of a line is passed over, and made again. ``key`` names what is
    evaluated, as :func:`custom_modules.evaluation.record.evaluation_key` does.
    """

    def __init__(self, folder: str | Path, key: str, rank: int = 0) -> None:
        self.folder, self.key = Path(folder), key
        self.path = self.folder / f"{key}.{rank}.jsonl"
        self._file: BinaryIO | None = None
        self.read_all()

    @abstractmethod
    def _take(self, record: dict[str, Any]) -> None:
        """Takes in a record; raises if it is none."""

    def _append(self, records: Iterable[dict[str, Any]]) -> None:
        lines = [f"{json.dumps(record, ensure_ascii=False)}\n" for record in records]
        try:
            if self._file is None:
                self._file = self._open()
            self._file.write("".join(lines).encode())
            self._file.flush()
        except OSError as error:
            raise InputError(
                f"{self.path}: cannot be written ({error.strerror}); check the folder, "
                "its permissions and the free space. A rerun goes on from here"
            ) from error

    def close(self) -> None:
        """Closes the file; the store can still be read."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def read_all(self) -> None:
        """Takes in what this and other processes have added."""
        for path in sorted(self.folder.glob(f"{self.key}.*.jsonl")):
            *lines, cut = regular_file(path).read_bytes().split(b"\n")
            damaged = sum(not self._take_line(line) for line in filter(None, [*lines, cut]))
            if damaged:
                message = "%s: %d lines are damaged and passed over; what is missing is scored"
                logger.warning(message, path, damaged)

    def _take_line(self, line: bytes) -> bool:
        """Whether it holds a record; a kill may have cut it off."""
        try:
            self._take(json.loads(line))
        except (AttributeError, LookupError, RecursionError, TypeError, ValueError):
            return False
        return True

    def _open(self) -> BinaryIO:
        self.folder.mkdir(parents=True, exist_ok=True)
        file = open(self.path, "ab")  # noqa: SIM115 - closed by close()
        if file.tell():
            with open(self.path, "rb") as written:
                written.seek(-1, os.SEEK_END)
                if written.read() != b"\n":  # end the line that a kill cut off
                    file.write(b"\n")
        return file


class ScoreStore(LineStore):
    """Scores by mixture, variant and metric.

    Those that are there and are not of so many ``sources`` are damaged, and passed over.

    >>> folder = getfixture("tmp_path")
    >>> store = ScoreStore(folder, key="model1")
    >>> store.add("a", {"SER": {"pesq": {"": [1.5, 2.0]}}})
    >>> store.close()
    >>> ScoreStore(folder, key="model1").scores("a", "SER", ["pesq"])
    {'pesq': {'': [1.5, 2.0]}}
    >>> ScoreStore(folder, key="model1").missing("a", "SER", ["pesq", "stoi"])
    ['stoi']
    """

    def __init__(
        self, folder: str | Path, key: str, rank: int = 0, sources: int | None = None
    ) -> None:
        self.sources = sources
        self._scored: dict[tuple[str, str], dict[str, SignalScores]] = {}
        super().__init__(folder, key, rank)

    def missing(self, mixture_id: str, variant: str, metrics: Collection[str]) -> list[str]:
        """Those of the metrics that are not there."""
        known = self._scored.get((mixture_id, variant), {})
        return [name for name in metrics if name not in known]

    def scores(
        self, mixture_id: str, variant: str, metrics: Collection[str]
    ) -> dict[str, SignalScores]:
        """The scores of a mixture by some metrics; InputError if one is missing."""
        if self.missing(mixture_id, variant, metrics):
            raise InputError(
                f"{self.folder}: holds no scores of {mixture_id}, {variant}; all "
                "processes need the same output folder, on a disk that they share"
            )
        known = self._scored[mixture_id, variant]
        return {name: known[name] for name in metrics}

    def add(self, mixture_id: str, scores: MixtureScores) -> None:
        """Appends scores of a mixture; those that were there are kept as they are."""
        records = []
        for variant, by_metric in scores.items():
            self._take_in(mixture_id, variant, by_metric)
            records.append({"id": mixture_id, "variant": variant, "scores": by_metric})
        self._append(records)

    def _take(self, record: dict[str, Any]) -> None:
        scores = _with_failures(record["scores"], self.sources)
        self._take_in(record["id"], record["variant"], scores)

    def _take_in(self, mixture_id: str, variant: str, scores: dict[str, SignalScores]) -> None:
        known = self._scored.setdefault((mixture_id, variant), {})
        for name, by_signal in scores.items():
            known.setdefault(name, by_signal)


def _with_failures(scores: dict, sources: int | None) -> dict[str, SignalScores]:
    """Scores as JSON keeps them, a failure as a list; raises if they are none."""
    signals = set(SIGNALS) if sources and sources > 1 else {"", "_mixture"}
    for by_signal in scores.values():
        lengths = {len(of_sources) for of_sources in by_signal.values()}
        if sources and (set(by_signal) != signals or lengths != {sources}):
            raise ValueError("not of all signals and sources")
    return {
        name: {suffix: [_score(x) for x in by_source] for suffix, by_source in by_signal.items()}
        for name, by_signal in scores.items()
    }


def _score(value: Any) -> float | Failure:
    if isinstance(value, list):
        where, reason = value
        return Failure(str(where), str(reason))
    if not math.isfinite(value):  # written as a failure
        raise ValueError("no score")
    return float(value)
