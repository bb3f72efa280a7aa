"""What a source of recordings has to offer, and PolSESS's classes of scenes and events.

A corpus is made from three independent sources, named in the hparams file by
``!new:``: one of speech, one of scenes, one of events. A source of one's own is a
class with two methods, :meth:`Source.prepare` and :meth:`Source.read`; deriving from
the base class of its role gives the rest. One that writes files, or takes its time,
also has :meth:`Source.check`.
"""

import csv
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
from tqdm import tqdm

from custom_modules.layout import SUBSETS

DATA = Path(__file__).parent / "data"
INDOOR, OUTDOOR = "indoor", "outdoor"
ENVIRONMENTS = (INDOOR, OUTDOOR)

#: The columns of ``data/scenes.csv`` from which a room is drawn: pre-delay in s, high
#: cut in Hz, the others without unit.
ROOM_COLUMNS = ("pre_delay", "high_cut", "diffusion", "decay", "freq_damp")


@dataclass(frozen=True)
class SceneClass:
    """A kind of place."""

    name: str  # such as "cafe/restaurant"
    environment: str
    room: dict[str, tuple[float, float]]  # ROOM_COLUMNS → range; empty outdoors
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


Samples = np.ndarray  # [time], floating point, full scale ±1
#: Subset, or group → its recordings.
Listing = dict[str, list[Recording]]


def by_group(recordings: Iterable[Recording]) -> Listing:
    """The recordings of each speaker or class, in their order."""
    groups: Listing = {}
    for recording in recordings:
        groups.setdefault(recording.group, []).append(recording)
    return groups


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

    def progress(self, items: Iterable, desc: str, total: int) -> Iterable:
        """The items with a progress bar around them."""
        return tqdm(items, desc=desc, total=total, dynamic_ncols=True, leave=False)


class Source:
    """A source of recordings. It must survive pickling: workers get a copy."""

    def check(self, setup: Setup) -> None:
        """Refuses what could go wrong later, before anything in the corpus is changed.

        Called once, before ``prepare``, with the same setup; a source need not have it.
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


class SpeechSource(Source):
    """A source of speech: a recording's group is its speaker."""


class SceneSource(Source):
    """A source of scenes: a recording's group is its scene class."""

    def scene_class(self, name: str) -> SceneClass:
        """The scene class of a group."""
        return scene_classes()[name]


class EventSource(Source):
    """A source of events: a recording's group is its event class."""

    def suits(self, event_class: str, scene_class: str) -> bool:
        """Whether an event may be heard in a scene, by the names of their classes."""
        return scene_class in event_scenes()[event_class]


def packaged_rows(name: str) -> list[dict[str, str]]:
    """The rows of a table in the package's data folder."""
    with open(DATA / name, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@cache
def scene_classes() -> dict[str, SceneClass]:
    """PolSESS's scene classes by name.

    >>> scene_classes()["car"].room["decay"]
    (0.95, 0.99)
    """
    result = {}
    for row in packaged_rows("scenes.csv"):
        ranges = {c: row[c].split("..") for c in ROOM_COLUMNS if row[c]}
        room = {
            column: (float(low), float(high)) for column, (low, high) in ranges.items()
        }
        layers = (layer.split(":") for layer in row["layers"].split())
        levels = {layer: float(level) for layer, level in layers}
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
    for row in packaged_rows("events.csv"):
        # "beach park", or "all -beach -park": every class but these.
        first, *others = row["scenes"].split()
        exceptions = {word.removeprefix("-") for word in others}
        if first == "all":
            result[row["event_class"]] = frozenset(scene_classes()) - exceptions
        else:
            result[row["event_class"]] = frozenset([first, *others])
    return result


@cache
def event_families() -> dict[str, str]:
    """Which procedural sound stands for an event class, where there is one."""
    rows = packaged_rows("events.csv")
    return {row["event_class"]: row["family"] for row in rows if row["family"]}
