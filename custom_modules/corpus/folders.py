"""Sources of the user's own recordings: a folder each of speech, scenes and events."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from custom_modules import audio
from custom_modules.corpus import sources, splitting
from custom_modules.corpus.sources import Listing, Recording, Samples, SceneClass, Setup
from custom_modules.errors import InputError
from custom_modules.layout import SUBSETS, with_speaker

#: The room of an indoor scene that is none of PolSESS's classes: WHAM's "medium".
DEFAULT_ROOM = "m"

#: Of a table of speech; beside them, a row has a ``path``, which tells the speaker.
COLUMNS = ("file", "speaker", "gender", "subset")
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
        return audio.read_span(self._locate(recording), start, length, rate)

    def _list(self, setup: Setup) -> Listing:
        raise NotImplementedError

    def _locate(self, recording: Recording) -> Path:
        return Path(self.folder, recording.path)

    def _paths(self) -> list[str]:
        """The recordings, sorted, relative to the folder, with forward slashes."""
        paths = [
            path.relative_to(self.folder).as_posix()
            for path in Path(self.folder).rglob("*")
            if path.suffix.lower() in audio.SUFFIXES and not path.name.startswith(".")
        ]
        if not paths:
            known = ", ".join(sorted(s.lstrip(".") for s in audio.SUFFIXES))
            raise InputError(
                f"{self.folder}: holds no recordings ({known}); check the path"
            )
        return sorted(paths)

    def _lengths(self, paths: list[str], setup: Setup) -> dict[str, int]:
        """Path → samples at the corpus's rate; all that cannot be read are named."""
        lengths, problems = {}, []
        for path in setup.progress(paths, f"reading {self.folder}", len(paths)):
            try:
                seconds, _ = audio.read_header(Path(self.folder, path))
                lengths[path] = max(1, int(seconds * setup.rate))
            except InputError as error:
                problems.append(str(error))
        if problems:
            raise InputError(
                f"{self.folder}: {len(problems)} of {len(paths)} recordings cannot be "
                "read; fix or remove them",
                problems,
            )
        return lengths


@dataclass
class _ClassFolder(Folder):
    """Recordings whose class is the subfolder that they lie in.

    ``same_recording`` is a regular expression; files in whose name it finds the same
    text are parts of one recording, which is never divided over subsets.
    """

    classes: Mapping = field(default_factory=dict)
    same_recording: str | None = None

    def __post_init__(self) -> None:
        self.classes = self.classes or {}

    def _list(self, setup: Setup) -> Listing:
        paths = self._paths()
        own_name = Path(self.folder).name
        names = [p.split("/")[0] if "/" in p else own_name for p in paths]
        groups = [self._class_of(name) for name in names]
        lengths = self._lengths(paths, setup)
        recordings = [
            Recording(path, group, lengths[path])
            for path, group in zip(paths, groups, strict=True)
        ]
        return splitting.split_by_class(
            recordings, setup.subsets, setup.seed, self.same_recording
        )

    def _class_of(self, subfolder: str) -> str:
        raise NotImplementedError


class SceneFolder(_ClassFolder, sources.SceneSource):
    """Scenes of one's own; the class is the subfolder.

    ``classes``: subfolder → one of PolSESS's scene classes, or ``indoor`` or
    ``outdoor`` for a scene of a class of its own. Subfolders that bear the name of a
    PolSESS class need no entry.
    """

    def scene_class(self, name: str) -> SceneClass:
        known = sources.scene_classes()
        if name in known:
            return known[name]
        environment = self.classes[name]
        room = known[DEFAULT_ROOM].room if environment == sources.INDOOR else {}
        return SceneClass(name, environment, room)

    def _class_of(self, subfolder: str) -> str:
        target = self.classes.get(subfolder, subfolder)
        if target in sources.ENVIRONMENTS:
            return subfolder
        known = sources.scene_classes()
        if target not in known:
            near, *_ = *get_close_matches(target, known, n=1), "park"
            raise InputError(
                f"{self.folder}/{subfolder}: {target!r} is not a scene class of "
                f"PolSESS; say what it is with --scene_classes='{{{subfolder}: "
                f"{near}}}' or '{{{subfolder}: outdoor}}'"
            )
        return target


class EventFolder(_ClassFolder, sources.EventSource):
    """Events of one's own; the class is the subfolder.

    ``classes``: subfolder → one of PolSESS's event classes, or a list of the scene
    classes that the event suits. A subfolder that is neither in it nor named like a
    PolSESS class suits every scene.
    """

    def suits(self, event_class: str, scene_class: str) -> bool:
        scenes = self.classes.get(event_class)
        if not isinstance(scenes, (list, tuple)):
            scenes = sources.event_scenes().get(event_class)
        return scenes is None or scene_class in scenes

    def _class_of(self, subfolder: str) -> str:
        target = self.classes.get(subfolder, subfolder)
        if isinstance(target, (list, tuple)):
            return subfolder
        known = sources.event_scenes()
        if subfolder in self.classes and target not in known:
            near, *_ = *get_close_matches(target, known, n=1), "Bell"
            raise InputError(
                f"{self.folder}/{subfolder}: {target!r} is not an event class of "
                f"PolSESS; the nearest is {near}, or give the list of scenes that it "
                "suits"
            )
        return target


@dataclass
class SpeechFolder(Folder, sources.SpeechSource):
    """Speech of one's own; speakers by subfolder, or by a table.

    ``table`` is a CSV with the columns ``file`` (relative to the folder), ``speaker``,
    and perhaps ``gender`` and ``subset``. ``speakers`` (subset → names) divides them;
    without it the seed does, genders balanced. For ``val_speakers`` see
    :func:`custom_modules.corpus.splitting.split_speakers`.
    """

    table: str | Path | None = None
    speakers: Mapping[str, list] | None = None
    val_speakers: str = "disjoint"

    def __post_init__(self) -> None:
        if self.val_speakers not in splitting.VAL_SPEAKERS:
            raise InputError(
                f"val_speakers is {self.val_speakers!r}; set it to disjoint or to train"
            )

    def _list(self, setup: Setup) -> Listing:
        rows = self._table_rows(self.table) if self.table else self._folder_rows()
        lengths = self._lengths([row["file"] for row in rows], setup)
        recordings = [
            Recording(r["path"], r["speaker"], lengths[r["file"]], r["gender"])
            for r in rows
        ]
        return self._divide([row["subset"] for row in rows], recordings, setup)

    def _locate(self, recording: Recording) -> Path:
        path = Path(self.folder, recording.path)
        if path.exists():
            return path
        return Path(self.folder, recording.path.removeprefix(f"{recording.group}/"))

    def _folder_rows(self) -> list[Row]:
        rows = []
        for path in self._paths():
            speaker, slash, _ = path.partition("/")
            if not slash:
                raise InputError(
                    f"{self.folder}/{path}: is not in a speaker's folder; "
                    "move it into one, or give a table of speakers"
                )
            rows.append(dict.fromkeys(COLUMNS, "") | {"file": path, "path": path})
            rows[-1]["speaker"] = speaker
        return rows

    def _table_rows(self, table: str | Path) -> list[Row]:
        from custom_modules.manifest import csv_tables  # pandas: not in the workers

        cells = csv_tables.read_cells(table, COLUMNS)
        missing = [name for name in ("file", "speaker") if name not in cells]
        if missing:
            raise InputError(f"{table}: no column {' and '.join(missing)}; add it")
        cells = cells.reindex(columns=COLUMNS, fill_value="")
        cells["file"] = cells["file"].str.replace("\\", "/")
        rows, speakers = cells.to_dict("records"), set(cells["speaker"])
        problems: list[str] = []
        seen: set[str] = set()
        for number, row in zip(cells.index, rows, strict=True):
            row["path"] = with_speaker(row["file"], row["speaker"], speakers)
            problem = self._problem(row, seen)
            problems += [f"{table}: row {number}: {problem}"] if problem else []
            seen.add(row["file"])
        if problems:
            raise InputError(
                f"{table}: {len(problems)} bad rows; fix them, or the folder "
                f"{self.folder} that its files are relative to",
                problems,
            )
        return rows

    def _problem(self, row: Row, seen: set[str]) -> str | None:
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
        if row["subset"] not in ("", *SUBSETS):
            return f"subset {row['subset']!r} is not one of {', '.join(SUBSETS)}"
        return None

    def _divide(
        self, in_table: list[str], recordings: list[Recording], setup: Setup
    ) -> Listing:
        """By the table, whose rows without a subset are left out; else by speakers."""
        subsets = setup.subsets
        shared = self.val_speakers == "train" and {"train", "val"} <= set(subsets)
        if any(in_table):
            pairs = list(zip(in_table, recordings, strict=True))
            chosen = {s: [r for wanted, r in pairs if wanted == s] for s in subsets}
            split = {s: [r.group for r in listed] for s, listed in chosen.items()}
        else:
            split = self._split_speakers(recordings, setup, shared)
            chosen = {
                subset: [r for r in recordings if r.group in set(names)]
                for subset, names in split.items()
            }
        own = {s: names for s, names in split.items() if not (shared and s == "val")}
        splitting.check_explicit(own, {r.group for r in recordings})
        if shared and not any(in_table):
            kept, taken = splitting.hold_out(chosen["train"], setup.seed)
            chosen |= {"train": kept, "val": taken}
        return chosen

    def _split_speakers(
        self, recordings: list[Recording], setup: Setup, shared: bool
    ) -> dict[str, list[str]]:
        if not self.speakers:
            genders = {r.group: r.gender for r in recordings}
            return splitting.split_speakers(
                genders, setup.subsets, setup.seed, self.val_speakers
            )
        split = {s: list(map(str, self.speakers.get(s) or ())) for s in setup.subsets}
        return split | {"val": split["train"]} if shared else split
