"""Columns of a corpus's tables under their names here, and faults in them."""

from typing import NamedTuple

from custom_modules.layout import LAYERS

#: name in the manifest → column that may be absent
OPTIONAL_COLUMNS = {
    "scene_class": "sceneClass",
    "event_class": "eventClass",
    "ssr_db": "SSR",
}

#: name here → column: which stretch of which recording a speaker says
SEGMENT_COLUMNS = {
    f"{name}{speaker}": f"speech{speaker}{column}"
    for speaker in (1, 2)
    for name, column in (
        # The corpus itself spells it so.
        ("recording", "OryginalPath"),
        ("start", "Start"),
        ("end", "End"),
    )
}

#: column → name here, of every column that is read
NAMES = {
    # It only tells a row that lost its cells from a blank line.
    "subset": "subset",
    **{layer.column: name for name, layer in LAYERS.items()},
    **{column: name for name, column in OPTIONAL_COLUMNS.items()},
    **{column: name for name, column in SEGMENT_COLUMNS.items()},
}


class Problem(NamedTuple):
    """Something wrong with a row, as one line tells it.

    Arguments
    ---------
    table : str
        The CSV file.
    row : int
        As a spreadsheet counts: the header is row 1.
    file : str
        The audio file, relative to the corpus folder, or the CSV's column.
    reason : str
        What is wrong, and the remedy.

    Example
    -------
    >>> print(Problem("a.csv", 2, "train/mix/b.wav", "no such file; restore it"))
    a.csv, row 2, train/mix/b.wav: no such file; restore it
    """

    table: str
    row: int
    file: str
    reason: str

    def __str__(self):
        return f"{self.table}, row {self.row}, {self.file}: {self.reason}"
