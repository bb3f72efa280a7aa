"""The table of each subset: which file each row names for each layer."""

import os
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from custom_modules.errors import InputError
from custom_modules.layout import DRY_LAYERS, LAYERS, REVERB_LAYERS, table_name
from custom_modules.manifest.cells import read_cells
from custom_modules.manifest.layout import NAMES, Problem
from custom_modules.manifest.paths import OutsideError, corpus_path


@dataclass
class Table:
    """The rows of one subset.

    Arguments
    ---------
    subset : str
        ``"train"``, ``"val"`` or ``"test"``.
    path : pathlib.Path
        The CSV file.
    rows : pandas.DataFrame
        One row per mixture, labelled by its row number in a spreadsheet. A
        column per layer (paths relative to the corpus folder, ``""`` where
        there is none) and per optional column that the CSV has.
    problems : list of Problem
        What is wrong, found so far. Their rows are still in ``rows``.
    notes : list of str
        What the user should know and need not mend.
    """

    subset: str
    path: Path
    rows: pd.DataFrame
    problems: list = field(default_factory=list)
    notes: list = field(default_factory=list)

    def report(self, row, file, reason):
        """Notes a problem of the row with this number."""
        self.problems.append(Problem(str(self.path), int(row), file, reason))

    @property
    def bad_rows(self):
        """Numbers of the rows that have a problem, in ascending order."""
        return sorted({problem.row for problem in self.problems})

    def drop_bad_rows(self):
        """Leaves out the rows that have a problem."""
        self.rows = self.rows.drop(index=self.bad_rows)


def find_table(root, subset):
    """The CSV file of a subset.

    Arguments
    ---------
    root : str or pathlib.Path
        The corpus folder.
    subset : str
        ``"train"``, ``"val"`` or ``"test"``.

    Returns
    -------
    pathlib.Path
        ``corpus_<name>_<subset>_final.csv`` in the subset's folder or in the
        corpus folder. The name is the corpus folder's own; failing that, any
        other will do, if there is only one.

    Raises
    ------
    InputError
        If there is none, or more than one to choose from.
    """
    root = Path(root)
    folders = (root / subset, root)
    name = table_name(root.resolve().name, subset)
    # Path.exists raises PermissionError; a folder that may not be read has none.
    found = [folder / name for folder in folders if os.path.exists(folder / name)]
    if not found:
        pattern = table_name("*", subset)
        found = [path for folder in folders for path in sorted(folder.glob(pattern))]
    if len(found) > 1:
        names = ", ".join(str(path) for path in found)
        raise InputError(f"{names}: {len(found)} tables for {subset}; keep one")
    if not found:
        raise InputError(
            f"{root / subset}: no readable {pattern} here or in "
            f"{root}; check --data_folder: each subset has a folder with a CSV file"
        )
    return found[0]


def read_table(path, subset, root):
    """Reads the CSV file of a subset and resolves its file names.

    Arguments
    ---------
    path : str or pathlib.Path
        The CSV file.
    subset : str
        ``"train"``, ``"val"`` or ``"test"``.
    root : str or pathlib.Path
        The corpus folder.

    Returns
    -------
    Table

    Raises
    ------
    InputError
        If the file is not a CSV, has no rows, or lacks a needed column.
        Faults of single rows are collected in ``problems`` instead.
    """
    cells = read_cells(path, wanted=NAMES)
    _require_columns(
        path, cells.columns, [LAYERS[layer].column for layer in DRY_LAYERS]
    )
    table = Table(subset, Path(path), cells.rename(columns=NAMES))
    _complete_reverbs(table)
    _to_numbers(table.rows)
    _find_missing_cells(table)
    _resolve_paths(table, str(root))
    _find_colliding_ids(table)
    return table


def _require_columns(path, present, needed):
    missing = [column for column in needed if column not in present]
    if missing:
        plural = "s" if len(missing) > 1 else ""
        raise InputError(
            f"{path}: has no column{plural} {', '.join(missing)} in row 1; "
            "check that it is a comma-separated PolSESS table"
        )


def _complete_reverbs(table):
    """All three columns, or none: then every row counts as outdoor."""
    columns = [LAYERS[layer].column for layer in REVERB_LAYERS]
    if not table.rows.columns.isin(REVERB_LAYERS).any():
        table.notes.append(
            f"{table.path}: has no reverb columns, so every row counts as outdoor"
        )
        table.rows[list(REVERB_LAYERS)] = ""
    present = [LAYERS[name].column for name in table.rows if name in LAYERS]
    _require_columns(table.path, present, columns)


def _to_numbers(rows):
    for name in ("ssr_db", "start1", "end1", "start2", "end2"):
        if name in rows:
            rows[name] = pd.to_numeric(rows[name], errors="coerce")


def _find_missing_cells(table):
    rows = table.rows
    indoor = rows["s1_reverb"] != ""
    for layer in DRY_LAYERS:
        _report_all(table, rows[layer] == "", layer, "empty cell; name the file")
    for layer in REVERB_LAYERS[1:]:
        empty = rows[layer] == ""
        reason = "empty cell, but reverbForSpeaker1 has a file; name all three"
        _report_all(table, indoor & empty, layer, reason)
        reason = "has a file, but reverbForSpeaker1 is empty; name all three or none"
        _report_all(table, ~indoor & ~empty, layer, reason)


def _report_all(table, mask, layer, reason):
    for row in table.rows.index[mask]:
        table.report(row, LAYERS[layer].column, reason)


def _resolve_paths(table, root):
    for layer, (column, folder) in LAYERS.items():
        paths = table.rows[layer].tolist()
        for position, cell in enumerate(paths):
            if not cell:
                continue
            try:
                paths[position] = corpus_path(cell, folder, table.subset, root)
            except OutsideError as error:
                row = table.rows.index[position]
                table.report(row, column, f"{error}; name a file inside the corpus")
                paths[position] = ""
        table.rows[layer] = paths


def _find_colliding_ids(table):
    """The mixture's file stem is its key in the manifest."""
    stems = [mixture_id(path) for path in table.rows["mix"]]
    first_rows = {}
    for row, stem, path in zip(table.rows.index, stems, table.rows["mix"], strict=True):
        first = first_rows.setdefault(stem, row)
        if stem and first != row:
            reason = f"row {first} has a mixture of the same name; rename one of them"
            table.report(row, path, reason)


def mixture_id(path):
    """The key of a mixture in its manifest.

    Arguments
    ---------
    path : str
        The mixture's file.

    Returns
    -------
    str
        The file name without its last extension.

    Example
    -------
    >>> mixture_id("train/mix/a.1.wav")
    'a.1'
    """
    name = path.rpartition("/")[2]
    stem, dot, _ = name.rpartition(".")
    return stem if dot and stem else name
