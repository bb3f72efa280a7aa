"""How the generator names its files, and how it writes a CSV."""

import csv

from custom_modules.files import atomic_path
from custom_modules.layout import LAYERS, table_name

#: Layer → what the names of its files end with. The mix comes last: a mixture whose
#: mix exists has all its layers.
ENDINGS = {
    "s1": "_sp1",
    "s2": "_sp2",
    "scene": "_scene",
    "event": "_event",
    "s1_reverb": "_sp1_reverb",
    "s2_reverb": "_sp2_reverb",
    "event_reverb": "_ev_reverb",
    "mix": "",
}

#: Between the paths of recordings that were joined to one segment.
JOIN = ";"


def stem(subset, index):
    """What the names of a mixture's files begin with.

    Example
    -------
    >>> stem("train", 7)
    'train_00007'
    """
    return f"{subset}_{index:05d}"


def file_cells(subset, index, layers):
    """The cells of a row that name its files.

    Arguments
    ---------
    subset : str
    index : int
    layers : iterable of str
        Keys of :data:`~custom_modules.layout.LAYERS`.

    Returns
    -------
    dict of str to str

    Example
    -------
    >>> file_cells("val", 3, ["s1", "mix"])
    {'speaker1File': 'val_00003_sp1.wav', 'mixFile': 'val_00003.wav'}
    """
    name = stem(subset, index)
    return {LAYERS[layer].column: f"{name}{ENDINGS[layer]}.wav" for layer in layers}


def file_paths(root, row):
    """Where the files of a row lie.

    Arguments
    ---------
    root : pathlib.Path
        The corpus.
    row : dict
        A row of its CSV; empty cells are files that do not exist.

    Returns
    -------
    dict of str to pathlib.Path
        Layer → path, the mix last.
    """
    return {
        layer: root / row["subset"] / LAYERS[layer].folder / row[LAYERS[layer].column]
        for layer in ENDINGS
        if row.get(LAYERS[layer].column)
    }


def csv_path(root, subset):
    """Where a subset's CSV lies, named as PolSESS names it.

    Example
    -------
    >>> from pathlib import Path
    >>> csv_path(Path("data/Mini"), "val").as_posix()
    'data/Mini/val/corpus_Mini_val_final.csv'
    """
    return root / subset / table_name(root.resolve().name, subset)


def write_rows(path, columns, rows):
    """Writes a CSV as MATLAB's ``writetable`` does: missing values are empty.

    Arguments
    ---------
    path : pathlib.Path
    columns : iterable of str
    rows : iterable of dict
        Values are strings; missing keys become empty cells.
    """
    with (
        atomic_path(path) as partial,
        open(partial, "w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_rows(path):
    """The rows of a CSV as dictionaries of strings."""
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def number(value):
    """A number as a cell: six significant digits.

    The last digits of a float differ between machines while the audio does not.

    Example
    -------
    >>> number(0.123456789), number(18000.0), number(-3)
    ('0.123457', '18000', '-3')
    """
    return f"{value:.6g}"


def seconds(samples, rate):
    """A position as a cell, in s; exact to the sample for hours.

    Example
    -------
    >>> seconds(8001, 8000)
    '1.000125'
    """
    return f"{samples / rate:.6f}".rstrip("0").rstrip(".")
