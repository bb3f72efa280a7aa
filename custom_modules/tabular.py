"""What commands leave for one another and for people: tables, records and texts."""

import csv
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pandas as pd

from custom_modules.errors import InputError
from custom_modules.files import atomic_path, regular_file


def read_table(
    path: str | Path, needed: Collection[str], texts: Collection[str] = (), remedy: str = ""
) -> pd.DataFrame:
    """A CSV that one of our commands wrote, at least one row of it.

    All columns but ``texts`` are numbers. InputError, which ends with ``remedy``, if it
    is no such table: cut off, of other columns, or with text where numbers were.
    """
    path = _checked(path, remedy)
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            heading, *rows = list(csv.reader(stream)) or [[]]
        if not any(rows):
            raise ValueError("is empty")
        if lacking := [name for name in needed if name not in heading]:
            raise ValueError(f"has no column {lacking[0]}")
        if len(set(heading)) < len(heading):
            raise ValueError("has two columns of one name")
        for number, row in enumerate(rows, start=2):
            if row and len(row) != len(heading):  # a blank line is none
                raise ValueError(f"row {number} has {len(row)} of {len(heading)} cells")
        # Text is what it is: an id may be NA, or 007.
        as_text = dict.fromkeys(texts, str)
        table = pd.read_csv(path, dtype=as_text, keep_default_na=False, na_values=[""])
        for name in set(table) - set(texts):
            table[name] = _numbers(table[name])
    except (OSError, OverflowError, RecursionError, ValueError, csv.Error) as error:
        raise _unreadable(path, error, remedy) from error
    return table


def _numbers(column: pd.Series) -> pd.Series:
    if column.dtype == bool:
        raise ValueError(f"column {column.name} holds no numbers")
    try:
        return pd.to_numeric(column)
    except (TypeError, ValueError) as error:
        raise ValueError(f"column {column.name}: {error}") from error


def read_record(path: str | Path, remedy: str = "") -> dict[str, Any]:
    """A JSON mapping that one of our commands wrote; InputError if it is none."""
    path = _checked(path, remedy)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(record, dict):
            raise ValueError("holds no keys")
    except (OSError, RecursionError, ValueError) as error:
        raise _unreadable(path, error, remedy) from error
    return record


def _checked(path: str | Path, remedy: str) -> Path:
    try:
        return regular_file(path)
    except InputError as error:
        raise InputError(f"{error}{remedy and f'; {remedy}'}") from error


def _unreadable(path: Path, error: Exception, remedy: str) -> InputError:
    reason = getattr(error, "strerror", None) or (str(error).splitlines() or ["damaged"])[0]
    return InputError(f"{path}: cannot be read ({reason}){remedy and f'; {remedy}'}")


def write_table(table: pd.DataFrame, path: str | Path, digits: int | None = None) -> None:
    """Writes a table as CSV, numbers with so many significant digits."""
    form = f"%.{digits}g" if digits else None
    with atomic_path(path) as partial:
        table.to_csv(partial, index=False, float_format=form, errors="backslashreplace")


def write_text(path: str | Path, text: str) -> None:
    """Writes text as UTF-8; of a name that is none, such as a folder's, its escapes."""
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_record(record: dict[str, Any], path: str | Path) -> None:
    """Writes a mapping as JSON."""
    write_text(path, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
