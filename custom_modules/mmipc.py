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
