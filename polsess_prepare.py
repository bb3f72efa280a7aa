"""Prepares PolSESS: checks the corpus and writes a JSON manifest per subset.

As a command:

    python polsess_prepare.py --data_folder data/MiniPolSESS \
        --save_folder results/manifests

and as a function that a training script calls: start reading at
:func:`prepare_polsess`. What a manifest entry holds is in
:func:`custom_modules.manifest.entries.manifest_entry`.

A bad row stops the command, after all of them were listed; duplicates are
reported, and speech or mixtures shared between subsets stop it as well.
"""

import argparse
import logging
import os
import sys
from contextlib import ExitStack
from pathlib import Path

from custom_modules.errors import InputError, OptionParser, exit_cleanly
from custom_modules.files import atomic_path
from custom_modules.layout import SPEAKERS_FILE, SUBSETS
from custom_modules.manifest.checks import LEVELS, survey_audio
from custom_modules.manifest.csv_tables import (
    add_speakers,
    find_table,
    read_genders,
    read_table,
)
from custom_modules.manifest.duplicates import find_repetitions
from custom_modules.manifest.entries import write_entries
from custom_modules.manifest.report import (
    RECORD_FILE,
    Report,
    count_rows,
    describe,
    finding_lines,
    recorded_report,
    write_record,
)
from custom_modules.processes import available_cores

#: In the save folder: what the command prints.
REPORT_FILE = "prepare_report.txt"

logger = logging.getLogger(__name__)


def prepare_polsess(
    data_folder,
    save_folder,
    subsets=SUBSETS,
    skip_prep=False,
    check="header",
    skip_bad_rows=False,
    allow_leakage=False,
    workers=None,
):
    """Checks a PolSESS corpus and writes a manifest for each subset.

    Nothing is done if the tables, the options and the manifests are as an
    earlier run left them. The audio is not looked at for this: remove the save
    folder after changing it.

    Arguments
    ---------
    data_folder : str or pathlib.Path
        The corpus: the folder that holds ``train``, ``val`` and ``test``.
    save_folder : str or pathlib.Path
        Where ``<subset>.json`` and ``prepare_report.txt`` go.
    subsets : iterable of str
        Which of ``"train"``, ``"val"``, ``"test"`` to prepare.
    skip_prep : bool
        Do nothing at all, as in SpeechBrain's recipes.
    check : str
        ``"header"``: every file is there, is readable, has one channel, the
        corpus' sample rate and its mixture's length. ``"full"``: also, every
        sample is finite, no speaker is silent, and each mixture is the sum of
        its layers. ``"none"``: only the headers of the mixtures are read.
    skip_bad_rows : bool
        Leave bad rows out of the manifests instead of stopping.
    allow_leakage : bool
        Do not stop if subsets share mixtures or speech.
    workers : int
        Number of processes; by default, one per available core.

    Returns
    -------
    Report or None
        What was seen, now or by the earlier run; None if ``skip_prep``.

    Raises
    ------
    InputError
        If the corpus has bad rows or leaks, a table is missing or unreadable,
        or the manifests cannot be written. What existed before is unchanged.

    Example
    -------
    >>> prepare_polsess("data/PolSESS", "results/manifests", skip_prep=True)
    """
    if skip_prep:
        logger.info("Skipping preparation, as asked")
        return None
    subsets = _valid_options(data_folder, subsets, check, workers)
    root, save_folder = str(data_folder), Path(save_folder)
    paths = {subset: find_table(root, subset) for subset in subsets}
    targets = {subset: save_folder / f"{subset}.json" for subset in subsets}
    options = {"data_folder": os.path.abspath(root), "check": check}
    options |= {"skip_bad_rows": skip_bad_rows, "allow_leakage": allow_leakage}
    watched = [*paths.values(), Path(root, SPEAKERS_FILE), *targets.values()]
    report = recorded_report(save_folder, describe(options, watched))
    if report:
        logger.info(f"Skipping preparation: manifests in {save_folder} are up to date")
        _warn(report)
        return report
    tables = [read_table(path, subset, root) for subset, path in paths.items()]
    report = _examine(tables, root, check, skip_bad_rows, allow_leakage, workers)
    _write(tables, targets, save_folder, report)
    write_record(save_folder, describe(options, watched), report)
    _log(report)
    logger.info(f"Manifests are in {save_folder}")
    return report


def _valid_options(data_folder, subsets, check, workers):
    unknown = set(subsets) - set(SUBSETS)
    if unknown or not subsets:
        raise InputError(
            f"subsets: {', '.join(sorted(unknown)) or 'none'}; "
            f"choose from {', '.join(SUBSETS)}"
        )
    if check not in LEVELS:
        raise InputError(f"check: {check}; choose from {', '.join(LEVELS)}")
    if workers is not None and workers < 1:
        raise InputError(f"workers: {workers}; choose at least 1")
    if not os.path.isdir(data_folder):
        raise InputError(
            f"{data_folder}: no such folder; check --data_folder, or "
            "POLSESS_DATA_ROOT, which stands in for it"
        )
    return [subset for subset in SUBSETS if subset in subsets]


def _examine(tables, root, check, skip_bad_rows, allow_leakage, workers):
    """Looks at the audio; drops or refuses bad rows; refuses leakage."""
    workers = workers or available_cores()
    genders = read_genders(root)
    sample_rate = survey_audio(tables, root, check, workers)
    notes = [note for table in tables for note in table.notes]
    notes += _deal_with_bad_rows(tables, skip_bad_rows)
    repetitions = find_repetitions(tables, root, workers)
    _refuse_leakage(repetitions, allow_leakage)
    if genders is not None:
        for table in tables:
            add_speakers(table.rows, genders)
    counts = {table.subset: count_rows(table, repetitions) for table in tables}
    return Report(check, sample_rate, counts, finding_lines(repetitions), notes)


def _deal_with_bad_rows(tables, skip_bad_rows):
    """Drops the bad rows and returns the notes about it, or stops."""
    problems = [str(problem) for table in tables for problem in table.problems]
    if not problems:
        return []
    bad = sum(len(table.bad_rows) for table in tables)
    total = sum(len(table.rows) for table in tables)
    spoilt = [table for table in tables if table.problems]
    if not skip_bad_rows:
        raise InputError(
            f"{', '.join(str(table.path) for table in spoilt)}: {bad} of {total} "
            "rows are bad, as listed; mend them, or leave them out with "
            "--skip_bad_rows=True",
            problems,
        )
    for table in spoilt:
        table.drop_bad_rows()
        if table.rows.empty:
            raise InputError(f"{table.path}: every row is bad, as listed", problems)
    return [f"left out {bad} bad rows of {total}:", *problems]


def _refuse_leakage(repetitions, allow_leakage):
    leaks = [repetition for repetition in repetitions if repetition.is_leakage]
    if leaks and not allow_leakage:
        pairs = sorted({f"{leak.original} and {leak.copy}" for leak in leaks})
        raise InputError(
            f"{', '.join(pairs)} share speech or mixtures, as listed; "
            "make the subsets anew, or use --allow_leakage=True",
            finding_lines(leaks),
        )


def _write(tables, targets, save_folder, report):
    """Writes all manifests and the report, or none of them."""
    report_path, record_path = save_folder / REPORT_FILE, save_folder / RECORD_FILE
    for path in (*targets.values(), report_path, record_path):
        if os.path.isdir(path):
            raise InputError(f"{path}: is a folder, not a file; remove it")
    with ExitStack() as stack:
        report_part = stack.enter_context(atomic_path(report_path))
        report_part.write_text(str(report), encoding="utf-8")
        for table in tables:
            part = stack.enter_context(atomic_path(targets[table.subset]))
            write_entries(part, table.rows)


def _log(report):
    logger.info(report.table())
    _warn(report)
    for note in report.notes:
        logger.info(note)


def _warn(report):
    # Every time: a duplicate does not get better by being known.
    for finding in report.findings:
        logger.warning(finding)


def _truth(text):
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")
    return text.lower() == "true"


def _parse(argv):
    parser = OptionParser(
        description="Checks a PolSESS corpus and writes a JSON manifest per subset.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--data_folder",
        default=os.environ.get("POLSESS_DATA_ROOT"),
        help="the corpus; by default, the environment variable POLSESS_DATA_ROOT",
    )
    add("--save_folder", default="results/manifests", help="where the manifests go")
    add("--subsets", default=",".join(SUBSETS), help="which, separated by commas")
    add("--check", default="header", choices=LEVELS, help="how thoroughly")
    add("--workers", type=int, help="processes; by default, one per core")
    for name, meaning in (
        ("--skip_prep", "do nothing"),
        ("--skip_bad_rows", "leave bad rows out instead of stopping"),
        ("--allow_leakage", "do not stop if subsets share speech or mixtures"),
    ):
        # A bare --flag, and SpeechBrain's --flag=True.
        add(name, nargs="?", const=True, default=False, type=_truth, help=meaning)
    return parser.parse_args(argv)


def main(argv=None):
    """The command; ``--help`` lists its options.

    Arguments
    ---------
    argv : list of str
        Without the program's name; by default, the command line's.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    with exit_cleanly():
        options = vars(_parse(argv))
        if not options["data_folder"]:
            raise InputError("no corpus: use --data_folder or set POLSESS_DATA_ROOT")
        options["subsets"] = options["subsets"].split(",")
        prepare_polsess(**options)


if __name__ == "__main__":
    main()
