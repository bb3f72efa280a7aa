"""What occurs more than once: mixtures, and the speech in them.

Half of a corpus may be copies of the other half, and nobody notices while the
loss falls. Inside a subset that is waste; across subsets it makes the test
score a lie.
"""

import hashlib
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from custom_modules.errors import InputError
from custom_modules.processes import map_pieces

#: So many examples of a finding are shown.
EXAMPLES = 10


@dataclass
class Repetition:
    """Rows of a subset that repeat something.

    Arguments
    ---------
    what : str
        What is the same, such as ``"mixture"``.
    original, copy : str
        The subset that has it, and the subset in which it occurs again; the
        same one if it is a duplicate rather than leakage.
    rows : int
        How many rows of ``copy`` repeat something.
    examples : list of str
        The first few of them.
    """

    what: str
    original: str
    copy: str
    rows: int
    examples: list = field(default_factory=list)

    @property
    def is_leakage(self):
        """Whether it crosses from one subset to another."""
        return self.original != self.copy

    def __str__(self):
        if self.is_leakage:
            where = f"rows of {self.copy} that share a {self.what} with {self.original}"
            return f"LEAKAGE: {where}: {self.rows}"
        return f"DUPLICATES: rows of {self.copy} that repeat a {self.what}: {self.rows}"


def find_repetitions(tables, root, workers=1):
    """Finds what occurs more than once in a corpus.

    Arguments
    ---------
    tables : list of Table
        Their rows have the columns of
        :class:`~custom_modules.manifest.checks.Facts`.
    root : str
        The corpus folder.
    workers : int
        Processes that compare files.

    Returns
    -------
    list of Repetition
        Mixtures whose files are equal byte for byte; pairs of speech segments
        that occur twice in a subset, in either order; segments that overlap
        one of another subset. Empty if all is well.
    """
    mixtures = pd.concat([_mixtures(table) for table in tables], ignore_index=True)
    mixtures["content"] = content_ids(mixtures, root, workers)
    found = _duplicates(mixtures, "content", "mixture")
    found += _shared_content(mixtures)
    tables = [table for table in tables if "recording1" in table.rows]
    if tables:
        segments = pd.concat([_segments(table) for table in tables], ignore_index=True)
        found += _duplicates(_pairs(segments), "content", "pair of speech segments")
        found += _shared_segments(segments)
    return found


def _mixtures(table):
    columns = ["mix", "device", "inode", "size", "excerpt"]
    return table.rows[columns].assign(subset=table.subset, row=table.rows.index)


def content_ids(mixtures, root, workers=1):
    """Numbers that are equal for files of equal content.

    Hard links are known by their inode. Of the others, only files of the same
    size with the same excerpt are read.

    Arguments
    ---------
    mixtures : pandas.DataFrame
        With ``mix``, ``device``, ``inode``, ``size`` and ``excerpt``.
    root : str
        The corpus folder.
    workers : int
        Processes that read files.

    Returns
    -------
    pandas.Series of int
    """
    ids = mixtures.groupby(["device", "inode"], sort=False).ngroup()
    firsts = mixtures[~ids.duplicated()]
    suspects = firsts[firsts.duplicated(["size", "excerpt"], keep=False)]
    paths = [f"{root}/{file}" for file in suspects["mix"]]
    digests = list(map_pieces(_digests, paths, workers))
    digests = pd.Series(digests, index=suspects.index, dtype=str)
    same = ids[suspects.index].groupby(digests).transform("min")
    replaced = ids.map(dict(zip(ids[suspects.index], same, strict=True)))
    return replaced.fillna(ids).astype(int)


def _digests(paths):
    try:
        return [hashlib.blake2b(Path(path).read_bytes()).hexdigest() for path in paths]
    except OSError as error:
        raise InputError(
            f"{error.filename}: cannot be read ({error.strerror}); check the corpus"
        ) from error


def _duplicates(rows, column, what):
    """Rows whose column repeats that of an earlier row of the same subset."""
    firsts = rows.groupby(["subset", column], sort=False)["row"].transform("first")
    copies = rows[firsts != rows["row"]].assign(first=firsts)
    return [
        Repetition(
            what,
            subset,
            subset,
            len(group),
            [
                f"{subset}: row {row} repeats row {first}"
                for row, first in _first_of(group[["row", "first"]])
            ],
        )
        for subset, group in copies.groupby("subset", sort=False)
    ]


def _shared_content(mixtures):
    found = []
    for original, copy in combinations(mixtures["subset"].unique(), 2):
        firsts = mixtures[mixtures["subset"] == original].drop_duplicates("content")
        copies = mixtures[mixtures["subset"] == copy]
        shared = copies.merge(firsts, on="content", suffixes=("", "_original"))
        if len(shared):
            examples = [
                f"{copy}: row {row} is row {first} of {original} ({file})"
                for row, first, file in _first_of(
                    shared[["row", "row_original", "mix"]]
                )
            ]
            found.append(Repetition("mixture", original, copy, len(shared), examples))
    return found


def _segments(table):
    """One row per speaker: which stretch of which recording."""
    parts = []
    for speaker in (1, 2):
        if f"recording{speaker}" not in table.rows:
            continue
        part = pd.DataFrame({"row": table.rows.index, "subset": table.subset})
        recording = table.rows[f"recording{speaker}"].str.replace(
            "\\", "/", regex=False
        )
        part["recording"] = recording.to_numpy()
        # Without bounds, it may be any stretch: take it for all of them.
        part["start"] = _bound(table.rows, f"start{speaker}", -np.inf)
        part["end"] = _bound(table.rows, f"end{speaker}", np.inf)
        parts.append(part[part["recording"] != ""])
    return pd.concat(parts, ignore_index=True)


def _bound(rows, column, default):
    if column not in rows:
        return default
    return rows[column].fillna(default).to_numpy()


def _pairs(segments):
    """One row per mixture; speakers that change places are the same pair."""
    codes = segments.groupby(["recording", "start", "end"], sort=False).ngroup()
    both = segments.assign(code=codes).groupby(["subset", "row"], sort=False)["code"]
    pairs = both.agg(["min", "max", "size"]).reset_index()
    pairs = pairs[pairs["size"] == 2]
    return pairs.assign(content=pairs.groupby(["min", "max"]).ngroup())


def _shared_segments(segments):
    found = []
    for original, copy in combinations(segments["subset"].unique(), 2):
        shared = _overlaps(
            segments[segments["subset"] == original],
            segments[segments["subset"] == copy],
        )
        rows = shared.drop_duplicates("row")
        if len(rows):
            examples = [
                f"{copy}: row {row} and row {first} of {original} share {recording}"
                for row, first, recording in _first_of(
                    rows[["row", "original", "recording"]]
                )
            ]
            what = "stretch of speech"
            found.append(Repetition(what, original, copy, len(rows), examples))
    return found


def _overlaps(originals, copies):
    """The copies that overlap an original, with the row of one of them."""
    common = set(originals["recording"]) & set(copies["recording"])
    found = [
        _overlaps_of_recording(
            originals[originals["recording"] == recording],
            copies[copies["recording"] == recording],
        )
        for recording in sorted(common)
    ]
    return pd.concat(found) if found else copies.iloc[:0].assign(original=0)


def _overlaps_of_recording(originals, copies):
    originals = originals.sort_values("start")
    start, end = originals["start"].to_numpy(), originals["end"].to_numpy()
    # Of the originals that begin before a copy ends, the one that ends last.
    before = np.searchsorted(start, copies["end"].to_numpy(), side="left") - 1
    last = _argmax_so_far(end)[np.maximum(before, 0)]
    overlaps = (before >= 0) & (end[last] > copies["start"].to_numpy())
    rows = originals["row"].to_numpy()[last]
    return copies.assign(original=rows)[overlaps]


def _argmax_so_far(values):
    """Where the largest of the values up to each position is.

    Example
    -------
    >>> _argmax_so_far(np.array([3, 1, 4, 1])).tolist()
    [0, 0, 2, 2]
    """
    is_largest = values >= np.maximum.accumulate(values)
    return np.maximum.accumulate(np.where(is_largest, np.arange(len(values)), 0))


def _first_of(rows):
    return rows.head(EXAMPLES).itertuples(index=False, name=None)
