"""Sources of the user's own scenes and events: a folder for each."""

import csv
from difflib import get_close_matches
from pathlib import Path

from custom_modules import audio
from custom_modules.corpus import sources as tables
from custom_modules.corpus import splitting
from custom_modules.corpus.sources import (
    EventSource,
    Recording,
    SceneSource,
    SpeechSource,
)
from custom_modules.errors import InputError
from custom_modules.layout import SUBSETS, with_speaker

#: The room of an indoor scene that is none of PolSESS's classes: WHAM's "medium".
DEFAULT_ROOM = "m"


def list_audio(folder):
    """The recordings below a folder.

    Arguments
    ---------
    folder : str or pathlib.Path
        Searched with its subfolders; hidden files are passed over.

    Returns
    -------
    list of str
        Sorted, relative to the folder, with forward slashes.

    Raises
    ------
    InputError
        If it is no folder, or holds no recordings.
    """
    folder = Path(folder)
    require_folder(folder)
    found = [
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.suffix.lower() in audio.SUFFIXES and not path.name.startswith(".")
    ]
    if not found:
        known = ", ".join(sorted(s.lstrip(".") for s in audio.SUFFIXES))
        raise InputError(f"{folder}: holds no recordings ({known}); check the path")
    return sorted(found)


def require_folder(folder):
    """Raises :class:`InputError` if a folder does not exist."""
    if not Path(folder).is_dir():
        raise InputError(f"{folder}: no such folder; check the path")


def measure(folder, paths, setup):
    """Each recording's length at the corpus's rate.

    Arguments
    ---------
    folder : str or pathlib.Path
        What the paths are relative to.
    paths : list of str
        Recordings.
    setup : Setup
        The corpus.

    Returns
    -------
    dict of str to int
        Path → samples.

    Raises
    ------
    InputError
        If any cannot be read; its details name every one.
    """
    lengths, problems = {}, []
    for path in setup.progress(paths, desc=f"reading {folder}", total=len(paths)):
        try:
            seconds, _ = audio.read_header(Path(folder, path))
            lengths[path] = max(1, int(seconds * setup.rate))
        except InputError as error:
            problems.append(str(error))
    if problems:
        raise InputError(
            f"{folder}: {len(problems)} of {len(paths)} recordings cannot be read; "
            "mend or remove them",
            problems,
        )
    return lengths


class Folder:
    """Reads recordings of a folder; the lists of the roles build upon it."""

    def __init__(self, folder):
        self.folder = str(folder)
        self._listed = None

    def check(self, setup):
        """See :meth:`custom_modules.corpus.sources.Source.check`."""
        self._listed = self._list(setup)

    def prepare(self, setup):
        """See :meth:`custom_modules.corpus.sources.Source.prepare`."""
        # Handed over, not kept: the workers get a copy of this object.
        listed, self._listed = self._listed, None
        return listed if listed is not None else self._list(setup)

    def read(self, recording, start, length, rate):
        """See :meth:`custom_modules.corpus.sources.Source.read`."""
        return audio.read_span(self._locate(recording), start, length, rate)

    def _list(self, setup):
        raise NotImplementedError

    def _locate(self, recording):
        return Path(self.folder, recording.path)


class _ClassFolder(Folder):
    """Recordings whose class is the subfolder that they lie in."""

    def __init__(self, folder, classes=None, same_recording=None):
        super().__init__(folder)
        self.classes = dict(classes or {})
        self.same_recording = same_recording

    def _list(self, setup):
        paths = list_audio(self.folder)
        names = {path: self._class_of(path) for path in paths}
        lengths = measure(self.folder, paths, setup)
        recordings = [Recording(path, names[path], lengths[path]) for path in paths]
        return splitting.split_by_class(
            recordings, setup.subsets, setup.seed, self.same_recording
        )

    def _folder_name(self, path):
        return path.split("/")[0] if "/" in path else Path(self.folder).name

    def _class_of(self, path):
        raise NotImplementedError


class SceneFolder(_ClassFolder, SceneSource):
    """Scenes of one's own; the class is the subfolder.

    Arguments
    ---------
    folder : str
        Holds one subfolder per class.
    classes : dict
        Subfolder → one of PolSESS's scene classes, or ``indoor`` or ``outdoor``
        for a scene of a class of its own. Subfolders that bear the name of a
        PolSESS class need no entry.
    same_recording : str
        A regular expression; files in whose name it finds the same text are
        parts of one recording, which is never divided over subsets.
    """

    def scene_class(self, name):
        """See :meth:`custom_modules.corpus.sources.SceneSource.scene_class`."""
        known = tables.scene_classes()
        if name in known:
            return known[name]
        environment = self.classes[name]
        room = known[DEFAULT_ROOM].room if environment == tables.INDOOR else {}
        return tables.SceneClass(name, environment, room)

    def _class_of(self, path):
        name = self._folder_name(path)
        target = self.classes.get(name, name)
        if target in tables.ENVIRONMENTS:
            return name
        if target not in tables.scene_classes():
            near = get_close_matches(target, tables.scene_classes(), n=1) or ["park"]
            raise InputError(
                f"{self.folder}/{name}: {target!r} is no scene class of PolSESS; say "
                f"what it is with --scene_classes='{{{name}: {near[0]}}}' or "
                f"'{{{name}: outdoor}}'"
            )
        return target


class EventFolder(_ClassFolder, EventSource):
    """Events of one's own; the class is the subfolder.

    Arguments
    ---------
    folder : str
        Holds one subfolder per class.
    classes : dict
        Subfolder → one of PolSESS's event classes, or a list of the scene classes
        that the event suits. A subfolder that is neither in it nor named like a
        PolSESS class suits every scene.
    same_recording : str
        As for :class:`SceneFolder`.
    """

    def suits(self, event_class, scene_class):
        """See :meth:`custom_modules.corpus.sources.EventSource.suits`."""
        scenes = self.classes.get(event_class)
        if not isinstance(scenes, (list, tuple)):
            scenes = tables.event_scenes().get(event_class)
        return scenes is None or scene_class in scenes

    def _class_of(self, path):
        name = self._folder_name(path)
        target = self.classes.get(name, name)
        if isinstance(target, (list, tuple)):
            return name
        if name in self.classes and target not in tables.event_scenes():
            near = get_close_matches(target, tables.event_scenes(), n=1) or ["Bell"]
            raise InputError(
                f"{self.folder}/{name}: {target!r} is no event class of PolSESS; the "
                f"nearest is {near[0]}, or give the list of scenes that it suits"
            )
        return target


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
