"""What a killed run has finished of a recording, in a folder of its own."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

from custom_modules.errors import InputError
from custom_modules.files import PARTIAL_SUFFIX, atomic_path
from custom_modules.tabular import read_record

_STATE = "state.json"


@contextmanager
def abandoned_if_empty(folder: Path) -> Iterator[None]:
    """Removes a folder that a failing recording leaves behind, if no stage was finished."""
    try:
        yield
    except Exception:
        if (state := Progress.peek(folder)) and not state["stages"]:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def remove_work(folder: Path) -> None:
    """Removes a folder; what says that it is one of work goes last."""
    for path in folder.iterdir():
        if path.name != _STATE:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.rmtree(folder)


class Progress:
    """Stages that are finished, with what they found, and single items of a stage.

    A folder of another ``key`` is emptied: what is in it is of other options or inputs.
    """

    def __init__(self, folder: Path, key: str = "") -> None:
        self.folder, self.key = folder, key
        self.stages: dict[str, Any] = {}
        self.seconds: dict[str, float] = {}
        state = self.peek(folder)
        if state.get("key") == key:
            self.stages, self.seconds = state["stages"], state["seconds"]
        elif folder.exists():
            others = [path for path in folder.iterdir() if path.suffix != PARTIAL_SUFFIX]
            if others and not (folder / _STATE).is_file():
                raise InputError(f"{folder}: holds other files than work in progress; move them")
            remove_work(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._write()

    @staticmethod
    def peek(folder: Path) -> dict[str, Any]:
        """What a folder says of itself, if anything."""
        try:
            return read_record(folder / _STATE)
        except InputError:
            return {}

    def _write(self) -> None:
        state = {"key": self.key, "stages": self.stages, "seconds": self.seconds}
        with atomic_path(self.folder / _STATE) as partial:
            partial.write_text(json.dumps(state), encoding="utf-8")

    def finish(self, stage: str, found: Any = True) -> None:
        """Writes down that a stage is finished, and what it found, as JSON holds it."""
        self.stages[stage] = found
        self._write()

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Adds the seconds of a stage, over all runs."""
        started = perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + perf_counter() - started
            self._write()

    def items(self, stage: str) -> list[Any]:
        """What was added to a stage; a line that a killed process left half is not."""
        path = self.folder / f"{stage}.jsonl"
        if not path.exists():
            return []
        text = path.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            path.write_text(whole, encoding="utf-8")
        return [json.loads(line) for line in whole.splitlines()]

    def add(self, stage: str, item: Any) -> None:
        """Writes down an item of a stage."""
        with open(self.folder / f"{stage}.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(item) + "\n")
