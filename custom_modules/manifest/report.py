"""What the prepare step saw, to read and to remember."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import pandas as pd

from custom_modules.errors import InputError
from custom_modules.files import atomic_path, not_a_file, regular_file
from custom_modules.manifest.csv_tables import Table
from custom_modules.manifest.duplicates import Repetition
from custom_modules.mmipc import VARIANTS, variants_of

#: In the save folder.
RECORD_FILE = "prepare_record.json"

#: Raise it when the same CSV would give another manifest.
FORMAT = 2


@dataclass
class Report:
    """What was seen of a corpus."""

    check: str  # how thoroughly the audio was looked at
    sample_rate: int
    subsets: dict[str, dict]  # the numbers of count_rows
    findings: list[str] = field(default_factory=list)  # duplicates and leakage
    notes: list[str] = field(default_factory=list)

    def table(self) -> str:
        """The numbers, as two narrow tables."""
        numbers = pd.DataFrame.from_dict(self.subsets, orient="index")
        total = numbers.sum().to_frame("all").T.astype(numbers.dtypes)
        numbers = pd.concat([numbers, total])
        numbers["hours"] = numbers["hours"].map("{:.2f}".format)
        if self.check != "full":
            del numbers["at_limiter"]
        variants = list(VARIANTS)
        return (
            f"sample rate {self.sample_rate} Hz, check: {self.check}\n\n"
            f"{numbers.drop(columns=variants).to_string()}\n\n"
            f"mixtures per variant\n{numbers[variants].to_string()}\n"
        )

    def __str__(self) -> str:
        findings = self.findings or ["no duplicates and no leakage found"]
        return "\n".join([self.table(), *findings, *self.notes]) + "\n"


def count_rows(table: Table, repetitions: Sequence[Repetition]) -> dict[str, float]:
    """The numbers that the report gives for a subset, and the rows of each variant."""
    rows = table.rows
    indoor = int((rows["s1_reverb"] != "").sum())
    of = {"indoor": indoor, "outdoor": len(rows) - indoor}
    duplicates = [r.rows for r in repetitions if r.original == r.copy == table.subset]
    return {
        "rows": len(rows),
        "hours": float((rows["frames"] / rows["sample_rate"]).sum() / 3600),
        **of,
        # A repeated mixture usually repeats its segments too.
        "duplicates": max(duplicates, default=0),
        "bad_rows": len(table.bad_rows),
        "at_limiter": int(rows["limited"].sum()),
    } | {x: sum(of[name] for name in of if x in variants_of(name)) for x in VARIANTS}


def finding_lines(repetitions: Iterable[Repetition]) -> list[str]:
    """Repetitions as lines: what, how often, and the examples below it."""
    return [
        line
        for repetition in repetitions
        for line in (str(repetition), *(f"  {x}" for x in repetition.examples))
    ]


def fingerprint(path: str | Path) -> list | None:
    """Size, time of change and digest of a file; None if there is none."""
    try:
        if not_a_file(path):
            return None
        stat = Path(path).stat()
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, partial(hashlib.blake2b, digest_size=16))
    except OSError:
        return None
    return [stat.st_size, stat.st_mtime_ns, digest.hexdigest()]


@dataclass
class Record:
    """What a run was asked for, read and wrote: a later one need not repeat it."""

    folder: Path
    options: dict
    files: Sequence[str | Path]  # that are read or written

    def _description(self) -> dict:
        states = {str(path): fingerprint(path) for path in self.files}
        return {"format": FORMAT, "options": self.options, "files": states}

    def read(self) -> Report | None:
        """The report of an earlier run, None if anything has changed since."""
        try:
            record = json.loads(regular_file(self.folder / RECORD_FILE).read_text("utf-8"))
            if record["description"] == self._description():
                return Report(**record["report"])
        except (InputError, OSError, ValueError, KeyError, TypeError, RecursionError):
            pass  # A record that cannot be read is no record.
        return None

    def write(self, report: Report) -> None:
        """Remembers a run, as it is after the manifests are written."""
        record = {"description": self._description(), "report": asdict(report)}
        with atomic_path(self.folder / RECORD_FILE) as path:
            path.write_text(json.dumps(record, indent=1), encoding="utf-8")
