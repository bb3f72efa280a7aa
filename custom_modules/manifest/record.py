"""Remembering what was prepared, so that it is not done again."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from custom_modules.files import atomic_path
from custom_modules.manifest.report import Report

#: In the save folder.
RECORD_FILE = "prepare_record.json"

#: Raise it when the same CSV would give another manifest.
FORMAT = 1


def fingerprint(path):
    """Tells whether a file has changed.

    Arguments
    ---------
    path : str or pathlib.Path
        Any file.

    Returns
    -------
    list or None
        Size, time of change, and digest; None if there is no such file.
    """
    try:
        stat = Path(path).stat()
        with open(path, "rb") as file:
            digest = hashlib.blake2b(digest_size=16)
            for block in iter(lambda: file.read(1 << 20), b""):
                digest.update(block)
    except OSError:
        return None
    return [stat.st_size, stat.st_mtime_ns, digest.hexdigest()]


def describe(options, files):
    """What a later run compares: options and the state of files.

    Arguments
    ---------
    options : dict
        JSON values.
    files : iterable of path
        What was read and written.

    Returns
    -------
    dict
    """
    states = {str(path): fingerprint(path) for path in files}
    return {"format": FORMAT, "options": options, "files": states}


def recorded_report(save_folder, description):
    """The report of an earlier run, if it still holds.

    Arguments
    ---------
    save_folder : str or pathlib.Path
        Where the manifests are.
    description : dict
        From :func:`describe`, as things are now.

    Returns
    -------
    Report or None
        None if anything has changed since, or there was no earlier run.
    """
    try:
        text = (Path(save_folder) / RECORD_FILE).read_text(encoding="utf-8")
        record = json.loads(text)
        if record["description"] == description:
            return Report(**record["report"])
    except (OSError, ValueError, KeyError, TypeError):
        # A record that cannot be read is no record.
        pass
    return None


def write_record(save_folder, description, report):
    """Remembers a run.

    Arguments
    ---------
    save_folder : str or pathlib.Path
        Where the manifests are.
    description : dict
        From :func:`describe`, after the manifests are written.
    report : Report
        What was seen.
    """
    record = {"description": description, "report": asdict(report)}
    with atomic_path(Path(save_folder) / RECORD_FILE) as path:
        path.write_text(json.dumps(record, indent=1), encoding="utf-8")
