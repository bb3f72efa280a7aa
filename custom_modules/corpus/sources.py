"""What a source of recordings has to offer, and PolSESS's classes of scenes and events.

A corpus is made from three independent sources, named in the hparams file by
``!new:``: one of speech, one of scenes, one of events. A source of one's own derives
from :class:`Source` and has two methods, :meth:`Source.prepare` and
:meth:`Source.read`. One that writes files, or takes its time, also has
:meth:`Source.check`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from itertools import groupby
from operator import attrgetter
from pathlib import Path

import numpy as np

from custom_modules.layout import SUBSETS, read_rows

DATA = Path(__file__).parent / "data"
INDOOR, OUTDOOR = "indoor", "outdoor"

#: The columns of ``data/scenes.csv`` from which a room is drawn: pre-delay in s, high
#: cut in Hz, the others without unit.
ROOM_COLUMNS = ("pre_delay", "high_cut", "diffusion", "decay", "freq_damp")


@dataclass(frozen=True)
class SceneClass:
    """A kind of place."""

    name: str  # such as "cafe/restaurant"
    environment: str
    room: dict[str, tuple[float, float]]  # ROOM_COLUMNS → least and most; empty outdoors
    layers: dict[str, float] = field(default_factory=dict)  # of a procedural one → dB


@dataclass(frozen=True)
class Recording:
    """Something that segments can be cut from."""

    #: What the corpus's CSV says of its origin. For speech, the outermost folder in it
    #: that is the name of a speaker is its speaker's; see `layout.with_speaker`.
    path: str
    group: str  # the speaker; or the scene's or the event's class
    samples: int  # at the corpus's sampling rate
    gender: str = ""  # "female", "male" or empty; of speech only
    rate: int = 0  # its own, in Hz; 0: the corpus's
    text: str = ""  # what is said in it, if that is known; of speech only
    parts: tuple["Recording", ...] = ()  # of several that were joined


Samples = np.ndarray  # [time], floating point, full scale ±1
#: Subset, or group → its recordings.
Listing = dict[str, list[Recording]]


def by_group(recordings: Iterable[Recording]) -> Listing:
    """The recordings of each speaker or class, sorted by its name."""
    group = attrgetter("group")
    groups = groupby(sorted(recordings, key=group), group)
    return {name: list(own) for name, own in groups}


@dataclass(frozen=True)
class Setup:
    """What a source may know about the corpus."""

    output_folder: Path  # a source may keep what it makes below sources/
    rate: int  # Hz
    duration: float  # s, of a mixture
    seed: int
    workers: int = 1  # processes that may be used; the result does not depend on it
    subsets: tuple[str, ...] = SUBSETS  # those that are wanted, in this order

    @property
    def length(self) -> int:
        """A mixture's length in samples."""
        return round(self.duration * self.rate)


class Source:
    """A source of recordings. It must survive pickling: workers get a copy."""

    #: Whether its recordings are taken whole, at a random time, and none is cut; each
    #: must fit into a mixture then. Of a source of speech.
    whole: bool = False

    def check(self, setup: Setup) -> None:
        """Refuses what could go wrong later, before anything in the corpus is changed.

        Called once, before ``prepare``; a source need not have it.
        """

    def prepare(self, setup: Setup) -> Listing:
        """Lists the recordings of each subset; makes them, if it is of that kind.

        Called once, in the main process. The order depends on the setup only, and no
        recording is in two subsets.
        """
        raise NotImplementedError

    def read(self, recording: Recording, start: int, length: int, rate: int) -> Samples:
        """A stretch of ``length`` samples; called in the workers."""
        raise NotImplementedError

    def scene_class(self, name: str) -> SceneClass:
        """The scene class of a group; of a source of scenes."""
        return scene_classes()[name]

    def suits(self, event_class: str, scene_class: str) -> bool:
        """Whether an event may be heard in a scene; of a source of events."""
        return scene_class in event_scenes()[event_class]


@cache
def scene_classes() -> dict[str, SceneClass]:
    """PolSESS's scene classes by name.

    >>> scene_classes()["car"].room["decay"]
    (0.95, 0.99)
    """
    result = {}
    for row in read_rows(DATA / "scenes.csv"):
        ranges = {c: row[c].split("..") for c in ROOM_COLUMNS if row[c]}
        room = {c: (float(low), float(high)) for c, (low, high) in ranges.items()}
        layers = dict(layer.split(":") for layer in row["layers"].split())
        levels = {layer: float(level) for layer, level in layers.items()}
        name = row["scene_class"]
        result[name] = SceneClass(name, row["environment"], room, levels)
    return result


@cache
def event_scenes() -> dict[str, frozenset[str]]:
    """Which scene classes each of PolSESS's event classes suits.

    >>> sorted(event_scenes()["Cowbell"])
    ['forest_path', 'park', 'public_square', 'residential_area']
    """
    result = {}
    for row in read_rows(DATA / "events.csv"):
        # "beach park", or "all -beach -park": every class but these.
        scenes = set(row["scenes"].split())
        if "all" in scenes:
            scenes = {s for s in scene_classes() if f"-{s}" not in scenes}
        result[row["event_class"]] = frozenset(scenes)
    return result


@cache
def event_families() -> dict[str, str]:
    """Which procedural sound stands for an event class, where there is one."""
    rows = read_rows(DATA / "events.csv")
    return {row["event_class"]: row["family"] for row in rows if row["family"]}
