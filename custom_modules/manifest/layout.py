"""What a PolSESS corpus looks like on disk and in its tables."""

from typing import NamedTuple

#: The subsets, in the order in which reports list them.
SUBSETS = ("train", "val", "test")


class Layer(NamedTuple):
    """Where one kind of file of a mixture is named and stored.

    Arguments
    ---------
    column : str
        The CSV column that names it.
    folder : str
        The folder inside the subset that holds it.
    """

    column: str
    folder: str


#: name in the manifest → column and folder; the mixture comes first
LAYERS = {
    "mix": Layer("mixFile", "mix"),
    "s1": Layer("speaker1File", "clean"),
    "s2": Layer("speaker2File", "clean"),
    "scene": Layer("sceneFile", "scene"),
    "event": Layer("eventFile", "event"),
    "s1_reverb": Layer("reverbForSpeaker1", "sp1_reverb"),
    "s2_reverb": Layer("reverbForSpeaker2", "sp2_reverb"),
    "event_reverb": Layer("reverbForEvent", "ev_reverb"),
}

#: Indoor mixtures have them, outdoor ones do not.
REVERB_LAYERS = ("s1_reverb", "s2_reverb", "event_reverb")

#: Every mixture has them.
DRY_LAYERS = tuple(layer for layer in LAYERS if layer not in REVERB_LAYERS)

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
