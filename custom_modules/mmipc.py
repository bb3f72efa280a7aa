"""MM-IPC: which layers to cancel so that one recording serves many conditions.

Mix modification by inverted phase cancellation: a PolSESS mixture is the exact
sum of its stored layers, so adding a layer with its phase inverted removes it.
The letters of a variant name the backgrounds that are *kept*: ``S`` scene,
``E`` event, ``R`` reverberation; ``C`` is clean, none is kept.

Everything here is a pure function of its arguments: no files, no state, and no
random generator whose position somebody could disturb.

Source: Kleć, Szklanny, Wieczorkowska 2024.
"""

import hashlib

import numpy as np

from custom_modules.errors import InputError

#: Every variant, in the order in which tables list them.
VARIANTS = ("SER", "SR", "ER", "R", "C", "SE", "S", "E")

#: environment → variant → the layers that it cancels
CANCELLED_LAYERS = {
    "indoor": {
        "SER": (),
        "SR": ("event", "event_reverb"),
        "ER": ("scene",),
        "R": ("scene", "event", "event_reverb"),
        "C": ("scene", "event", "event_reverb", "s1_reverb", "s2_reverb"),
    },
    "outdoor": {
        "SE": (),
        "S": ("event",),
        "E": ("scene",),
        "C": ("scene", "event"),
    },
    # Other corpora: Libri2Mix has noise, or nothing, beside its speakers.
    "scene only": {
        "C": ("scene",),
        "S": (),
    },
    "clean": {
        "C": (),
    },
}

#: task → how many sources the separator returns
TASK_SOURCES = {
    "SB": 2,  # separate both speakers
    "EB": 1,  # enhance both: one target, s1 + s2
    "ES": 1,  # enhance a single speaker: s1, speaker 2 is cancelled too
}


def variants_of(environment, allowed=VARIANTS):
    """The variants that exist in an environment, restricted to allowed ones.

    Arguments
    ---------
    environment : str
        A key of :data:`CANCELLED_LAYERS`; in PolSESS ``"indoor"`` or
        ``"outdoor"``.
    allowed : iterable of str
        The variants to choose from.

    Returns
    -------
    tuple of str
        In the order of :data:`VARIANTS`, whatever the order of ``allowed``.

    Example
    -------
    >>> variants_of("outdoor")
    ('C', 'SE', 'S', 'E')
    >>> variants_of("indoor", allowed=["SE", "SER"])
    ('SER',)
    """
    allowed = set(allowed)
    existing = CANCELLED_LAYERS[environment]
    return tuple(v for v in VARIANTS if v in existing and v in allowed)


def draw_variant(environment, allowed, seed, epoch, mixture_id):
    """Draws the variant that a mixture takes in an epoch.

    Arguments
    ---------
    environment : str
        ``"indoor"`` or ``"outdoor"``.
    allowed : iterable of str
        The variants to draw from; their order does not matter.
    seed : int
        The experiment's seed.
    epoch : int
        The epoch; validation passes a fixed one.
    mixture_id : str
        The mixture's key in its manifest.

    Returns
    -------
    str or None
        A variant, all being equally likely, or None if no allowed variant
        exists in this environment.

    Example
    -------
    >>> draw_variant("indoor", ["R", "C"], seed=42, epoch=1, mixture_id="train_7")
    'C'
    >>> draw_variant("indoor", ["SE"], seed=42, epoch=1, mixture_id="train_7") is None
    True
    """
    candidates = variants_of(environment, allowed)
    if not candidates:
        return None
    fraction = draw_fraction("variant", seed, epoch, mixture_id)
    return candidates[int(fraction * len(candidates))]


def draw_fraction(*key):
    """A number in [0, 1) that depends on nothing but the key.

    Arguments
    ---------
    *key : int or str
        What the number is for, such as ``("crop", seed, epoch, mixture_id)``.

    Returns
    -------
    float
        Uniformly distributed over keys.

    Example
    -------
    >>> draw_fraction("crop", 42, 1, "a") == draw_fraction("crop", 42, 1, "a")
    True
    >>> draw_fraction("crop", 42, 1, "a") == draw_fraction("crop", 42, 2, "a")
    False
    """
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    # 53 bits: all that a double holds; 64 could round up to 1.0.
    return (int.from_bytes(digest, "big") >> 11) * 2.0**-53


def num_sources(task):
    """How many sources a separator returns for a task.

    Arguments
    ---------
    task : str
        ``"SB"``, ``"EB"`` or ``"ES"``.

    Returns
    -------
    int

    Raises
    ------
    InputError
        If there is no such task.

    Example
    -------
    >>> num_sources("SB")
    2
    """
    if task not in TASK_SOURCES:
        raise InputError(f"task {task!r} is unknown; choose one of SB, EB, ES")
    return TASK_SOURCES[task]


def is_target(variant, sources):
    """Whether a variant's mixture is the target itself: it cannot be improved.

    Arguments
    ---------
    variant : str
    sources : int
        Of the task; with one, nothing of a clean mixture is to be removed.

    Returns
    -------
    bool

    Example
    -------
    >>> is_target("C", num_sources("ES")), is_target("C", num_sources("SB"))
    (True, False)
    """
    return sources == 1 and variant == "C"


def generator(*key):
    """A random generator of its own for each key.

    Arguments
    ---------
    *key : int or str
        What the numbers are for, such as ``(seed, "train", 17)``.

    Returns
    -------
    numpy.random.Generator

    Example
    -------
    >>> first = int(generator(42, "train", 0).integers(1000))
    >>> first == int(generator(42, "train", 0).integers(1000))
    True
    >>> first == int(generator(42, "train", 1).integers(1000))
    False
    """
    digest = hashlib.blake2b(repr(key).encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


def shuffled(items, *key):
    """The items in an order that depends on the key and on the items alone.

    Each item is ranked by a hash of its own, so that adding one item to a list
    leaves the order of the others as it was.

    Arguments
    ---------
    items : iterable of str
        In any order.
    *key : int or str
        What the order is for.

    Returns
    -------
    list of str

    Example
    -------
    >>> shuffled(["a", "b", "c"], 1) == shuffled(["c", "a", "b"], 1)
    True
    """
    return sorted(items, key=lambda item: (_rank(item, key), item))


def _rank(item, key):
    return hashlib.blake2b(repr((key, item)).encode(), digest_size=8).hexdigest()


_KEYS = {"epoch", "variants", "lr_scheduler"}
_EXAMPLE = "write it as [{epoch: 1, variants: [C, R]}, {epoch: 3, variants: [SER, SE]}]"


class Curriculum:
    """A schedule of variants, easier ones first.

    Arguments
    ---------
    schedule : list of dict, optional
        Entries ``{epoch: 3, variants: [C, R]}``, the first of epoch 1, each valid
        until the next. One may say ``lr_scheduler: start``: before that epoch the
        rate stays as it is, because what is trained on becomes harder and the loss
        says little. By default everything is trained on at once.
    train_variants : iterable of str
        Nothing else is ever drawn.

    Raises
    ------
    InputError
        If the schedule is none, or one of its epochs has nothing to train on.

    Example
    -------
    >>> easy = {"epoch": 1, "variants": ["C", "R"]}
    >>> hard = {"epoch": 3, "variants": ["C", "SER"], "lr_scheduler": "start"}
    >>> curriculum = Curriculum([easy, hard])
    >>> [curriculum.variants_at(epoch) for epoch in (1, 2, 3, 9)]
    [('R', 'C'), ('R', 'C'), ('SER', 'C'), ('SER', 'C')]
    >>> [curriculum.scheduler_runs_at(epoch) for epoch in (2, 3)]
    [False, True]
    """

    def __init__(self, schedule=None, train_variants=VARIANTS):
        if schedule is None:
            schedule = [{"epoch": 1, "variants": train_variants}]
        self._check(schedule)
        self.scheduler_start = 1
        self.steps = []
        for entry in schedule:
            if entry.get("lr_scheduler") == "start":
                self.scheduler_start = entry["epoch"]
            allowed = set(entry["variants"]) & set(train_variants)
            if not allowed:
                raise InputError(
                    f"curriculum: epoch {entry['epoch']} has none of train_variants "
                    f"{list(train_variants)}; use --curriculum=null to train on them "
                    "from the first epoch"
                )
            variants = tuple(v for v in VARIANTS if v in allowed)
            self.steps.append((entry["epoch"], variants))

    def variants_at(self, epoch):
        """The variants to draw from.

        Arguments
        ---------
        epoch : int
            From 1; 0 is as 1.

        Returns
        -------
        tuple of str
        """
        begun = [variants for start, variants in self.steps if start <= max(epoch, 1)]
        return begun[-1]

    def all_variants(self):
        """Every variant that is drawn from in some epoch."""
        return tuple(v for v in VARIANTS if any(v in names for _, names in self.steps))

    def scheduler_runs_at(self, epoch):
        """Whether the learning rate may change at the end of an epoch."""
        return epoch >= self.scheduler_start

    @staticmethod
    def _check(schedule):
        """Refuses what is no schedule."""
        if not isinstance(schedule, list) or not schedule:
            raise InputError(f"curriculum {schedule!r}: no schedule; {_EXAMPLE}")
        for number, entry in enumerate(schedule, start=1):
            reason = _fault_of(entry)
            if reason:
                raise InputError(f"curriculum, entry {number}: {reason}; {_EXAMPLE}")
        epochs = [entry["epoch"] for entry in schedule]
        if epochs[0] != 1 or sorted(set(epochs)) != epochs:
            raise InputError(
                f"curriculum: epochs {epochs} must begin with 1 and rise; {_EXAMPLE}"
            )
        if sum("lr_scheduler" in entry for entry in schedule) > 1:
            raise InputError("curriculum: the LR scheduler can start only once")


def _fault_of(entry):
    """What is wrong with an entry of a schedule, or None."""
    if not isinstance(entry, dict) or not {"epoch", "variants"} <= set(entry) <= _KEYS:
        return f"{entry!r} must have epoch and variants, and may have lr_scheduler"
    if type(entry["epoch"]) is not int:
        return f"epoch {entry['epoch']!r} is no whole number"
    if entry.get("lr_scheduler", "start") != "start":
        return f"lr_scheduler: {entry['lr_scheduler']!r} can only be start"
    variants = entry["variants"]
    known = isinstance(variants, list | tuple) and set(variants) <= set(VARIANTS)
    if known and variants:
        return None
    return f"variants {variants!r} must be some of {', '.join(VARIANTS)}"
