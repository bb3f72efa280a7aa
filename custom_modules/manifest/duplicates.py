"""What occurs more than once: mixtures, and the speech in them.

Half of a corpus may be copies of the other half, and nobody notices while the
loss falls. Inside a subset that is waste; across subsets it makes the test
score a lie.
"""

import hashlib
from collections.abc import Callable, Sequence
from itertools import combinations, product
from typing import NamedTuple

import numpy as np
import pandas as pd

from custom_modules import layout, packs
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


def find_repetitions(tables: Sequence[Table], root: str, workers: int = 1) -> list[Repetition]:
    """In surveyed tables: mixtures whose files are equal byte for byte, pairs of speech
    segments twice in a subset, in either order, segments that overlap another subset's.
    """
    columns = ["mix", "device", "inode", "size", "excerpt"]
    parts = [t.rows[columns].assign(subset=t.subset, row=t.rows.index) for t in tables]
    mixtures = pd.concat(parts, ignore_index=True)
    mixtures["content"] = content_ids(mixtures, root, workers)
    repetitions = _duplicates(mixtures, "mixture")
    example = "row {row} is row {row_original} of {original} ({mix})"
    repetitions += _shared(mixtures, _equal, "mixture", example)
    if any("recording1" in table.rows for table in tables):
        segments = _segments(tables)
        repetitions += _duplicates(_pairs(segments), "pair of speech segments")
        example = "row {row} and row {row_original} of {original} share {recording}"
        repetitions += _shared(_apart(segments), _overlapping, "stretch of speech", example)
    return repetitions


def content_ids(mixtures: pd.DataFrame, root: str, workers: int = 1) -> pd.Series:
    """Numbers that are equal for files of equal content.

    Hard links are known by ``device`` and ``inode``; of the others, only files of the
    same ``size`` and ``excerpt`` are read.
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
        return [hashlib.blake2b(packs.content_of(path)).hexdigest() for path in paths]
    except OSError as error:
        raise InputError(
            f"{error.filename}: cannot be read ({error.strerror}); check the corpus"
        ) from error


def _duplicates(rows: pd.DataFrame, what: str) -> list[Repetition]:
    """Rows whose ``content`` is that of an earlier row of the same subset."""
    firsts = rows.groupby(["subset", "content"], sort=False)["row"].transform("first")
    copies = rows.assign(first=firsts)[firsts != rows["row"]]
    return [
        _repetition(what, subset, subset, group, "row {row} repeats row {first}")
        for subset, group in copies.groupby("subset", sort=False)
    ]


def _repetition(
    what: str, original: str, copy: str, rows: pd.DataFrame, example: str
) -> Repetition:
    """``example`` is a sentence with columns of the rows in braces."""
    cells = rows.head(EXAMPLES).assign(original=original).to_dict("records")
    examples = [f"{copy}: {example.format_map(row)}" for row in cells]
    return Repetition(what, original, copy, len(rows), examples)


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
    matches = (
        (original, copy, match(parts[original], parts[copy]).drop_duplicates("row"))
        for original, copy in combinations(parts, 2)
    )
    return [_repetition(what, *found, example) for found in matches if len(found[2])]


def _equal(originals: pd.DataFrame, copies: pd.DataFrame) -> pd.DataFrame:
    firsts = originals.drop_duplicates("content")
    return copies.merge(firsts, on="content", suffixes=("", "_original"))


def _segments(tables: Sequence[Table]) -> pd.DataFrame:
    """One row per speaker: which stretch of which recording."""
    columns, parts = ["recording", "start", "end"], []
    for table, speaker in product(tables, (1, 2)):
        if f"recording{speaker}" in table.rows:
            names = {f"{column}{speaker}": column for column in columns}
            part = table.rows.rename(columns=names).reindex(columns=columns)
            parts.append(part.assign(subset=table.subset, row=part.index, speaker=speaker))
    segments = pd.concat(parts, ignore_index=True)
    recordings = segments["recording"].str.replace("\\", "/", regex=False)
    # Without bounds, it may be any stretch: take it for all of them.
    start, end = segments["start"].fillna(-np.inf), segments["end"].fillna(np.inf)
    bounds = {"start": start.astype(float), "end": end.astype(float)}
    return segments.assign(recording=recordings, **bounds)[recordings != ""]


def _apart(segments: pd.DataFrame) -> pd.DataFrame:
    """A row for each of joined recordings: the first from its start, the last to its end."""
    parts = segments["recording"].str.split(layout.JOIN)
    rows = segments.assign(recording=parts).explode("recording", ignore_index=True)
    place = rows.groupby(["subset", "row", "speaker"], sort=False).cumcount()
    last = rows.groupby(["subset", "row", "speaker"], sort=False)["row"].transform("size") - 1
    bounds = {"start": rows["start"].where(place == 0, -np.inf)}
    bounds["end"] = rows["end"].where(place == last, np.inf)
    return rows.assign(**bounds)


def _pairs(segments: pd.DataFrame) -> pd.DataFrame:
    """One row per mixture; speakers that change places are the same pair."""
    codes = segments.groupby(["recording", "start", "end"], sort=False).ngroup()
    both = segments.assign(code=codes).groupby(["subset", "row"], sort=False)["code"]
    pairs = both.agg(["min", "max", "size"]).reset_index()
    pairs = pairs[pairs["size"] == 2]
    return pairs.assign(content=pairs.groupby(["min", "max"]).ngroup())


def _overlapping(originals: pd.DataFrame, copies: pd.DataFrame) -> pd.DataFrame:
    """Of the originals that begin before a copy ends, the one that ends last."""
    originals = originals.sort_values("start", kind="stable")
    so_far = originals.groupby("recording")["end"].cummax()
    lasting = originals["row"].where(originals["end"] == so_far)
    lasting = lasting.groupby(originals["recording"]).ffill()
    pairs = pd.merge_asof(
        copies.assign(place=range(len(copies))).sort_values("end"),
        originals[["recording", "start"]].assign(last=so_far, row_original=lasting),
        left_on="end",
        right_on="start",
        by="recording",
        suffixes=("", "_original"),
        allow_exact_matches=False,
    )
    pairs = pairs[pairs["last"] > pairs["start"]].astype({"row_original": int})
    return pairs.sort_values(["recording", "place"])
