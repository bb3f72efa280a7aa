"""What the prepare step saw, as a table to read and as numbers."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pandas as pd

from custom_modules.files import atomic_path
from custom_modules.mmipc import CANCELLED_LAYERS, VARIANTS

_HOUR = 3600  # seconds


@dataclass
class Report:
    """What was seen of a corpus.

    Arguments
    ---------
    check : str
        How thoroughly the audio was looked at.
    sample_rate : int
        Of all files, in Hz.
    subsets : dict of str to dict
        Subset → the numbers of :func:`count_rows`.
    findings : list of str
        Duplicates and leakage, each with examples.
    notes : list of str
        What else the user should know.
    """

    check: str
    sample_rate: int
    subsets: dict
    findings: list = field(default_factory=list)
    notes: list = field(default_factory=list)

    def table(self):
        """The numbers, as two narrow tables.

        Returns
        -------
        str
        """
        total = {
            name: sum(numbers[name] for numbers in self.subsets.values())
            for name in next(iter(self.subsets.values()))
        }
        counts = {**self.subsets, "all": total}
        numbers = pd.DataFrame.from_dict(counts, orient="index")
        numbers["hours"] = numbers["hours"].map("{:.2f}".format)
        if self.check != "full":
            del numbers["at_limiter"]
        variants = list(VARIANTS)
        return "\n".join(
            [
                f"sample rate {self.sample_rate} Hz, check: {self.check}\n",
                f"{numbers.drop(columns=variants).to_string()}\n",
                f"mixtures per variant\n{numbers[variants].to_string()}\n",
            ]
        )

    def __str__(self):
        findings = self.findings or ["no duplicates and no leakage found"]
        return "\n".join([self.table(), *findings, *self.notes]) + "\n"


def count_rows(table, repetitions):
    """The numbers that the report gives for one subset.

    Arguments
    ---------
    table : Table
        Its rows have the columns of
        :class:`~custom_modules.manifest.checks.Facts`; bad ones are left out.
    repetitions : list of Repetition
        Of all subsets.

    Returns
    -------
    dict of str to number
        ``rows``, ``hours``, ``indoor``, ``outdoor``; ``duplicates`` (rows that
        repeat a mixture or a pair of segments of the same subset);
        ``bad_rows`` (left out); ``at_limiter`` (samples, in a full check); and
        the rows that each variant has.
    """
    rows = table.rows
    seconds = (rows["frames"] / rows["sample_rate"]).sum()
    indoor = int((rows["s1_reverb"] != "").sum())
    of = {"indoor": indoor, "outdoor": len(rows) - indoor}
    own = [r.rows for r in repetitions if r.original == r.copy == table.subset]
    numbers = {
        "rows": len(rows),
        "hours": float(seconds / _HOUR),
        **of,
        # A repeated mixture usually repeats its segments too.
        "duplicates": max(own, default=0),
        "bad_rows": len(table.bad_rows),
        "at_limiter": int(rows["limited"].sum()),
    }
    for variant in VARIANTS:
        numbers[variant] = sum(
            of[environment]
            for environment in of
            if variant in CANCELLED_LAYERS[environment]
        )
    return numbers


def finding_lines(repetitions):
    """Repetitions as lines: what, how often, and the examples below it.

    Arguments
    ---------
    repetitions : list of Repetition
        From :func:`~custom_modules.manifest.duplicates.find_repetitions`.

    Returns
    -------
    list of str
    """
    lines = []
    for repetition in repetitions:
        lines.append(str(repetition))
        lines += [f"  {example}" for example in repetition.examples]
    return lines


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
