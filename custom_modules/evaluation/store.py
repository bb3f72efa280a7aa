"""What was scored so far, so that a killed evaluation goes on where it was."""

import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import BinaryIO

from custom_modules.errors import InputError
from custom_modules.evaluation.scoring import Failure, MixtureScores, SignalScores

#: In the results folder: what was scored, so that a rerun goes on.
SCORES_FOLDER = "test_scores"


class ScoreStore:
    """Scores by mixture, variant and metric, appended to a file as they come.

    Processes append to files of their own and read those of all. What a kill cut off
    in the middle of a line is passed over, and scored again. ``key`` names what is
    evaluated, as :func:`custom_modules.evaluation.record.evaluation_key` does.

    >>> folder = getfixture("tmp_path")
    >>> store = ScoreStore(folder, key="model1")
    >>> store.add("a", {"SER": {"pesq": {"": [1.5, 2.0]}}})
    >>> store.close()
    >>> ScoreStore(folder, key="model1").scores("a", "SER", ["pesq"])
    {'pesq': {'': [1.5, 2.0]}}
    >>> ScoreStore(folder, key="model1").missing("a", "SER", ["pesq", "stoi"])
    ['stoi']
    """

    def __init__(self, folder: str | Path, key: str, rank: int = 0) -> None:
        self.folder, self.key = Path(folder), key
        self.path = self.folder / f"{key}.{rank}.jsonl"
        self._file: BinaryIO | None = None
        self._scored: dict[tuple[str, str], dict[str, SignalScores]] = {}
        self.read_all()

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
        lines = []
        for variant, by_metric in scores.items():
            self._take_in(mixture_id, variant, by_metric)
            record = {"id": mixture_id, "variant": variant, "scores": by_metric}
            lines.append(f"{json.dumps(record, ensure_ascii=False)}\n")
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
            try:
                lines = path.read_bytes().split(b"\n")
            except OSError as error:
                raise InputError(
                    f"{path}: cannot be read ({error.strerror}); remove it to score again"
                ) from error
            for line in lines:
                try:
                    record = json.loads(line)
                    scores = _with_failures(record["scores"])
                    self._take_in(record["id"], record["variant"], scores)
                except (ValueError, KeyError, TypeError, AttributeError):
                    continue  # cut off by a kill, or of an older format

    def _open(self) -> BinaryIO:
        self.folder.mkdir(parents=True, exist_ok=True)
        file = open(self.path, "ab")  # noqa: SIM115 - closed by close()
        if file.tell():
            with open(self.path, "rb") as written:
                written.seek(-1, os.SEEK_END)
                if written.read() != b"\n":  # end the line that a kill cut off
                    file.write(b"\n")
        return file

    def _take_in(self, mixture_id: str, variant: str, scores: dict[str, SignalScores]) -> None:
        known = self._scored.setdefault((mixture_id, variant), {})
        for name, by_signal in scores.items():
            known.setdefault(name, by_signal)


def _with_failures(scores: dict) -> dict[str, SignalScores]:
    """Scores as JSON keeps them: a failure is a list there."""
    return {
        name: {
            suffix: [Failure(*x) if isinstance(x, list) else x for x in of_sources]
            for suffix, of_sources in by_signal.items()
        }
        for name, by_signal in scores.items()
    }
