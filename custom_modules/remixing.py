"""Training examples that no corpus stores: layers of several rows, other speeds, silence.

Every draw is a pure function of (seed, epoch, mixture) and of the rows that there are.
Speaker 1 stays one of the mixture's own talkers; speaker 2, scene, event and levels come
from other rows of its environment, each role in an order of its own, which changes with
the epoch: so nearly every layer is heard once an epoch.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, TypeVar

import numpy as np

from custom_modules.errors import InputError, check_number
from custom_modules.layout import SCENE_RANGE, SSR_RANGE
from custom_modules.mmipc import CANCELLED_LAYERS, draw_fraction, generator

#: Steps of a speed: ratios of small numbers are resampled fast.
SPEED_STEP = 0.01

#: Layer of a mixture → the role whose row it is of.
ROLES = {
    **{"s1": "s1", "s1_reverb": "s1", "s2": "s2", "s2_reverb": "s2"},
    **{"scene": "scene", "event": "event", "event_reverb": "event"},
}
TALKERS = ("any", "same_gender")
Entry = Mapping[str, Any]  # of a manifest
Draw = Callable[[str], float]  # what a number in [0, 1) is for → the number
Options = TypeVar("Options", "Remix", "SilentTalker")


@dataclass(frozen=True)
class Remix:
    """Which training mixtures are put together from several rows, and how."""

    probability: float = 1.0  # the share of mixtures
    talkers: str = "any"  # same_gender draws harder pairs
    talkers_share: float = 1.0  # of remixed mixtures whose talkers are so
    across_corpora: bool = False  # whether rows of several corpora meet

    def __post_init__(self) -> None:
        _check_share("remix, probability", self.probability)
        _check_share("remix, talkers_share", self.talkers_share)
        if self.talkers not in TALKERS:
            raise InputError(f"--remix, talkers={self.talkers}: choose one of {', '.join(TALKERS)}")
        if not isinstance(self.across_corpora, bool):
            raise InputError(f"--remix, across_corpora={self.across_corpora}: not True or False")


@dataclass(frozen=True)
class SilentTalker:
    """In how many training mixtures one of the two says nothing.

    From the first epoch on, they taught a model to leave one output silent.
    """

    share: float = 0.1
    both: float = 0.0  # of these, where the other says nothing either
    from_epoch: int = 5

    def __post_init__(self) -> None:
        _check_share("silent_talker, share", self.share)
        _check_share("silent_talker, both", self.both)
        check_number("--silent_talker, from_epoch", self.from_epoch, least=1, whole=True)


def _check_share(name: str, value: object) -> None:
    check_number(f"--{name}", value, least=0, most=1)


def remix_of(value: object) -> Remix | None:
    """``remix`` of an hparams file: null or False, True, or what differs from its defaults."""
    return Remix() if value is True else _options("remix", Remix, value)


def silence_of(value: object) -> SilentTalker | None:
    """``silent_talker`` of an hparams file: null, a share, or what differs from the defaults."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return SilentTalker(share=value) if value else None
    return _options("silent_talker", SilentTalker, value)


def _options(key: str, kind: type[Options], value: object) -> Options | None:
    if value is None or value is False:
        return None
    known = [field.name for field in fields(kind)]
    if not isinstance(value, Mapping):
        raise InputError(f"--{key}={value!s:.60}: neither a mapping of {', '.join(known)} nor null")
    if unknown := set(value) - set(known):
        names = ", ".join(map(str, unknown))
        raise InputError(f"--{key}: no option is called {names}; it has {', '.join(known)}")
    return kind(**value)


def speeds_of(value: object) -> tuple[float, float] | None:
    """``speed`` of an hparams file: null, or the slowest and the fastest."""
    if value is None:
        return None
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise InputError(f"--speed={value!s:.60}: must be null or [slowest, fastest]")
    for number in value:
        check_number("--speed", number, least=0.5, most=2)
    if value[0] > value[1]:
        raise InputError(f"--speed={value}: the slowest comes first")
    return value[0], value[1]


class Sketch(NamedTuple):
    """What an example is summed from; levels are measured when its layers are read."""

    donors: Mapping[str, tuple[str, str]]  # layer → the mixture and the layer of it
    speeds: Mapping[str, float]  # role → how much faster, of talkers
    silent: frozenset[str]  # talkers that say nothing
    ssr_db: float | None  # speaker 1 over speaker 2; None: as stored
    scene_db: float | None  # scene over both speakers; None: as stored


class Row(NamedTuple):
    """What the draws need to know of a mixture."""

    talkers: tuple[str, str]
    genders: tuple[str, str]
    ssr_db: float | None
    scene_db: float | None


class _Group:
    """Rows that may be mixed with each other: of one environment, and of one corpus."""

    def __init__(self, name: str, ids: Sequence[str], rows: Sequence[Row]) -> None:
        self.name, self.ids, self.rows = name, ids, rows
        self._orders: tuple[tuple, dict[str, np.ndarray]] = ((), {})

    def from_place(self, place: int, role: str, *key: int) -> Iterator[int]:
        """All places, from that of ``place`` in the epoch's order of a role on."""
        if self._orders[0] != key:
            self._orders = key, {}
        orders = self._orders[1]
        if role not in orders:
            rng = generator("remix", *key, role, self.name)
            orders[role] = rng.permutation(len(self.rows))
        order = orders[role]
        for i in range(len(order)):
            yield int(order[(place + i) % len(order)])

    def check(self, talkers: str) -> None:
        """Refuses rows in which some talker has nobody to talk with."""
        # Of several corpora, one name may be of two people.
        known = {pair for row in self.rows for pair in zip(row.talkers, row.genders, strict=True)}
        if len({name for name, _ in known}) < 2:
            raise InputError(f"--remix: {self.name} has one talker alone; leave --remix out")
        if talkers != "same_gender":
            return
        if "" in {gender for _, gender in known}:
            reason = "a talker of unknown gender; name it in speakers.csv"
            raise InputError(f"--remix, talkers=same_gender: {self.name} has {reason}")
        counts = Counter(gender for _, gender in known)
        if lone := next((name for name, gender in sorted(known) if counts[gender] < 2), ""):
            reason = f"no second talker of the gender of {lone}"
            raise InputError(f"--remix, talkers=same_gender: {self.name} has {reason}")


class Remixer:
    """Draws of what the examples of an epoch are summed from; ``entries`` by id, in order."""

    def __init__(
        self,
        entries: Iterable[tuple[str, Entry]],
        seed: int,
        remix: Remix | None = None,
        speeds: tuple[float, float] | None = None,
        silence: SilentTalker | None = None,
    ) -> None:
        self.seed, self.remix, self.speeds, self.silence = seed, remix, speeds, silence
        self._places: dict[str, tuple[_Group, int]] = {}
        if remix:
            self._collect(entries, remix)

    @classmethod
    def make(
        cls, entries: Iterable[tuple[str, Entry]], seed: int, values: Mapping[str, Any]
    ) -> "Remixer | None":
        """From the values of an hparams file; None if they ask for nothing."""
        remix, speeds = remix_of(values.get("remix")), speeds_of(values.get("speed"))
        silence = silence_of(values.get("silent_talker"))
        if not (remix or speeds or silence):
            return None
        return cls(entries, seed, remix, speeds, silence)

    def _collect(self, entries: Iterable[tuple[str, Entry]], remix: Remix) -> None:
        members: dict[str, list[tuple[str, Row]]] = defaultdict(list)
        for name, entry in entries:
            corpus = "" if remix.across_corpora else entry.get("corpus") or ""
            label = " of ".join(filter(None, [f"{entry['environment']} training speech", corpus]))
            members[label].append((name, _row(name, entry)))
        for label, pairs in members.items():
            ids, rows = zip(*pairs, strict=True)
            group = _Group(label, ids, rows)
            group.check(remix.talkers)
            self._places |= {name: (group, i) for i, name in enumerate(ids)}

    def sketch(self, mixture_id: str, environment: str, epoch: int) -> Sketch | None:
        """What an example of an epoch is summed from; None: it is as it is stored."""

        def fraction(use: str) -> float:
            return draw_fraction(use, self.seed, epoch, mixture_id)

        remixed = self.remix and fraction("remix") < self.remix.probability
        silent = self._silent(fraction, epoch)
        if not (remixed or silent or self.speeds):
            return None
        layers = ("s1", "s2", *CANCELLED_LAYERS[environment]["C"])
        donors = {layer: (mixture_id, layer) for layer in layers}
        levels: tuple[float | None, float | None] = None, None
        if remixed:
            donors, levels = self._donors(mixture_id, layers, epoch, fraction)
        speeds = {role: self._speed(fraction(f"speed {role}")) for role in ("s1", "s2")}
        return Sketch(donors, speeds, silent, *levels)

    def _silent(self, fraction: Draw, epoch: int) -> frozenset[str]:
        silence = self.silence
        if not silence or epoch < silence.from_epoch or fraction("silence") >= silence.share:
            return frozenset()
        if fraction("both silent") < silence.both:
            return frozenset(("s1", "s2"))
        return frozenset(("s1" if fraction("who is silent") < 0.5 else "s2",))

    def _speed(self, fraction: float) -> float:
        """A speed, all ratios being equally likely."""
        if not self.speeds:
            return 1.0
        low, high = map(math.log, self.speeds)
        speed = math.exp(low + fraction * (high - low))
        return round(round(speed / SPEED_STEP) * SPEED_STEP, 2)

    def _donors(
        self, mixture_id: str, layers: Sequence[str], epoch: int, fraction: Draw
    ) -> tuple[dict[str, tuple[str, str]], tuple[float, float]]:
        """Layer → whose layer it is, and the levels of speaker 2 and of the scene."""
        assert self.remix
        group, place = self._places[mixture_id]
        key = (self.seed, epoch)
        first = int(fraction("speaker 1") < 0.5)
        alike = self.remix.talkers == "same_gender"
        alike = alike and fraction("same gender") < self.remix.talkers_share
        second = self._partner(group, place, first, alike, key, int(fraction("speaker 2") < 0.5))
        of_role = {"s1": (place, first), "s2": second}
        used = {place, second[0]}
        for role in ("scene", "event"):
            row = _unused(group.from_place(place, role, *key), used, len(group.rows))
            used.add(row)
            of_role[role] = row, 0
        donors = {}
        for layer in layers:
            row, talker = of_role[ROLES[layer]]
            is_voice = ROLES[layer] in ("s1", "s2")
            donors[layer] = group.ids[row], f"s{talker + 1}{layer[2:]}" if is_voice else layer
        levels = group.rows[next(group.from_place(place, "levels", *key))]
        return donors, _levels(levels, fraction)

    @staticmethod
    def _partner(
        group: _Group, place: int, first: int, alike: bool, key: tuple[int, int], slot: int
    ) -> tuple[int, int]:
        """Row and number of speaker 2: somebody else, of another row if there is one."""
        own = group.rows[place]
        for others in (True, False):
            for row in group.from_place(place, "s2", *key):
                if (row != place) != others:
                    continue
                candidate = group.rows[row]
                for talker in (slot, 1 - slot):
                    differs = candidate.talkers[talker] != own.talkers[first]
                    if differs and (not alike or candidate.genders[talker] == own.genders[first]):
                        return row, talker
        raise InputError(f"--remix: {group.name}: {own.talkers[first]} has nobody to talk with")


def _unused(places: Iterator[int], used: set[int], count: int) -> int:
    """The first place that is not used; the first of all where all of ``count`` are."""
    first = next(places)
    if first not in used or count <= len(used):
        return first
    return next((place for place in places if place not in used), first)


def _levels(row: Row, fraction: Draw) -> tuple[float, float]:
    """Of a row's table, or of PolSESS's ranges."""
    ssr, scene = row.ssr_db, row.scene_db
    if ssr is None:
        low, high = SSR_RANGE
        ssr = low + int(fraction("ratio") * (high - low + 1))
    if scene is None:
        quietest, loudest = SCENE_RANGE
        scene = quietest + fraction("scene level") * (loudest - quietest)
    return ssr, scene


def _row(mixture_id: str, entry: Entry) -> Row:
    """Who nobody knows of counts as one talker: then two are of two rows."""

    def label(key: str, number: int) -> str:
        return entry.get(f"{key}{number}") or ""

    known = [label("speaker", n) or label("source", n) or f"of {mixture_id}" for n in (1, 2)]
    genders = label("gender", 1), label("gender", 2)
    return Row((known[0], known[1]), genders, entry.get("ssr_db"), entry.get("scene_db"))
