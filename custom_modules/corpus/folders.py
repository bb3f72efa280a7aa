"""Sources of the user's own recordings: a folder each of speech, scenes and events."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import ClassVar

from tqdm import tqdm

from custom_modules import audio
from custom_modules.corpus import sources, splitting, utterances
from custom_modules.corpus.sources import Listing, Recording, Samples, Setup
from custom_modules.errors import InputError
from custom_modules.layout import SUBSETS, with_speaker

#: The room of an indoor scene that is none of PolSESS's classes: WHAM's "medium".
DEFAULT_ROOM = "m"

#: Of a table of speech; beside them, a row has a ``path``, which tells the speaker.
COLUMNS = ("file", "speaker", "gender", "subset", "text")
Row = dict[str, str]


@dataclass
class Folder(sources.Source):
    """Reads recordings of a folder; the lists of the roles build upon it."""

    folder: str | Path
    _listed: Listing | None = field(default=None, init=False, repr=False)

    def check(self, setup: Setup) -> None:
        if not Path(self.folder).is_dir():
            raise InputError(f"{self.folder}: no such folder; check the path")
        self._listed = self._list(setup)

    def prepare(self, setup: Setup) -> Listing:
        if self._listed is None:
            self.check(setup)
        # Handed over, not kept: the workers get a copy of this object.
        listed, self._listed = self._listed, None
        return listed or {}

    def read(self, recording: Recording, start: int, length: int, rate: int) -> Samples:
        path = Path(self.folder, recording.path)
        return audio.read_span(path, start, length, rate)

    def _list(self, setup: Setup) -> Listing:
        raise NotImplementedError

    def _paths(self) -> list[str]:
        """The recordings, sorted, relative to the folder, with forward slashes."""
        found, problems = audio.find_recordings(self.folder)
        paths = sorted(path.relative_to(self.folder).as_posix() for path in found)
        odd = [path for path in paths if re.search("[\ud800-\udfff]", path)]
        problems += [f"{path!r}: is not UTF-8, as the corpus's table is" for path in odd]
        if problems:
            raise InputError(f"{self.folder}: {len(problems)} names or folders to fix", problems)
        if not paths:
            raise InputError(f"{self.folder}: holds no recordings (wav, flac, mp3, …); check it")
        return paths

    def _lengths(self, paths: list[str], setup: Setup) -> list[tuple[int, int]]:
        """In samples at the corpus's rate, with their own; all that cannot be read are named."""
        lengths, problems = [], []
        bar = {"desc": f"reading {self.folder}", "dynamic_ncols": True, "leave": False}
        for path in tqdm(paths, **bar):
            try:
                seconds, rate = audio.read_header(Path(self.folder, path))
                lengths.append((max(1, int(seconds * setup.rate)), rate))
            except InputError as error:
                problems.append(str(error))
        if problems:
            number = f"{len(problems)} of {len(paths)} recordings cannot be read"
            message = f"{self.folder}: {number}; fix or remove them"
            raise InputError(message, problems)
        return lengths


@dataclass
class _ClassFolder(Folder):
    """Recordings whose class is the subfolder; `same_recording` as in `splitting`."""

    classes: Mapping = field(default_factory=dict)
    same_recording: str | None = None
    takes: ClassVar[tuple[type, ...]] = (str,)  # as a class
    remedy: ClassVar[str] = "a class's name"

    def __post_init__(self) -> None:
        self.classes = self.classes or {}
        for name, target in self.classes.items():
            if not isinstance(target, self.takes):
                raise InputError(
                    f"{self.folder}/{name}: its class is {target!r}; write {self.remedy}"
                )
        try:
            re.compile(self.same_recording or "")
        except re.error as error:
            raise InputError(
                f"same_recording={self.same_recording}: is no regular expression ({error})"
            ) from error

    def _list(self, setup: Setup) -> Listing:
        paths, own_name = self._paths(), Path(self.folder).name
        names = [p.split("/")[0] if "/" in p else own_name for p in paths]
        if unknown := sorted({*self.classes} - {*names}):
            raise InputError(
                f"{self.folder}/{unknown[0]}: has no recordings, but a class; there are "
                f"{', '.join(sorted({*names}))}"
            )
        groups = [self._class_of(name) for name in names]
        recordings = [
            Recording(path, group, length, rate=rate)
            for path, group, (length, rate) in zip(
                paths, groups, self._lengths(paths, setup), strict=True
            )
        ]
        return splitting.split_by_class(recordings, setup, self.same_recording)

    def _class_of(self, subfolder: str) -> str:
        raise NotImplementedError

    def _known(self, subfolder: str, known: Collection[str], role: str, other: str) -> str:
        """The class of PolSESS that a subfolder is, or is mapped to."""
        target = self.classes.get(subfolder, subfolder)
        if target not in known:
            near = (get_close_matches(target, known, n=1) or list(known))[0]
            option = f"--{role}_classes='{{{subfolder}: "
            raise InputError(
                f"{self.folder}/{subfolder}: {target!r} is not one of PolSESS's {role} "
                f"classes; say what it is with {option}{near}}}' or {option}{other}}}'"
            )
        return target


class SceneFolder(_ClassFolder):
    """Scenes of one's own; the class is the subfolder, if it is one of PolSESS's.

    ``classes``: other subfolder → one of PolSESS's scene classes, or ``indoor`` or
    ``outdoor`` for a scene of a class of its own.
    """

    def scene_class(self, name: str) -> sources.SceneClass:
        known, environment = sources.scene_classes(), self.classes.get(name)
        if environment not in (sources.INDOOR, sources.OUTDOOR):
            return known[name]
        room = known[DEFAULT_ROOM].room if environment == sources.INDOOR else {}
        return sources.SceneClass(name, environment, room)

    def _class_of(self, subfolder: str) -> str:
        if self.classes.get(subfolder) in (sources.INDOOR, sources.OUTDOOR):
            return subfolder
        return self._known(subfolder, sources.scene_classes(), "scene", "outdoor")


class EventFolder(_ClassFolder):
    """Events of one's own; the class is the subfolder.

    ``classes``: subfolder → one of PolSESS's event classes, or a list of the scene
    classes that the event suits. A subfolder that is neither in it nor named like a
    PolSESS class suits every scene.
    """

    takes = (str, list, tuple, type(None))
    remedy = "a class's name, or a list of scene classes, such as [park]"

    def suits(self, event_class: str, scene_class: str) -> bool:
        scenes = self.classes.get(event_class)
        if not isinstance(scenes, (list, tuple)):
            scenes = sources.event_scenes().get(event_class)
        return scenes is None or scene_class in scenes

    def _class_of(self, subfolder: str) -> str:
        if isinstance(self.classes.get(subfolder), (list, tuple, type(None))):
            return subfolder
        return self._known(subfolder, sources.event_scenes(), "event", "[park]")


@dataclass
class SpeechFolder(Folder):
    """Speech of one's own; speakers by subfolder, or by a table.

    ``table`` is a CSV with the columns ``file`` (relative to the folder), ``speaker``,
    and perhaps ``gender``, ``subset`` and ``text``. ``speakers`` (subset → names) divides
    them; without it the seed does, genders balanced. ``val_speakers``: ``disjoint``, or
    ``train`` for other recordings of training's speakers. ``utterances``: ``cut``
    stretches of a mixture's length, or ``whole`` recordings, short ones joined, with
    their texts; longer ones are left out.
    """

    table: str | Path | None = None
    speakers: Mapping[str, list] | None = None
    val_speakers: str = "disjoint"
    utterances: str = "cut"

    def __post_init__(self) -> None:
        self.whole = self.utterances == "whole"
        if self.utterances not in ("cut", "whole"):
            raise InputError(f"utterances is {self.utterances!r}; set it to cut or to whole")
        if self.val_speakers not in ("disjoint", "train"):
            raise InputError(
                f"val_speakers is {self.val_speakers!r}; set it to disjoint or to train"
            )
        for subset, names in (self.speakers or {}).items():
            if subset not in SUBSETS or not isinstance(names, (list, tuple)):
                raise InputError(f"speakers: {subset}: {names} is no list for one of {SUBSETS}")

    def prepare(self, setup: Setup) -> Listing:
        listed = super().prepare(setup)
        if not self.whole:
            return listed
        return {s: utterances.join_short(recordings, setup) for s, recordings in listed.items()}

    def read(self, recording: Recording, start: int, length: int, rate: int) -> Samples:
        if recording.parts:
            samples = utterances.read_joined(self.read, recording.parts, rate)
            return samples[start : start + length]
        if not Path(self.folder, recording.path).exists():
            own = recording.path.removeprefix(f"{recording.group}/")
            recording = replace(recording, path=own)
        return super().read(recording, start, length, rate)

    def _list(self, setup: Setup) -> Listing:
        """By the table, whose rows without a subset are left out; else by speakers."""
        rows = self._table_rows(self.table) if self.table else self._folder_rows()
        lengths = self._lengths([row["file"] for row in rows], setup)
        recordings = [
            Recording(row["path"], row["speaker"], length, row["gender"], rate, row["text"])
            for row, (length, rate) in zip(rows, lengths, strict=True)
        ]
        if self.whole:
            rows, recordings = self._without_long(rows, recordings, setup)
        subsets, genders = setup.subsets, {r.group: r.gender for r in recordings}
        shared = self.val_speakers == "train" and {"train", "val"} <= set(subsets)
        own = [s for s in subsets if not (shared and s == "val")]
        if any(row["subset"] for row in rows):
            listed: Listing = {subset: [] for subset in ("", *SUBSETS)}
            for row, recording in zip(rows, recordings, strict=True):
                listed[row["subset"]].append(recording)
            division = {s: sources.by_group(listed[s]) for s in own}
            splitting.check_explicit(division, genders)
            if shared:
                _check_shared({r.group for r in listed["val"]}, division["train"])
            return {s: listed[s] for s in subsets}
        if self.speakers:
            split = {s: list(map(str, self.speakers.get(s) or ())) for s in subsets}
            splitting.check_explicit({s: split[s] for s in own}, genders)
        else:
            split = splitting.split_speakers(genders, own, setup.seed)
        if shared:
            split["val"] = split["train"]
        listed = {s: [r for r in recordings if r.group in split[s]] for s in split}
        if shared:
            kept, taken = splitting.hold_out(listed["train"], setup.seed)
            listed |= {"train": kept, "val": taken}
        return listed

    def _without_long(
        self, rows: list[Row], recordings: list[Recording], setup: Setup
    ) -> tuple[list[Row], list[Recording]]:
        """Leaves out, and counts, what is longer than a mixture."""
        pairs = zip(rows, recordings, strict=True)
        kept = [(row, r) for row, r in pairs if r.samples <= setup.length]
        number, seconds = len(rows) - len(kept), f"{setup.duration:g} s"
        if not kept:
            raise InputError(
                f"{self.folder}: all recordings are longer than {seconds}; raise --duration, "
                "or set --utterances=cut"
            )
        if number:
            print(f"{self.folder}: {number} of {len(rows)} recordings left out, over {seconds}")
        return [row for row, _ in kept], [recording for _, recording in kept]

    def _folder_rows(self) -> list[Row]:
        rows = []
        for path in self._paths():
            speaker, slash, _ = path.partition("/")
            if not slash:
                raise InputError(
                    f"{self.folder}/{path}: is not in a speaker's folder; "
                    "move it into one, or give a table of speakers"
                )
            cells = {"file": path, "path": path, "speaker": speaker}
            rows.append(cells | {"gender": "", "subset": "", "text": ""})
        return rows

    def _table_rows(self, table: str | Path) -> list[Row]:
        from custom_modules.manifest import csv_tables  # pandas: not in the workers

        cells = csv_tables.read_cells(table, COLUMNS)
        missing = [name for name in ("file", "speaker") if name not in cells]
        if missing:
            raise InputError(f"{table}: no column {' and '.join(missing)}; add it")
        cells = cells.reindex(columns=COLUMNS, fill_value="")
        cells["file"] = cells["file"].str.replace("\\", "/")
        speakers, paths = set(cells["speaker"]), cells[["file", "speaker"]].to_numpy()
        cells["path"] = [with_speaker(p, speaker, speakers) for p, speaker in paths]
        repeated, rows = cells["file"].duplicated(), cells.to_dict("records")
        problems = [
            f"{table}: row {number}: {problem}"
            for (number, again), row in zip(repeated.items(), rows, strict=True)
            if (problem := self._problem(row, again))
        ]
        if problems:
            raise InputError(
                f"{table}: {len(problems)} bad rows; fix them, or the folder "
                f"{self.folder} that its files are relative to",
                problems,
            )
        return rows

    def _problem(self, row: Row, again: bool) -> str | None:
        if not row["file"] or not row["speaker"]:
            return "no file or no speaker"
        if "/" in row["speaker"] or "\\" in row["speaker"]:
            return f"speaker {row['speaker']!r} has a slash; write another sign"
        if again:
            return f"{row['file']} is listed before"
        if not Path(self.folder, row["file"]).is_file():
            return f"no file {row['file']}"
        if row["path"] != row["file"] and Path(self.folder, row["path"]).exists():
            return f"{row['path']} would stand for it, but is another file; rename one"
        if row["subset"] not in ("", *SUBSETS):
            return f"subset {row['subset']!r} is not one of {', '.join(SUBSETS)}"
        return None


def _check_shared(val: Collection[str], train: Collection[str]) -> None:
    """Refuses a table whose validation is not of training's speakers, two or more."""
    if strange := sorted(set(val) - set(train)):
        raise InputError(
            f"val_speakers is train, but the table has {strange[0]} in val and not in train; "
            "set val_speakers to disjoint, or change the table"
        )
    if len(val) < 2:
        raise InputError("val_speakers is train, but the table has fewer than two speakers in val")
