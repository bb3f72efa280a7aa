"""Reading the text of CSV files that MATLAB's ``writetable`` makes."""

import warnings

import pandas as pd

from custom_modules.errors import InputError

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
