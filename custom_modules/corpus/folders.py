"""Sources of the user's own scenes and events: a folder for each."""

from difflib import get_close_matches
from pathlib import Path

from custom_modules.corpus import audio, splitting, tables
from custom_modules.corpus.sources import EventSource, Recording, SceneSource
from custom_modules.errors import InputError

SUFFIXES = {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff"}
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
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    ]
    if not found:
        known = ", ".join(sorted(s.lstrip(".") for s in SUFFIXES))
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
