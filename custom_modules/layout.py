"""What a PolSESS corpus looks like: its folders, its tables, who speaks in it.

The generator writes by these facts and the preparation reads by them.

Source: the corpus and its generator script of Kleć, Szklanny, Wieczorkowska 2024.
"""

import csv
from typing import NamedTuple

from custom_modules.files import atomic_path

#: The subsets, in the order in which reports list them.
SUBSETS = ("train", "val", "test")

#: The list of speakers in the corpus folder; columns ``speaker``, ``gender`` and
#: whatever else. PolSESS has none, corpora of the generator do.
SPEAKERS_FILE = "speakers.csv"

#: The columns of a subset's table, in PolSESS's order.
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


#: name of the layer → column and folder; the mixture comes first
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


def table_name(corpus, subset):
    """The name of a subset's CSV file.

    Arguments
    ---------
    corpus : str
        The name of the corpus folder, or ``"*"`` for a pattern.
    subset : str
        One of :data:`SUBSETS`.

    Returns
    -------
    str

    Example
    -------
    >>> table_name("PolSESS", "val")
    'corpus_PolSESS_val_final.csv'
    """
    return f"corpus_{corpus}_{subset}_final.csv"


def speaker_of(recording, speakers):
    """Who speaks in a recording, by its path.

    It is the outermost folder that is the name of a speaker: in the layout of
    LibriSpeech and MLS, ``speaker/book/file``, both folders are numbers, and a
    book may have that of another speaker.

    Arguments
    ---------
    recording : str
        The path in a table, with slashes of either kind; of joined recordings,
        the first counts.
    speakers : collection of str
        Those of the corpus.

    Returns
    -------
    str
        ``""`` if no folder is a speaker's.

    Example
    -------
    >>> speaker_of("D:\\\\mls\\\\6892\\\\10179\\\\7.flac", {"6892", "10179"})
    '6892'
    >>> speaker_of("sources/speech/m1/0.wav", {"m1"}), speaker_of("m1", {"m1"})
    ('m1', '')
    """
    folders = recording.replace("\\", "/").split("/")[:-1]
    return next((name for name in folders if name in speakers), "")


def with_speaker(recording, speaker, speakers):
    """A recording's path, in front of it the speaker if :func:`speaker_of` errs.

    Arguments
    ---------
    recording : str
        Its path.
    speaker : str
        Who speaks; a name without slashes.
    speakers : collection of str
        Those of the corpus, or more.

    Returns
    -------
    str
        A path of which :func:`speaker_of` says that it is the speaker's.

    Example
    -------
    >>> with_speaker("mls/6892/10179/7.flac", "6892", {"6892", "10179"})
    'mls/6892/10179/7.flac'
    >>> with_speaker("mls/6892/10179/7.flac", "10179", {"6892", "10179"})
    '10179/mls/6892/10179/7.flac'
    """
    if speaker_of(recording, speakers) == speaker:
        return recording
    return f"{speaker}/{recording}"


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
