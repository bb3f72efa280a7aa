"""What a source of recordings has to offer: the plug-in protocol.

A corpus is made from three sources, named in the hparams file by ``!new:``: one
of speech, one of scenes, one of events. They are independent of each other, so
that recordings of one's own can be mixed with procedural backgrounds.

A source of one's own is a class with two methods, :meth:`Source.prepare` and
:meth:`Source.read`; deriving from the base class of its role gives the rest.
One that writes files, or takes its time, also has :meth:`Source.check`.
"""

import csv
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from custom_modules.corpus import sources as tables
from custom_modules.layout import SUBSETS

DATA = Path(__file__).parent / "data"
INDOOR, OUTDOOR = "indoor", "outdoor"
ENVIRONMENTS = (INDOOR, OUTDOOR)

#: The columns of ``data/scenes.csv`` from which a room is drawn.
ROOM_COLUMNS = ("pre_delay", "high_cut", "diffusion", "decay", "freq_damp")


@dataclass(frozen=True)
class SceneClass:
    """A kind of place.

    Arguments
    ---------
    name : str
        Such as ``"cafe/restaurant"``.
    environment : str
        ``"indoor"`` or ``"outdoor"``.
    room : dict
        Parameter → (lowest, highest), with the keys of :data:`ROOM_COLUMNS`:
        pre-delay in s, high cut in Hz, the others without unit. Empty outdoors.
    """

    name: str
    environment: str
    room: dict


def packaged_rows(name):
    """The rows of a table in the package's data folder, as dictionaries.

    Example
    -------
    >>> packaged_rows("scenes.csv")[0]["scene_class"]
    'airport'
    """
    with open(DATA / name, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@cache
def scene_classes():
    """PolSESS's scene classes.

    Returns
    -------
    dict of str to SceneClass

    Example
    -------
    >>> scene_classes()["car"].room["decay"]
    (0.95, 0.99)
    >>> scene_classes()["beach"].environment
    'outdoor'
    """
    return {
        row["scene_class"]: _scene_class(row) for row in packaged_rows("scenes.csv")
    }


def _scene_class(row):
    ranges = {c: row[c].split("..") for c in ROOM_COLUMNS if row[c]}
    room = {column: (float(low), float(high)) for column, (low, high) in ranges.items()}
    return SceneClass(row["scene_class"], row["environment"], room)


@cache
def event_scenes():
    """Which scene classes each of PolSESS's event classes suits.

    Returns
    -------
    dict of str to frozenset of str

    Example
    -------
    >>> sorted(event_scenes()["Cowbell"])
    ['forest_path', 'park', 'public_square', 'residential_area']
    """
    return {r["event_class"]: _scenes(r["scenes"]) for r in packaged_rows("events.csv")}


def _scenes(cell):
    """``"beach park"``, or ``"all -beach -park"``: every class but these."""
    words = cell.split()
    if words[0] != "all":
        return frozenset(words)
    return frozenset(scene_classes()) - {word.removeprefix("-") for word in words[1:]}


@cache
def event_families():
    """Which of the procedural sounds stands for an event class.

    Returns
    -------
    dict of str to str
        Only the classes for which there is one.

    Example
    -------
    >>> event_families()["Doorbell"]
    'bell'
    """
    rows = packaged_rows("events.csv")
    return {row["event_class"]: row["family"] for row in rows if row["family"]}


@dataclass(frozen=True)
class Recording:
    """Something that segments can be cut from.

    Arguments
    ---------
    path : str
        What the corpus's CSV says of its origin. For speech, the outermost folder
        in it that is the name of a speaker is its speaker's; see
        :func:`custom_modules.layout.with_speaker`.
    group : str
        The speaker; or the scene's or the event's class.
    samples : int
        Its length at the corpus's sampling rate.
    gender : str
        ``"female"``, ``"male"`` or empty; of speech only.
    """

    path: str
    group: str
    samples: int
    gender: str = ""


def _without_bar(items, **_):
    return items


@dataclass(frozen=True)
class Setup:
    """What a source may know about the corpus.

    Arguments
    ---------
    output_folder : pathlib.Path
        The corpus's root. Recordings that a source makes may be kept below
        ``sources/``.
    rate : int
        The corpus's sampling rate in Hz.
    duration : float
        A mixture's length in s.
    seed : int
        What every random choice depends on.
    workers : int
        Processes that may be used; the result must not depend on it.
    subsets : tuple of str
        Those that are wanted, in the order of
        :data:`~custom_modules.layout.SUBSETS`.
    progress : callable
        Wraps an iterable in a progress bar; takes ``total`` and ``desc``.
    """

    output_folder: Path
    rate: int
    duration: float
    seed: int
    workers: int = 1
    subsets: tuple = SUBSETS
    progress: object = field(default=_without_bar, compare=False)

    @property
    def length(self):
        """A mixture's length in samples."""
        return round(self.duration * self.rate)


class Source:
    """A source of recordings. It must survive pickling: workers get a copy."""

    def check(self, setup):
        """Finds what could go wrong, before anything in the corpus is changed.

        Called once, before ``prepare``, with the same setup. Does nothing unless
        a source overrides it.

        Arguments
        ---------
        setup : Setup

        Raises
        ------
        InputError
            If the source cannot serve.
        """

    def prepare(self, setup):
        """Lists the recordings of each subset; makes them, if it is of that kind.

        Called once, in the main process. No recording may appear in two subsets.

        Arguments
        ---------
        setup : Setup

        Returns
        -------
        dict of str to list of Recording
            Subset → recordings, in an order that depends on the setup only.

        Raises
        ------
        InputError
            If there is not enough to choose from.
        """
        raise NotImplementedError

    def read(self, recording, start, length, rate):
        """Samples of a recording. Called in the workers.

        Arguments
        ---------
        recording : Recording
            One of those that ``prepare`` listed.
        start, length : int
            The stretch wanted, in samples at ``rate``.
        rate : int
            The corpus's sampling rate in Hz.

        Returns
        -------
        numpy.ndarray
            ``[length]``, floating point, full scale ±1.
        """
        raise NotImplementedError


class SpeechSource(Source):
    """A source of speech: a recording's group is its speaker."""


class SceneSource(Source):
    """A source of scenes: a recording's group is its scene class."""

    def scene_class(self, name):
        """The :class:`~custom_modules.corpus.sources.SceneClass` of a group."""
        return tables.scene_classes()[name]


class EventSource(Source):
    """A source of events: a recording's group is its event class."""

    def suits(self, event_class, scene_class):
        """Whether an event may be heard in a scene, by the names of their classes."""
        return scene_class in tables.event_scenes()[event_class]
