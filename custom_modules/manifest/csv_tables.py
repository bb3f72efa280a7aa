"""PolSESS's tables: CSV files that MATLAB's ``writetable`` makes, and who speaks."""

import math
import os
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from custom_modules import layout, packs
from custom_modules.errors import InputError
from custom_modules.layout import DRY_LAYERS, LAYERS, REVERB_LAYERS, OutsideError

#: What MATLAB writes for a missing string, number or category.
MISSING = ("", "NaN", "nan", "<missing>", "<undefined>")

# What others than MATLAB write for it, and what a spreadsheet shows for an error.
_PLACEHOLDER = re.compile(r"n/?a|null|none|nil|[-–—?.]+|#\S*[/!?#]\S*|#", re.IGNORECASE)

_NUMBERS = ("ssr_db", "scene_db", "start1", "end1", "start2", "end2")
_COLUMNS = {name: column for column, name in layout.NAMES.items()}
_DECIMAL_COMMA = re.compile(r",(?!\d{3}(\D|$))|^[+−–-]?0*,")


class Problem(NamedTuple):
    """Something wrong with a row."""

    row: int  # as a spreadsheet counts: the header is row 1
    file: str  # relative to the corpus folder, or the CSV's column
    reason: str  # and the remedy


@dataclass(frozen=True)
class Table:
    """The rows of one subset, one per mixture."""

    subset: str
    path: Path
    #: Labelled by row number. A column per layer (paths relative to the corpus
    #: folder, ``""`` where there is none) and per optional column that the CSV has.
    rows: pd.DataFrame
    problems: tuple[Problem, ...] = ()  # their rows are still in rows
    notes: tuple[str, ...] = ()  # what the user should know and need not fix

    @property
    def bad_rows(self) -> list[int]:
        """Numbers of the rows that have a problem, in ascending order."""
        return sorted({problem.row for problem in self.problems})

    def without_bad_rows(self) -> "Table":
        """The table without the rows that have a problem."""
        return replace(self, rows=self.rows.drop(index=self.bad_rows))


def find_table(root: str | Path, subset: str) -> Path:
    """``corpus_<name>_<subset>_final.csv`` in the subset's folder or in the corpus'.

    The name is the corpus folder's own; failing that, any other will do, if there is
    only one.
    """
    root = Path(root)
    folders = (root / subset, root)
    name = layout.table_name(root.resolve().name, subset)
    pattern = layout.table_name("*", subset)
    # Path.exists raises PermissionError; a folder that may not be read has none.
    tables = [folder / name for folder in folders if os.path.exists(folder / name)]
    tables = tables or [path for f in folders for path in sorted(f.glob(pattern))]
    if len(tables) > 1:
        names = ", ".join(str(path) for path in tables)
        raise InputError(f"{names}: {len(tables)} tables for {subset}; keep one")
    if not tables:
        raise InputError(
            f"{root / subset}: no readable {pattern} here or in "
            f"{root}; check --data_folder: each subset has a folder with a CSV file"
        )
    return tables[0]


def read_table(path: str | Path, subset: str, root: str | Path) -> Table:
    """Reads the CSV file of a subset and resolves its file names.

    What is not such a table is refused; faults of single rows are in ``problems``.
    """
    cells = read_cells(path, wanted=layout.NAMES)
    rows, notes = cells.rename(columns=layout.NAMES), []
    if not rows.columns.isin(REVERB_LAYERS).any():
        notes = [f"{path}: has no reverb columns, so every row counts as outdoor"]
        rows = rows.assign(**dict.fromkeys(REVERB_LAYERS, ""))
    missing = [LAYERS[x].column for x in (*DRY_LAYERS, *REVERB_LAYERS) if x not in rows]
    if missing:
        plural = "s" if len(missing) > 1 else ""
        raise InputError(
            f"{path}: has no column{plural} {', '.join(missing)} in row 1; "
            "check that it is a PolSESS table, with a comma or semicolon between cells"
        )
    if not {"recording1", "recording2"} <= set(rows):
        notes += [f"{path}: does not name all recordings, so shared speech may go unnoticed"]
    rows, unclear = _with_numbers(rows)
    empty = _missing_cells(rows)
    rows, outside = _with_paths(rows, subset, root)
    named = {posixpath.basename(name) for name in rows["mix"]}
    if left := sorted({x.name for x in Path(root, subset, "mix").glob("[!.]*")} - named):
        notes += [f"{path}: {len(left)} files in {subset}/mix are in no row, such as {left[0]}"]
    problems = (*placeholders(cells), *unclear, *empty, *outside, *equal_names(rows))
    return Table(subset, Path(path), rows, problems, tuple(notes))


def read_cells(path: str | Path, wanted: Iterable[str]) -> pd.DataFrame:
    """The text of the wanted columns that a CSV file has, ``""`` for missing cells.

    Labelled by the row number in a spreadsheet, without blank lines.
    """
    columns = layout.read_columns(path, wanted)
    if not columns:
        raise InputError(f"{path}: row 1 names no known column; put commas between the cells")
    cells = pd.DataFrame(columns, dtype=str)
    values = cells.drop(columns=spoken(cells)).apply(lambda column: column.str.strip())
    cells[values.columns] = values.mask(values.isin(MISSING), "")
    cells = cells.set_axis(cells.index + 2)
    cells = cells[(cells != "").any(axis=1)]
    if not len(cells):
        raise InputError(f"{path}: has no rows; make the table again")
    return cells


def spoken(cells: pd.DataFrame) -> list[str]:
    """The columns of what is said, which is taken as it is: somebody may say "null"."""
    return [name for name in cells if name in (*layout.TEXT_COLUMNS.values(), layout.TEXT)]


def placeholders(cells: pd.DataFrame) -> Iterator[Problem]:
    """Cells that stand for an unknown value, or for a spreadsheet's error."""
    for column in cells.drop(columns=spoken(cells)):
        for row, cell in cells[column].items():
            if _PLACEHOLDER.fullmatch(cell):
                yield Problem(row, column, f"{cell!r} is no value; empty the cell if unknown")


def _with_numbers(rows: pd.DataFrame) -> tuple[pd.DataFrame, list[Problem]]:
    """Rows with floats, NaN for missing ones, and what is no number or no stretch."""
    columns: dict[str, list[float]] = {name: [] for name in _NUMBERS if name in rows}
    problems = []
    # One comma that must be a decimal one shows what the others are.
    thousands = not any(_DECIMAL_COMMA.search(cell) for name in columns for cell in rows[name])
    for name, values in columns.items():
        for row, cell in rows[name].items():
            try:
                values.append(layout.read_number(cell, thousands))
            except ValueError as error:
                values.append(math.nan)
                problems.append(Problem(row, _COLUMNS[name], f"{error}; write one as -2.5"))
    rows = rows.assign(**columns)
    for number in "12":
        start, end, recording = (f"{name}{number}" for name in ("start", "end", "recording"))
        if {start, end} <= set(columns):
            # Of joined recordings one is counted in the first, the other in the last.
            names = rows.get(recording, pd.Series("", rows.index))
            joined = names.str.contains(layout.JOIN, regex=False)
            wrong = (rows[start] < 0) | (~joined & (rows[start] >= rows[end]))
            reason = "is negative or not before its end; correct the stretch"
            problems += [Problem(row, _COLUMNS[start], reason) for row in rows.index[wrong]]
    return rows, problems


def _missing_cells(rows: pd.DataFrame) -> list[Problem]:
    """Empty cells; an indoor row is one that has a reverberation of speaker 1."""
    empty = rows[[*LAYERS]] == ""
    outdoor = empty["s1_reverb"]
    faults = [(x, empty[x], "empty cell; name the file") for x in DRY_LAYERS]
    lost = "empty cell, but reverbForSpeaker1 has a file; name all three"
    alone = "has a file, but reverbForSpeaker1 is empty; name all three or none"
    for x in REVERB_LAYERS[1:]:
        faults += [(x, empty[x] & ~outdoor, lost), (x, ~empty[x] & outdoor, alone)]
    return [
        Problem(row, LAYERS[layer].column, reason)
        for layer, mask, reason in faults
        for row in rows.index[mask].tolist()
    ]


def _with_paths(
    rows: pd.DataFrame, subset: str, root: str | Path
) -> tuple[pd.DataFrame, list[Problem]]:
    """Cells as paths relative to the corpus folder, ``""`` where they leave it."""
    columns: dict[str, list[str]] = {layer: [] for layer in LAYERS}
    problems = []
    for layer, (column, folder) in LAYERS.items():
        for row, cell in rows[layer].items():
            path = ""
            try:
                path = corpus_path(cell, folder, subset, str(root)) if cell else ""
            except OutsideError as error:
                reason = f"{error}; name a file inside the corpus"
                problems.append(Problem(row, column, reason))
            columns[layer].append(path)
    return rows.assign(**columns), problems


def equal_names(rows: pd.DataFrame) -> Iterator[Problem]:
    """The mixture's file stem is its key in the manifest."""
    first_rows: dict[str, int] = {}
    for row, path in rows["mix"].items():
        if path and not layout.NAME.fullmatch(mixture_id(path)):
            yield Problem(row, path, "its name is no text; rename it")
        first = first_rows.setdefault(mixture_id(path), row)
        if path and first != row:
            reason = f"row {first} has a mixture of the same name; rename one of them"
            yield Problem(row, path, reason)


def mixture_id(path: str) -> str:
    """The key of a mixture in its manifest: its file name without its last extension.

    >>> mixture_id("train/mix/a.1.wav")
    'a.1'
    """
    return posixpath.splitext(posixpath.basename(path))[0]


def corpus_path(cell: str, folder: str, subset: str, root: str) -> str:
    r"""The path of a file that a CSV cell names, relative to the corpus folder.

    A cell is a bare file name in the subset's ``folder``, a path relative to the subset
    or to the corpus, or an absolute one inside it. Others raise an OutsideError.

    >>> corpus_path(r"mix\a.wav", folder="mix", subset="val", root="data")
    'val/mix/a.wav'
    """
    path = layout.path_below(root, cell)
    if "/" not in path:
        return f"{subset}/{folder}/{path}"
    if posixpath.isabs(cell.replace("\\", "/")):
        return path
    places = [f"{subset}/{path}", path]
    existing = [x for x in places if packs.exists(os.path.join(root, x))]
    # If neither exists, name the likelier one in the complaint.
    return (*existing, places[path.startswith(f"{subset}/")])[0]


def read_genders(root: str | Path) -> dict[str, str] | None:
    """Speaker → gender, ``""`` if unknown; None if the corpus has no such list."""
    path = Path(root, layout.SPEAKERS_FILE)
    if not os.path.exists(path):
        return None
    cells = read_cells(path, wanted=("speaker", "gender"))
    if "speaker" not in cells:
        raise InputError(f"{path}: has no column speaker in row 1; add it")
    genders = cells.reindex(columns=["speaker", "gender"], fill_value="").drop_duplicates()
    wrong = [(x.row, x.reason) for x in placeholders(genders)]
    wrong += [(row, "no speaker; name one") for row in cells.index[cells["speaker"] == ""]]
    twice = genders.index[genders["speaker"].duplicated()]
    wrong += [(row, "the speaker had another gender before; correct it") for row in twice]
    for row, reason in wrong:
        raise InputError(f"{path}, row {row}: {reason}")
    return dict(genders.itertuples(index=False, name=None))


def with_speakers(rows: pd.DataFrame, genders: Mapping[str, str] | None) -> pd.DataFrame:
    """Rows with the columns ``speaker1``, ``gender1``, ``speaker2``, ``gender2``.

    Without genders, as of a corpus that does not list its speakers, ``source1`` and
    ``source2`` instead.
    """
    if genders is None:
        return _with_sources(rows)
    speaker_of = cache(partial(layout.speaker_of, speakers=genders))
    columns = {}
    for number in (1, 2):
        recordings = rows.get(f"recording{number}", [""] * len(rows))
        speakers = columns[f"speaker{number}"] = [speaker_of(x) for x in recordings]
        columns[f"gender{number}"] = [genders.get(name, "") for name in speakers]
    return rows.assign(**columns)


def _with_sources(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with the folders of their recordings: those next to the folder of them all."""
    if not {"recording1", "recording2"} <= set(rows):
        return rows
    folders = {number: _folders(rows[f"recording{number}"]) for number in (1, 2)}
    every = [parts for column in folders.values() for parts in column if parts]
    shared = zip(min(every, default=[]), max(every, default=[]), strict=False)
    depth = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], shared))
    return rows.assign(
        **{
            f"source{number}": ["".join(parts[depth : depth + 1]) for parts in column]
            for number, column in folders.items()
        }
    )


def _folders(recordings: Iterable[str]) -> list[list[str]]:
    """The folders of each recording, outermost first; of joined ones, the first counts."""
    return [x.split(layout.JOIN)[0].replace("\\", "/").split("/")[:-1] for x in recordings]
