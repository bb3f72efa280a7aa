"""PolSESS's own tables: scene classes, their rooms, and the events that suit them.

The facts are those of the published generator's data files (Kleć, Szklanny,
Wieczorkowska 2024); ``data/scenes.csv`` and ``data/events.csv`` hold them.
"""

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

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
