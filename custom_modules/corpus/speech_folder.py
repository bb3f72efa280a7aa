"""A source of the user's own speech: speakers by subfolder or by a table."""

import csv
from pathlib import Path

from custom_modules.corpus import splitting
from custom_modules.corpus.folders import Folder, list_audio, measure, require_folder
from custom_modules.corpus.sources import Recording, SpeechSource
from custom_modules.errors import InputError
from custom_modules.layout import SUBSETS, with_speaker


class SpeechFolder(Folder, SpeechSource):
    """Speech of one's own; speakers by subfolder, or by a table.

    Arguments
    ---------
    folder : str
        Holds one subfolder per speaker, or whatever the table names.
    table : str
        A CSV with the columns ``file`` (relative to the folder), ``speaker``, and
        perhaps ``gender`` and ``subset``. None: speakers by subfolder.
    speakers : dict
        Subset → list of speakers. None: divided by the seed, genders balanced.
    val_speakers : str
        ``"disjoint"``, or ``"train"``: validation has other recordings of the
        training's speakers, for corpora of few speakers.
    """

    def __init__(self, folder, table=None, speakers=None, val_speakers="disjoint"):
        super().__init__(folder)
        self.table = table
        self.speakers = speakers
        self.val_speakers = val_speakers
        if val_speakers not in splitting.VAL_SPEAKERS:
            raise InputError(
                f"val_speakers is {val_speakers!r}; set it to disjoint or to train"
            )

    def _list(self, setup):
        require_folder(self.folder)
        rows = self._table_rows() if self.table else self._folder_rows()
        lengths = measure(self.folder, [row["file"] for row in rows], setup)
        recordings = [_recording(row, lengths[row["file"]]) for row in rows]
        if any(row.get("subset") for row in rows):
            return self._as_in_table(rows, recordings, setup)
        return self._divide(recordings, setup)

    def _locate(self, recording):
        path = Path(self.folder, recording.path)
        if path.exists():
            return path
        return Path(self.folder, recording.path.removeprefix(f"{recording.group}/"))

    def _folder_rows(self):
        paths = list_audio(self.folder)
        for path in paths:
            if "/" not in path:
                raise InputError(
                    f"{self.folder}/{path}: lies in no speaker's folder; "
                    "move it into one, or give a table of speakers"
                )
        return [{"file": p, "path": p, "speaker": p.split("/")[0]} for p in paths]

    def _table_rows(self):
        rows = _read_table(self.table)
        for row in rows:
            row["file"] = (row["file"] or "").strip().replace("\\", "/")
            row["speaker"] = (row["speaker"] or "").strip()
        speakers = {row["speaker"] for row in rows}
        for row in rows:
            row["path"] = with_speaker(row["file"], row["speaker"], speakers)
        problems, seen = [], set()
        for number, row in enumerate(rows, start=2):
            problem = self._problem(row, seen)
            if problem:
                problems.append(f"{self.table}: row {number}: {problem}")
            seen.add(row["file"])
        if problems:
            raise InputError(
                f"{self.table}: {len(problems)} bad rows; mend them, or the folder "
                f"{self.folder} that its files are relative to",
                problems,
            )
        return rows

    def _problem(self, row, seen):
        if not row["file"] or not row["speaker"]:
            return "no file or no speaker"
        if "/" in row["speaker"] or "\\" in row["speaker"]:
            return f"speaker {row['speaker']!r} has a slash; write another sign"
        if row["file"] in seen:
            return f"{row['file']} is listed before"
        if not Path(self.folder, row["file"]).is_file():
            return f"no file {row['file']}"
        if row["path"] != row["file"] and Path(self.folder, row["path"]).exists():
            return f"{row['path']} would stand for it, but is another file; rename one"
        if (row.get("subset") or "") not in ("", *SUBSETS):
            return f"subset {row['subset']!r} is none of {', '.join(SUBSETS)}"
        return None

    def _as_in_table(self, rows, recordings, setup):
        """The table's own division; rows without a subset are left out."""
        chosen = {
            subset: [
                recording
                for row, recording in zip(rows, recordings, strict=True)
                if row.get("subset") == subset
            ]
            for subset in setup.subsets
        }
        split = {s: {r.group for r in listed} for s, listed in chosen.items()}
        self._check(split, recordings)
        return chosen

    def _divide(self, recordings, setup):
        """The division by the hparams, or by the seed."""
        genders = {r.group: r.gender for r in recordings}
        subsets, seed = setup.subsets, setup.seed
        if self.speakers:
            split = {s: map(str, self.speakers.get(s) or ()) for s in subsets}
            split = {subset: list(names) for subset, names in split.items()}
            if self._shares(subsets):
                split["val"] = split["train"]
            self._check(split, recordings)
        else:
            split = splitting.split_speakers(genders, subsets, seed, self.val_speakers)
        chosen = {
            subset: [r for r in recordings if r.group in set(names)]
            for subset, names in split.items()
        }
        if self._shares(subsets):
            kept, taken = splitting.hold_out(chosen["train"], seed)
            chosen |= {"train": kept, "val": taken}
        return chosen

    def _check(self, split, recordings):
        shared = self._shares(split)
        own = {s: names for s, names in split.items() if not (shared and s == "val")}
        splitting.check_explicit(own, {r.group for r in recordings})

    def _shares(self, subsets):
        return self.val_speakers == "train" and {"train", "val"} <= set(subsets)


def _recording(row, samples):
    return Recording(row["path"], row["speaker"], samples, row.get("gender") or "")


def _read_table(path):
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns, rows = reader.fieldnames or (), list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read ({reason}); give a CSV") from error
    missing = {"file", "speaker"} - set(columns)
    if missing:
        raise InputError(f"{path}: no column {' and '.join(sorted(missing))}; add it")
    if not rows:
        raise InputError(f"{path}: holds no rows; add some")
    return rows
