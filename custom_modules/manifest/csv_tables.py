"""Reading the text of CSV files that MATLAB's ``writetable`` makes."""

import os
import posixpath
import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from custom_modules.errors import InputError
from custom_modules.layout import (
    DRY_LAYERS,
    LAYERS,
    NAMES,
    REVERB_LAYERS,
    SPEAKERS_FILE,
    Problem,
    speaker_of,
    table_name,
)

#: What MATLAB writes for a missing string, number or category.
MISSING = ("", "NaN", "nan", "<missing>", "<undefined>")

#: Windows in Polish writes the second one.
ENCODINGS = ("utf-8-sig", "cp1250")

# Rows that are read at once.
_PIECE = 10_000


def read_cells(path, wanted):
    """Reads the text of some columns of a CSV file.

    Arguments
    ---------
    path : str or pathlib.Path
        The CSV file: UTF-8, with or without a byte order mark, or cp1250.
    wanted : container of str
        The columns to read; those that the file lacks are left out.

    Returns
    -------
    pandas.DataFrame
        Of str, ``""`` for missing cells, without blank lines. Labelled by
        the row number in a spreadsheet: the header is row 1.

    Raises
    ------
    InputError
        If the file cannot be read, is not a CSV, or has no rows.
    """
    cells = _parse(path, wanted)
    if cells.columns.has_duplicates:
        twice = cells.columns[cells.columns.duplicated()][0]
        raise InputError(f"{path}: has two columns {twice} in row 1; remove one")
    cells.index += 2
    for column in cells:
        stripped = cells[column].str.strip()
        cells[column] = stripped.mask(stripped.isin(MISSING), "")
    if len(cells.columns):
        cells = cells[(cells != "").any(axis=1)]
    if not len(cells):
        raise InputError(f"{path}: has no rows; make the table anew")
    return cells


def _parse(path, wanted):
    for encoding in ENCODINGS:
        try:
            return _parse_as(encoding, path, wanted)
        except UnicodeDecodeError:
            continue
        except OSError as error:
            reason = error.strerror or error
            raise InputError(f"{path}: cannot be read ({reason}); mend it") from error
        except pd.errors.EmptyDataError as error:
            raise InputError(f"{path}: is empty; make the table anew") from error
        except (pd.errors.ParserError, pd.errors.ParserWarning) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"{path}: is not a CSV table ({reason})") from error
    raise InputError(f"{path}: is neither UTF-8 nor cp1250; save it as UTF-8")


def _parse_as(encoding, path, wanted):
    with warnings.catch_warnings():
        # "Length of header does not match": cells would be lost silently.
        warnings.simplefilter("error", pd.errors.ParserWarning)
        # All columns are read, so that a row with too many cells is noticed,
        # but only some are kept: that is what the pieces are for.
        pieces = pd.read_csv(
            path,
            encoding=encoding,
            dtype=str,
            na_filter=False,
            index_col=False,
            # A skipped line would shift the numbers of the rows after it.
            skip_blank_lines=False,
            chunksize=_PIECE,
        )
        with pieces:
            return pd.concat([_only(wanted, piece) for piece in pieces])


def _only(wanted, cells):
    cells.columns = cells.columns.str.strip()
    return cells.loc[:, [name in wanted for name in cells.columns]]


# Anything else is a bare file name, which needs no closer look.
_UNUSUAL = re.compile(r"[\\/:\0]|^\.+$")
_WINDOWS_ABSOLUTE = re.compile(r"[A-Za-z]:|\\\\")


class OutsideError(ValueError):
    """A file name that leads out of the corpus folder, or nowhere."""


def corpus_path(cell, folder, subset, root):
    """The path of a file that a CSV cell names, relative to the corpus folder.

    Arguments
    ---------
    cell : str
        A bare file name, a path relative to the subset's folder or to the
        corpus folder, or an absolute path inside the corpus. Separators may
        be backslashes.
    folder : str
        The subset's folder in which bare file names are looked for.
    subset : str
        ``"train"``, ``"val"`` or ``"test"``.
    root : str
        The corpus folder.

    Returns
    -------
    str
        With ``/`` as separator.

    Raises
    ------
    OutsideError
        If the name leaves the corpus folder.

    Example
    -------
    >>> corpus_path("a.wav", folder="mix", subset="val", root="data")
    'val/mix/a.wav'
    >>> corpus_path("mix\\\\a.wav", folder="mix", subset="val", root="data")
    'val/mix/a.wav'
    >>> corpus_path("../a.wav", folder="mix", subset="val", root="data")
    Traceback (most recent call last):
    custom_modules.manifest.csv_tables.OutsideError: '../a.wav' leaves the corpus folder
    """
    if not _UNUSUAL.search(cell):
        return f"{subset}/{folder}/{cell}"
    path = _relative(cell, root)
    if "/" not in path:
        return f"{subset}/{folder}/{path}"
    if not posixpath.isabs(cell.replace("\\", "/")):
        inside_subset = f"{subset}/{path}"
        if os.path.exists(os.path.join(root, inside_subset)):
            return inside_subset
        if not os.path.exists(os.path.join(root, path)):
            # Neither exists: name the likelier one in the complaint.
            return path if path.startswith(f"{subset}/") else inside_subset
    return path


def _relative(cell, root):
    if _WINDOWS_ABSOLUTE.match(cell):
        raise OutsideError(f"{cell!r} is an absolute Windows path")
    path = cell.replace("\\", "/")
    if ".." in path.split("/"):
        raise OutsideError(f"{cell!r} leaves the corpus folder")
    if posixpath.isabs(path):
        path = _inside(path, root)
        if path is None:
            raise OutsideError(f"{cell!r} is outside the corpus folder")
    path = posixpath.normpath(path)
    if path == "." or "\0" in path:
        raise OutsideError(f"{cell!r} is not a file name")
    return path


def _inside(path, root):
    for base in (os.path.abspath(root), os.path.realpath(root)):
        base = base.replace(os.sep, "/").rstrip("/") + "/"
        if path.startswith(base):
            return path[len(base) :]
    return None


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


def read_genders(root):
    """Reads the list of speakers, if the corpus has one.

    Arguments
    ---------
    root : str or pathlib.Path
        The corpus folder.

    Returns
    -------
    dict of str to str, or None
        Speaker → gender (``""`` if unknown). None if there is no such list.

    Raises
    ------
    InputError
        If the list cannot be read or has no column ``speaker``.
    """
    path = Path(root) / SPEAKERS_FILE
    if not os.path.exists(path):
        return None
    cells = read_cells(path, wanted=("speaker", "gender"))
    if "speaker" not in cells:
        raise InputError(f"{path}: has no column speaker in row 1; add it")
    genders = cells["gender"] if "gender" in cells else [""] * len(cells)
    return dict(zip(cells["speaker"], genders, strict=True))


def add_speakers(rows, genders):
    """Adds the columns ``speaker1``, ``gender1``, ``speaker2``, ``gender2``.

    See :func:`custom_modules.layout.speaker_of` for who speaks in a recording.

    Arguments
    ---------
    rows : pandas.DataFrame
        As in :class:`~custom_modules.manifest.csv_tables.Table`; changed in place.
    genders : dict of str to str
        From :func:`read_genders`.

    Example
    -------
    >>> import pandas as pd
    >>> recordings = ["D:\\\\pl\\\\anna\\\\7.wav", "pl/eve/8.wav"]
    >>> rows = pd.DataFrame({"recording1": recordings})
    >>> add_speakers(rows, {"anna": "female"})
    >>> rows["speaker1"].tolist(), rows["gender1"].tolist()
    (['anna', ''], ['female', ''])
    """
    for number in (1, 2):
        column = f"recording{number}"
        recordings = rows[column].tolist() if column in rows else [""] * len(rows)
        known = {path: speaker_of(path, genders) for path in set(recordings)}
        speakers = [known[path] for path in recordings]
        rows[f"speaker{number}"] = speakers
        rows[f"gender{number}"] = [genders.get(speaker, "") for speaker in speakers]
