"""What the prepare step saw, to read and to remember."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import pandas as pd

from custom_modules.files import atomic_path
from custom_modules.manifest.csv_tables import Table
from custom_modules.manifest.duplicates import Repetition
from custom_modules.mmipc import CANCELLED_LAYERS, VARIANTS

#: In the save folder.
RECORD_FILE = "prepare_record.json"

#: Raise it when the same CSV would give another manifest.
FORMAT = 1

_HOUR = 3600  # seconds


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
    numbers = {
        "rows": len(rows),
        "hours": float((rows["frames"] / rows["sample_rate"]).sum() / _HOUR),
        **of,
        # A repeated mixture usually repeats its segments too.
        "duplicates": max(duplicates, default=0),
        "bad_rows": len(table.bad_rows),
        "at_limiter": int(rows["limited"].sum()),
    }
    for variant in VARIANTS:
        numbers[variant] = sum(of[e] for e in of if variant in CANCELLED_LAYERS[e])
    return numbers


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
        stat = Path(path).stat()
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, partial(hashlib.blake2b, digest_size=16))
    except OSError:
        return None
    return [stat.st_size, stat.st_mtime_ns, digest.hexdigest()]


def describe(options: dict, files: Iterable[str | Path]) -> dict:
    """What a later run compares: options, and the state of what is read and written."""
    states = {str(path): fingerprint(path) for path in files}
    return {"format": FORMAT, "options": options, "files": states}


def recorded_report(save_folder: str | Path, description: dict) -> Report | None:
    """The report of an earlier run, None if anything has changed since."""
    try:
        record = json.loads(Path(save_folder, RECORD_FILE).read_text(encoding="utf-8"))
        if record["description"] == description:
            return Report(**record["report"])
    except (OSError, ValueError, KeyError, TypeError):
        # A record that cannot be read is no record.
        pass
    return None


def write_record(save_folder: str | Path, description: dict, report: Report) -> None:
    """Remembers a run, as it is described after the manifests are written."""
    record = {"description": description, "report": asdict(report)}
    with atomic_path(Path(save_folder) / RECORD_FILE) as path:
        path.write_text(json.dumps(record, indent=1), encoding="utf-8")
