"""Prepares PolSESS: checks the corpus and writes a JSON manifest per subset.

As a command:

    python polsess_prepare.py --data_folder data/MiniPolSESS \
        --save_folder results/manifests

and as a function that a training script calls, :func:`prepare_polsess`. What an entry
holds is in :func:`custom_modules.manifest.entries.manifest_entry`.

A bad row stops the command, after all were listed; so does what subsets share.

A corpus of a million files becomes a few large ones, which then stand for the corpus:

    python polsess_prepare.py --data_folder data/MiniPolSESS --pack data/packed
    python polsess_prepare.py --data_folder data/packed
"""

from custom_modules.startup import prepare_process

if __name__ == "__main__":
    prepare_process(__name__)

import argparse
import logging
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from pandas import DataFrame

from custom_modules import packs
from custom_modules.errors import InputError, OptionParser, check_number, exit_cleanly
from custom_modules.files import atomic_path, check_output, lock
from custom_modules.layout import SPEAKERS_FILE, SUBSETS
from custom_modules.limits import option
from custom_modules.manifest import csv_tables, report
from custom_modules.manifest.checks import LEVELS, survey_audio
from custom_modules.manifest.csv_tables import Table
from custom_modules.manifest.duplicates import Repetition, find_repetitions
from custom_modules.manifest.entries import write_entries
from custom_modules.manifest.packing import pack_corpus
from custom_modules.manifest.report import Report
from custom_modules.processes import available_cores

#: In the save folder: what the command prints.
REPORT_FILE = "prepare_report.txt"

logger = logging.getLogger(__name__)


def prepare_polsess(
    data_folder: str | Path,
    save_folder: str | Path,
    subsets: Collection[str] = SUBSETS,
    skip_prep: bool = False,
    check: str = "header",
    skip_bad_rows: bool = False,
    allow_leakage: bool = False,
    workers: int | None = None,
) -> Report | None:
    """Checks a PolSESS corpus and writes a manifest for each subset.

    ``check`` is one of :data:`~custom_modules.manifest.checks.LEVELS`; by default there
    is a worker per core. None if ``skip_prep``. An ``InputError`` leaves all as it was.

    Nothing is done if tables, options and manifests are as an earlier run left them.
    The audio is not looked at for this: remove the save folder after changing it.
    """
    if skip_prep:
        logger.info("Skipping preparation, as asked")
        return None
    workers = available_cores() if workers is None else workers
    subsets = _valid_options(data_folder, subsets, check, workers)
    root, save_folder = str(data_folder), Path(save_folder)
    pack = packs.open_pack(os.path.abspath(root))  # refuses one that is cut off
    paths = {subset: csv_tables.find_table(root, subset) for subset in subsets}
    targets = {subset: save_folder / f"{subset}.json" for subset in subsets}
    options: dict[str, object] = {"data_folder": os.path.abspath(root), "check": check}
    options |= {"skip_bad_rows": skip_bad_rows, "allow_leakage": allow_leakage}
    watched = [*paths.values(), Path(root, SPEAKERS_FILE), *targets.values()]
    watched += [Path(root, packs.PACK_FILE)] if pack else []
    record = report.Record(save_folder, options, watched)
    if earlier := record.read():
        logger.info(f"Skipping preparation: manifests in {save_folder} are up to date")
        _warn(earlier)
        return earlier
    seen, rows = _survey(paths, root, check, skip_bad_rows, allow_leakage, workers)
    with lock(save_folder, wait=True):  # all files of one command
        _write(dict(zip(targets.values(), rows, strict=True)), save_folder, str(seen))
        record.write(seen)
    logger.info(seen.table())
    _warn(seen)
    for line in (*seen.notes, f"Manifests are in {save_folder}"):
        logger.info(line)
    return seen


def _survey(
    paths: Mapping[str, Path],
    root: str,
    check: str,
    skip_bad_rows: bool,
    allow_leakage: bool,
    workers: int,
) -> tuple[Report, list[DataFrame]]:
    """Reads tables and headers; what was seen, and the rows of each manifest."""
    tables = [csv_tables.read_table(path, s, root) for s, path in paths.items()]
    genders = csv_tables.read_genders(root)
    tables, rate = survey_audio(tables, root, check, workers)
    notes = [note for table in tables for note in table.notes]
    notes += _bad_row_notes(tables, skip_bad_rows)
    tables = [table.without_bad_rows() for table in tables]
    repetitions = find_repetitions(tables, root, workers)
    _refuse_leakage(repetitions, allow_leakage)
    counts = {table.subset: report.count_rows(table, repetitions) for table in tables}
    seen = Report(check, rate, counts, report.finding_lines(repetitions), notes)
    return seen, [csv_tables.with_speakers(table.rows, genders) for table in tables]


def _valid_options(
    data_folder: str | Path, subsets: Collection[str], check: str, workers: int
) -> list[str]:
    """Refuses bad options; returns the subsets in their usual order."""
    unknown = set(subsets) - set(SUBSETS)
    if unknown or not subsets:
        raise InputError(
            f"subsets: {', '.join(sorted(unknown)) or 'none'}; choose from {', '.join(SUBSETS)}"
        )
    if check not in LEVELS:
        raise InputError(f"check: {check}; choose from {', '.join(LEVELS)}")
    check_number("--workers", workers, least=1, whole=True)
    if not os.path.isdir(data_folder):
        raise InputError(
            f"{data_folder}: no such folder; check --data_folder, or "
            "POLSESS_DATA_ROOT, which stands in for it"
        )
    return [subset for subset in SUBSETS if subset in subsets]


def _pack(
    target: str,
    data_folder: str,
    subsets: Collection[str],
    check: str,
    skip_bad_rows: bool,
    workers: int | None,
    **_: object,
) -> None:
    workers = available_cores() if workers is None else workers
    subsets = _valid_options(data_folder, subsets, check, workers)
    pack_corpus(data_folder, target, subsets, workers, skip_bad_rows, verify=check == "full")


def _bad_row_notes(tables: Sequence[Table], skip_bad_rows: bool) -> list[str]:
    """What is said of the bad rows if they, and not whole tables, may be left out."""
    problems = [
        f"{table.path}, row {row}, {file}: {reason}"
        for table in tables
        for row, file, reason in table.problems
    ]
    if not problems:
        return []
    bad = sum(len(table.bad_rows) for table in tables)
    total = sum(len(table.rows) for table in tables)
    if not skip_bad_rows:
        paths = ", ".join(str(table.path) for table in tables if table.problems)
        raise InputError(
            f"{paths}: {bad} of {total} rows are bad, as listed; fix them, or leave "
            "them out with --skip_bad_rows=True",
            problems,
        )
    for table in tables:
        if len(table.bad_rows) == len(table.rows):
            raise InputError(f"{table.path}: every row is bad, as listed", problems)
    return [f"left out {bad} bad rows of {total}:", *problems]


def _refuse_leakage(repetitions: Sequence[Repetition], allow_leakage: bool) -> None:
    leaks = [repetition for repetition in repetitions if repetition.is_leakage]
    if leaks and not allow_leakage:
        pairs = sorted({f"{leak.original} and {leak.copy}" for leak in leaks})
        raise InputError(
            f"{', '.join(pairs)} share speech or mixtures, as listed; "
            "make the subsets again, or use --allow_leakage=True",
            report.finding_lines(leaks),
        )


def _write(manifests: Mapping[Path, DataFrame], folder: Path, text: str) -> None:
    """Writes all manifests and the report, or none of them."""
    report_path = folder / REPORT_FILE
    check_output(folder / report.RECORD_FILE)
    with ExitStack() as stack:
        part = stack.enter_context(atomic_path(report_path))
        part.write_text(text, encoding="utf-8")
        for path, rows in manifests.items():
            write_entries(stack.enter_context(atomic_path(path)), rows)


def _warn(seen: Report) -> None:
    # Every time: a duplicate does not get better by being known.
    for finding in seen.findings:
        logger.warning(finding)


def _truth(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")
    return text.lower() == "true"


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = OptionParser(
        description="Checks a PolSESS corpus and writes a JSON manifest per subset.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    root = os.environ.get("POLSESS_DATA_ROOT")
    add("--data_folder", default=root, help="the corpus; default: $POLSESS_DATA_ROOT")
    add("--save_folder", default="results/manifests", help="where the manifests go")
    add("--pack", metavar="FOLDER", help="write the corpus there as a few large files, only that")
    add("--subsets", default=",".join(SUBSETS), help="which, separated by commas")
    add("--check", default="header", choices=LEVELS, help="how thoroughly")
    add("--workers", type=option("workers"), help="processes; by default, one per core")
    for name, meaning in (
        ("--skip_prep", "do nothing"),
        ("--skip_bad_rows", "leave bad rows out instead of stopping"),
        ("--allow_leakage", "do not stop if subsets share speech or mixtures"),
    ):
        # A bare --flag, and SpeechBrain's --flag=True.
        add(name, nargs="?", const=True, default=False, type=_truth, help=meaning)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """The command; ``--help`` lists its options."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    with exit_cleanly():
        options = vars(_parse(argv))
        if not options["data_folder"]:
            raise InputError("no corpus: use --data_folder or set POLSESS_DATA_ROOT")
        options["subsets"] = options["subsets"].split(",")
        if target := options.pop("pack"):
            _pack(target, **options)
        else:
            prepare_polsess(**options)


if __name__ == "__main__":
    main()
