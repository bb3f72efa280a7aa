"""What occurs more than once: mixtures, and the speech in them.

Half of a corpus may be copies of the other half, and nobody notices while the
loss falls. Inside a subset that is waste; across subsets it makes the test
score a lie.
"""

import hashlib
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from custom_modules.errors import InputError
from custom_modules.manifest.csv_tables import Table
from custom_modules.processes import map_pieces

#: So many examples of each repetition are shown.
EXAMPLES = 10


class Repetition(NamedTuple):
    """Rows of a subset that repeat something."""

    what: str  # is the same: "mixture"
    original: str  # the subset that has it
    copy: str  # and that in which it occurs again; perhaps the same one
    rows: int  # of copy
    examples: list[str]  # the first few of them

    @property
    def is_leakage(self) -> bool:
        """Whether it crosses from one subset to another."""
        return self.original != self.copy

    def __str__(self) -> str:
        if self.is_leakage:
            where = f"rows of {self.copy} that share a {self.what} with {self.original}"
            return f"LEAKAGE: {where}: {self.rows}"
        return f"DUPLICATES: rows of {self.copy} that repeat a {self.what}: {self.rows}"


def find_repetitions(
    tables: Sequence[Table], root: str, workers: int = 1
) -> list[Repetition]:
    """Finds what occurs more than once, in tables that were surveyed.

    Mixtures whose files are equal byte for byte; pairs of speech segments twice in a
    subset, in either order; segments that overlap one of another subset.
    """
    mixtures = pd.concat([_mixtures(table) for table in tables], ignore_index=True)
    mixtures["content"] = content_ids(mixtures, root, workers)
    repetitions = _duplicates(mixtures, "mixture")
    example = "row {row} is row {row_original} of {original} ({mix})"
    repetitions += _shared(mixtures, _equal, "mixture", example)
    tables = [table for table in tables if "recording1" in table.rows]
    if tables:
        segments = pd.concat([_segments(table) for table in tables], ignore_index=True)
        repetitions += _duplicates(_pairs(segments), "pair of speech segments")
        example = "row {row} and row {row_original} of {original} share {recording}"
        repetitions += _shared(segments, _overlapping, "stretch of speech", example)
    return repetitions


def _mixtures(table: Table) -> pd.DataFrame:
    columns = ["mix", "device", "inode", "size", "excerpt"]
    return table.rows[columns].assign(subset=table.subset, row=table.rows.index)


def content_ids(mixtures: pd.DataFrame, root: str, workers: int = 1) -> pd.Series:
    """Numbers that are equal for files of equal content.

    Hard links are known by their ``device`` and ``inode``. Of the others, only files
    of the same ``size`` with the same ``excerpt`` are read.
    """
    ids = mixtures.groupby(["device", "inode"], sort=False).ngroup()
    firsts = mixtures[~ids.duplicated()]
    suspects = firsts[firsts.duplicated(["size", "excerpt"], keep=False)]
    paths = [f"{root}/{file}" for file in suspects["mix"]]
    digests = list(map_pieces(_digests, paths, workers))
    own = ids[suspects.index]
    same = own.groupby(pd.Series(digests, own.index, dtype=str)).transform("min")
    return ids.map(dict(zip(own, same, strict=True))).fillna(ids).astype(int)


def _digests(paths: Sequence[str]) -> list[str]:
    try:
        return [hashlib.blake2b(Path(path).read_bytes()).hexdigest() for path in paths]
    except OSError as error:
        raise InputError(
            f"{error.filename}: cannot be read ({error.strerror}); check the corpus"
        ) from error


def _duplicates(rows: pd.DataFrame, what: str) -> list[Repetition]:
    """Rows whose ``content`` is that of an earlier row of the same subset."""
    firsts = rows.groupby(["subset", "content"], sort=False)["row"].transform("first")
    copies = rows.assign(first=firsts)[firsts != rows["row"]]
    example = "row {row} repeats row {first}"
    return [
        Repetition(what, subset, subset, len(group), _examples(group, subset, example))
        for subset, group in copies.groupby("subset", sort=False)
    ]


def _examples(rows: pd.DataFrame, subset: str, sentence: str) -> list[str]:
    """The first few rows, each as a sentence with the columns in its braces."""
    cells = rows.head(EXAMPLES).to_dict("records")
    return [f"{subset}: {sentence.format_map(row)}" for row in cells]


def _shared(
    rows: pd.DataFrame,
    match: Callable[[pd.DataFrame, pd.DataFrame], pd.DataFrame],
    what: str,
    example: str,
) -> list[Repetition]:
    """Leakage: rows of a subset that match one of an earlier subset.

    ``match`` returns those of the second, with its match's number as ``row_original``.
    """
    parts = dict(list(rows.groupby("subset", sort=False)))
    repetitions = []
    for original, copy in combinations(parts, 2):
        shared = match(parts[original], parts[copy]).drop_duplicates("row")
        if len(shared):
            shared = shared.assign(original=original)
            examples = _examples(shared, copy, example)
            repetitions.append(Repetition(what, original, copy, len(shared), examples))
    return repetitions


def _equal(originals: pd.DataFrame, copies: pd.DataFrame) -> pd.DataFrame:
    firsts = originals.drop_duplicates("content")
    return copies.merge(firsts, on="content", suffixes=("", "_original"))


def _segments(table: Table) -> pd.DataFrame:
    """One row per speaker: which stretch of which recording."""
    rows, parts = table.rows, []
    for speaker in (1, 2):
        if f"recording{speaker}" not in rows:
            continue
        recordings = rows[f"recording{speaker}"].str.replace("\\", "/", regex=False)
        part = pd.DataFrame({"row": rows.index, "subset": table.subset})
        part["recording"] = recordings.to_numpy()
        # Without bounds, it may be any stretch: take it for all of them.
        part["start"] = _bounds(rows, f"start{speaker}", -np.inf)
        part["end"] = _bounds(rows, f"end{speaker}", np.inf)
        parts.append(part[part["recording"] != ""])
    return pd.concat(parts, ignore_index=True)


def _bounds(rows: pd.DataFrame, column: str, default: float) -> np.ndarray | float:
    return rows[column].fillna(default).to_numpy() if column in rows else default


def _pairs(segments: pd.DataFrame) -> pd.DataFrame:
    """One row per mixture; speakers that change places are the same pair."""
    codes = segments.groupby(["recording", "start", "end"], sort=False).ngroup()
    both = segments.assign(code=codes).groupby(["subset", "row"], sort=False)["code"]
    pairs = both.agg(["min", "max", "size"]).reset_index()
    pairs = pairs[pairs["size"] == 2]
    return pairs.assign(content=pairs.groupby(["min", "max"]).ngroup())


def _overlapping(originals: pd.DataFrame, copies: pd.DataFrame) -> pd.DataFrame:
    of_recording = dict(list(originals.groupby("recording")))
    shared = [
        _overlaps(of_recording[recording], group)
        for recording, group in copies.groupby("recording")
        if recording in of_recording
    ]
    return pd.concat(shared) if shared else copies.iloc[:0]


def _overlaps(originals: pd.DataFrame, copies: pd.DataFrame) -> pd.DataFrame:
    """The same of one recording."""
    originals = originals.sort_values("start")
    start, end = originals["start"].to_numpy(), originals["end"].to_numpy()
    # Of the originals that begin before a copy ends, the one that ends last.
    before = np.searchsorted(start, copies["end"].to_numpy(), side="left") - 1
    last = _argmax_so_far(end)[np.maximum(before, 0)]
    overlaps = (before >= 0) & (end[last] > copies["start"].to_numpy())
    rows = originals["row"].to_numpy()[last]
    return copies.assign(row_original=rows)[overlaps]


def _argmax_so_far(values: np.ndarray) -> np.ndarray:
    """Where the largest of the values up to each position is.

    >>> _argmax_so_far(np.array([3, 1, 4, 1])).tolist()
    [0, 0, 2, 2]
    """
    is_largest = values >= np.maximum.accumulate(values)
    return np.maximum.accumulate(np.where(is_largest, np.arange(len(values)), 0))
