"""How a PolSESS corpus lies on disk: folders, file names, and the CSV."""

import csv

from custom_modules.files import atomic_path

#: PolSESS's columns, in its order.
COLUMNS = (
    "subset",
    "speech1OryginalPath",
    "speech1Start",
    "speech1End",
    "speech2OryginalPath",
    "speech2Start",
    "speech2End",
    "SSR",
    "sceneOryginalPath",
    "sceneStart",
    "sceneEnd",
    "sceneRandomDB",
    "sceneOffsetDB",
    "sceneVolumeGain",
    "eventOryginalPath",
    "eventStart",
    "eventEnd",
    "speaker1File",
    "speaker2File",
    "eventFile",
    "sceneFile",
    "reverbForSpeaker1",
    "reverbForSpeaker2",
    "reverbForEvent",
    "mixFile",
    "sceneClass",
    "eventClass",
    "preDelayForEvent",
    "preDelay1",
    "preDelay2",
    "highCut",
    "diffusion",
    "decay",
    "freqDamp",
)

#: Layer → (column that names its file, folder, ending of its name). The mix comes
#: last: a mixture whose mix exists has all its layers.
FILES = {
    "s1": ("speaker1File", "clean", "_sp1"),
    "s2": ("speaker2File", "clean", "_sp2"),
    "scene": ("sceneFile", "scene", "_scene"),
    "event": ("eventFile", "event", "_event"),
    "s1_reverb": ("reverbForSpeaker1", "sp1_reverb", "_sp1_reverb"),
    "s2_reverb": ("reverbForSpeaker2", "sp2_reverb", "_sp2_reverb"),
    "event_reverb": ("reverbForEvent", "ev_reverb", "_ev_reverb"),
    "mix": ("mixFile", "mix", ""),
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
        Keys of :data:`FILES`.

    Returns
    -------
    dict of str to str

    Example
    -------
    >>> file_cells("val", 3, ["s1", "mix"])
    {'speaker1File': 'val_00003_sp1.wav', 'mixFile': 'val_00003.wav'}
    """
    name = stem(subset, index)
    return {FILES[layer][0]: f"{name}{FILES[layer][2]}.wav" for layer in layers}


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
        layer: root / row["subset"] / folder / row[column]
        for layer, (column, folder, _) in FILES.items()
        if row.get(column)
    }


def csv_path(root, subset):
    """Where a subset's CSV lies, named as PolSESS names it.

    Example
    -------
    >>> from pathlib import Path
    >>> csv_path(Path("data/Mini"), "val").as_posix()
    'data/Mini/val/corpus_Mini_val_final.csv'
    """
    return root / subset / f"corpus_{root.resolve().name}_{subset}_final.csv"


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
