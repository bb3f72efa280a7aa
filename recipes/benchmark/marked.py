"""Figures that outlive a killed benchmark, and pages that show them between marks."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from custom_modules.errors import InputError
from custom_modules.files import atomic_path, regular_file
from custom_modules.tabular import write_text
from recipes.benchmark.campaign.page import around_marks


class Kept:
    """Figures in a file of JSON, each measured once."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.figures: dict[str, Any] = {}
        if self.path.exists():
            try:
                self.figures = json.loads(regular_file(self.path).read_text("utf-8"))
            except ValueError as error:
                raise InputError(f"{path}: is no JSON ({error}); remove it") from error

    def measure(self, key: str, function: Callable[..., Any], *arguments: object) -> Any:
        """What a function returns, unless that is known."""
        if key not in self.figures:
            self.figures[key] = function(*arguments)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(self.path) as partial:
                partial.write_text(json.dumps(self.figures, indent=1), "utf-8")
        return self.figures[key]


def replace_marked(page: Path, name: str, text: str) -> None:
    """Puts a text between the marks of a name."""
    before, after = around_marks(page, name)
    write_text(page, "\n\n".join([before, text, after]))
