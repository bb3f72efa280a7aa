"""Checking the audio of whole tables, with all cores and a progress bar."""

import functools
from collections import Counter
from contextlib import closing
from itertools import islice

from tqdm import tqdm

from custom_modules.layout import LAYERS
from custom_modules.manifest.checks import Facts, check_rows
from custom_modules.manifest.pool import map_pieces

# A progress bar for less than this is only flicker.
_PATIENCE_SECONDS = 2


def survey_audio(tables, root, check, workers):
    """Looks at the audio of every row.

    Arguments
    ---------
    tables : list of Table
        Changed in place: their rows get the columns of
        :class:`~custom_modules.manifest.checks.Facts`, their problems grow.
    root : str
        The corpus folder.
    check : str
        One of :data:`~custom_modules.manifest.checks.LEVELS`.
    workers : int
        Number of processes.

    Returns
    -------
    int
        The corpus' sample rate in Hz: that of most mixtures.
    """
    files = [files for table in tables for files in _layer_files(table.rows)]
    work = functools.partial(check_rows, root, check)
    bar = functools.partial(
        tqdm,
        total=len(files),
        unit=" rows",
        desc="checking",
        delay=_PATIENCE_SECONDS,
        leave=False,
        disable=None,  # not into a log file
    )
    # Closing ends the workers, also on Ctrl-C.
    with closing(map_pieces(work, files, workers)) as facts, bar(facts) as shown:
        facts = iter(shown)
        for table in tables:
            _take_in(table, list(islice(facts, len(table.rows))))
    return _agree_on_rate(tables)


def _layer_files(rows):
    """The files of each row, as ``check_row`` takes them."""
    return zip(*(rows[layer].tolist() for layer in LAYERS), strict=True)


def _take_in(table, facts):
    for row, fact in zip(table.rows.index, facts, strict=True):
        for file, reason in fact.problems:
            table.report(row, file, reason)
    for name, values in zip(Facts._fields, zip(*facts, strict=True), strict=True):
        if name != "problems":
            table.rows[name] = values


def _agree_on_rate(tables):
    """The commonest rate; rows of another one become bad ones."""
    rates = Counter()
    for table in tables:
        rates.update(table.rows["sample_rate"].tolist())
    del rates[0]  # of mixtures that cannot be read
    majority = max(rates, key=rates.get, default=0)
    for table in tables:
        others = table.rows[~table.rows["sample_rate"].isin([0, majority])]
        cells = zip(others.index, others["mix"], others["sample_rate"], strict=True)
        for row, file, rate in cells:
            table.report(row, file, f"{rate} Hz, the corpus {majority} Hz; resample it")
    return majority
