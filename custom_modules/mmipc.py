"""MM-IPC: which layers to cancel so that one recording serves many conditions.

Mix modification by inverted phase cancellation: a PolSESS mixture is the exact
sum of its stored layers, so adding a layer with its phase inverted removes it.
The letters of a variant name the backgrounds that are *kept*: ``S`` scene,
``E`` event, ``R`` reverberation; ``C`` is clean, none is kept.

Everything here is a pure function of its arguments: no files, no state.

Source: Kleć, Szklanny, Wieczorkowska 2024.
"""

import hashlib
from collections.abc import Collection, Iterable

import numpy as np

from custom_modules.errors import InputError

#: Every variant, in the order in which tables list them.
VARIANTS = ("SER", "SR", "ER", "R", "C", "SE", "S", "E")

#: environment → variant → the layers that it cancels
CANCELLED_LAYERS: dict[str, dict[str, tuple[str, ...]]] = {
    "indoor": {
        "SER": (),
        "SR": ("event", "event_reverb"),
        "ER": ("scene",),
        "R": ("scene", "event", "event_reverb"),
        "C": ("scene", "event", "event_reverb", "s1_reverb", "s2_reverb"),
    },
    "outdoor": {"SE": (), "S": ("event",), "E": ("scene",), "C": ("scene", "event")},
    # Other corpora: Libri2Mix has noise, or nothing, beside its speakers.
    "scene only": {"C": ("scene",), "S": ()},
    "clean": {"C": ()},
}

#: task → how many sources the separator returns
TASK_SOURCES = {
    "SB": 2,  # separate both speakers
    "EB": 1,  # enhance both: one target, s1 + s2
    "ES": 1,  # enhance a single speaker: s1, speaker 2 is cancelled too
}


def variants_of(environment: str, allowed: Iterable[str] = VARIANTS) -> tuple[str, ...]:
    """The allowed variants that exist in an environment, in the order of VARIANTS.

    >>> variants_of("indoor", allowed=["SE", "SER"])
    ('SER',)
    """
    return _in_order(set(allowed).intersection(CANCELLED_LAYERS[environment]))


def _in_order(variants: Collection[str]) -> tuple[str, ...]:
    return tuple(name for name in VARIANTS if name in variants)


def draw_variant(
    environment: str, allowed: Iterable[str], seed: int, epoch: int, mixture_id: str
) -> str | None:
    """The variant that a mixture takes in an epoch, all being equally likely.

    None if no allowed one exists in its environment. Validation passes a fixed epoch.
    """
    candidates = variants_of(environment, allowed)
    place = draw_fraction("variant", seed, epoch, mixture_id) * len(candidates)
    return candidates[int(place)] if candidates else None


def draw_fraction(*key: int | str) -> float:
    """A number in [0, 1) that depends on nothing but the key, uniform over keys.

    The key says what it is for, such as ``("crop", seed, epoch, mixture_id)``.
    """
    # 53 bits: all that a double holds; 64 could round up to 1.0.
    return (_hash(key, 8) >> 11) * 2.0**-53


def _hash(key: object, size: int) -> int:
    digest = hashlib.blake2b(repr(key).encode(), digest_size=size).digest()
    return int.from_bytes(digest, "big")


def num_sources(task: str) -> int:
    """How many sources a separator returns for a task; refuses an unknown one."""
    if task not in TASK_SOURCES:
        raise InputError(f"task {task!r} is unknown; choose one of SB, EB, ES")
    return TASK_SOURCES[task]


def is_target(variant: str, sources: int) -> bool:
    """Whether a mixture, clean and of one source, is the target itself."""
    return sources == 1 and variant == "C"


def generator(*key: int | str) -> np.random.Generator:
    """A random generator of its own for each key, ``(seed, "train", 17)`` say."""
    return np.random.default_rng(_hash(key, 16))


def shuffled(items: Iterable[str], *key: int | str) -> list[str]:
    """The items in an order that depends on the key and on the items alone.

    Each is ranked by a hash of its own: one item more leaves the others' order.
    """
    return sorted(items, key=lambda item: (_hash((key, item), 8), item))


class Curriculum:
    """A schedule of variants, easier ones first; None trains on everything at once.

    Each entry, ``{epoch: 3, variants: [C, R]}``, is valid until the next; the first is
    of epoch 1. One may say ``lr_scheduler: start``: before that epoch the rate stays
    as it is, because what is trained on becomes harder and the loss says little.
    Nothing but ``train_variants`` is ever drawn.

    >>> easy = {"epoch": 1, "variants": ["C", "R"]}
    >>> hard = {"epoch": 3, "variants": ["C", "SER"], "lr_scheduler": "start"}
    >>> curriculum = Curriculum([easy, hard])
    >>> [curriculum.variants_at(epoch) for epoch in (1, 2, 3, 9)]
    [('R', 'C'), ('R', 'C'), ('SER', 'C'), ('SER', 'C')]
    >>> [curriculum.scheduler_runs_at(epoch) for epoch in (2, 3)]
    [False, True]
    """

    def __init__(
        self, schedule: list[dict] | None = None, train_variants: Iterable[str] = VARIANTS
    ) -> None:
        trained = list(train_variants)
        if schedule is None:
            schedule = [{"epoch": 1, "variants": trained}]
        _check_schedule(schedule)
        starts = (e["epoch"] for e in schedule if "lr_scheduler" in e)
        self.scheduler_start = next(starts, 1)
        #: First epoch and variants of each entry.
        self.steps = [(e["epoch"], _in_order(set(e["variants"]) & set(trained))) for e in schedule]
        for epoch, variants in self.steps:
            if not variants:
                raise InputError(
                    f"curriculum: epoch {epoch} has none of train_variants {trained}; "
                    "use --curriculum=null to train on them from the first epoch"
                )

    def variants_at(self, epoch: int) -> tuple[str, ...]:
        """The variants to draw from; epoch 0 is as 1."""
        return [names for start, names in self.steps if start <= max(epoch, 1)][-1]

    def all_variants(self) -> tuple[str, ...]:
        """Every variant that is drawn from in some epoch."""
        return _in_order({v for _, variants in self.steps for v in variants})

    def scheduler_runs_at(self, epoch: int) -> bool:
        """Whether the learning rate may change at the end of an epoch."""
        return epoch >= self.scheduler_start


def _check_schedule(schedule: object) -> None:
    example = "write [{epoch: 1, variants: [C, R]}, {epoch: 3, variants: [SER, SE]}]"
    if not isinstance(schedule, list) or not schedule:
        raise InputError(f"curriculum {schedule!r}: is not a schedule; {example}")
    for number, entry in enumerate(schedule, start=1):
        if reason := _fault_of(entry):
            raise InputError(f"curriculum, entry {number}: {reason}; {example}")
    epochs = [entry["epoch"] for entry in schedule]
    if epochs[0] != 1 or sorted(set(epochs)) != epochs:
        raise InputError(f"curriculum: epochs {epochs} must begin with 1 and rise")
    if sum("lr_scheduler" in entry for entry in schedule) > 1:
        raise InputError("curriculum: the LR scheduler can start only once")


def _fault_of(entry: object) -> str | None:
    least, most = {"epoch", "variants"}, {"epoch", "variants", "lr_scheduler"}
    if not isinstance(entry, dict) or not least <= set(entry) <= most:
        return f"{entry!r} must have epoch and variants, and may have lr_scheduler"
    epoch, variants = entry["epoch"], entry["variants"]
    if type(epoch) is not int:
        return f"epoch {epoch!r} is not a whole number"
    if entry.get("lr_scheduler", "start") != "start":
        return f"lr_scheduler: {entry['lr_scheduler']!r} can only be start"
    listed = isinstance(variants, list | tuple) and all(v in VARIANTS for v in variants)
    if listed and variants:
        return None
    return f"variants {variants!r} must be some of {', '.join(VARIANTS)}"
