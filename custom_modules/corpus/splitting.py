"""Dividing speakers and recordings so that none is in two subsets."""

import re
from collections import defaultdict

from custom_modules.errors import InputError
from custom_modules.mmipc import shuffled

#: The shares that validation and test take; training has the rest.
HELD_OUT_SHARES = {"test": 0.2, "val": 0.15}
SPEAKERS_NEEDED = 2  # in every subset: a mixture has two different ones
VAL_SPEAKERS = ("disjoint", "train")


def split_speakers(genders, subsets, seed, val_speakers="disjoint"):
    """Divides speakers over subsets, genders balanced as far as they go.

    Arguments
    ---------
    genders : dict of str to str
        Speaker → gender, which may be empty.
    subsets : tuple of str
        The subsets wanted.
    seed : int
        What the choice depends on.
    val_speakers : str
        ``"disjoint"``, or ``"train"``: validation has the training's speakers
        (other recordings of theirs), as in WSJ0-2mix's cv set.

    Returns
    -------
    dict of str to list of str

    Raises
    ------
    InputError
        If a subset would have fewer than two speakers.

    Example
    -------
    >>> genders = dict.fromkeys("abc", "female") | dict.fromkeys("xyz", "male")
    >>> split = split_speakers(genders, ("train", "val", "test"), seed=1)
    >>> {subset: len(names) for subset, names in split.items()}
    {'test': 2, 'val': 2, 'train': 2}
    """
    shared = val_speakers == "train" and "val" in subsets
    own = [s for s in subsets if not (s == "val" and shared)]
    waiting = _genders_alternating(genders, seed)
    _check_number(len(waiting), own, shared)
    result = {}
    for subset, share in HELD_OUT_SHARES.items():
        if subset in own:
            number = max(SPEAKERS_NEEDED, int(share * len(genders)))
            result[subset], waiting = waiting[:number], waiting[number:]
    if "train" in own:
        result["train"] = waiting
    if shared:
        result["val"] = result.get("train") or waiting
    return result


def _genders_alternating(genders, seed):
    by_gender = defaultdict(list)
    for speaker in shuffled(genders, "speakers", seed):
        by_gender[genders[speaker]].append(speaker)
    queues = [by_gender[gender] for gender in sorted(by_gender)]
    longest = max(map(len, queues), default=0)
    return [q[turn] for turn in range(longest) for q in queues if turn < len(q)]


def _check_number(number, own, shared):
    needed = SPEAKERS_NEEDED * max(len(own), 1)
    if number >= needed:
        return
    remedy = "add speakers"
    if "val" in own and not shared:
        remedy += ", or set --val_speakers=train"
    raise InputError(
        f"{number} speakers are too few for {', '.join(own)}, which need two each; "
        + remedy
    )


def check_explicit(split, speakers):
    """Checks speakers that the user has divided.

    Arguments
    ---------
    split : dict of str to list of str
        Subset → speakers.
    speakers : container of str
        Those that exist.

    Raises
    ------
    InputError
        If one is unknown or in two subsets, or a subset has fewer than two.
    """
    seen = {}
    for subset, names in split.items():
        for name in names:
            if name not in speakers:
                raise InputError(f"speaker {name!r} of {subset} has no recordings")
            if seen.setdefault(name, subset) != subset:
                raise InputError(
                    f"speaker {name!r} is in {seen[name]} and in {subset}; "
                    "keep it in one, or set --val_speakers=train"
                )
        if len(set(names)) < SPEAKERS_NEEDED:
            raise InputError(
                f"{subset} has fewer than two speakers; add one, or set --n_{subset}=0"
            )


def hold_out(recordings, seed, share=HELD_OUT_SHARES["val"]):
    """Takes some of each speaker's recordings away, for validation.

    Arguments
    ---------
    recordings : list of Recording
        Of several speakers.
    seed : int
        What the choice depends on.
    share : float
        How many of a speaker's recordings to take; at least one.

    Returns
    -------
    kept, taken : list of Recording

    Raises
    ------
    InputError
        If a speaker has a single recording.
    """
    by_speaker = defaultdict(list)
    for recording in recordings:
        by_speaker[recording.group].append(recording.path)
    taken = set()
    for speaker, paths in by_speaker.items():
        if len(paths) < 2:
            raise InputError(
                f"speaker {speaker!r} has one recording, too few to hold one out for "
                "validation; cut it into several, or set --val_speakers=disjoint"
            )
        taken.update(
            shuffled(paths, "held out", seed)[: max(1, int(share * len(paths)))]
        )
    kept = [r for r in recordings if r.path not in taken]
    return kept, [r for r in recordings if r.path in taken]


def split_by_class(recordings, subsets, seed, same_recording=None):
    """Divides the recordings of each class over subsets.

    Arguments
    ---------
    recordings : list of Recording
        Of several classes.
    subsets : tuple of str
        The subsets wanted.
    seed : int
        What the choice depends on.
    same_recording : str
        A regular expression. Files in whose name it finds the same text are
        parts of one recording and stay together.

    Returns
    -------
    dict of str to list of Recording
        A class with fewer recordings than subsets is missing in some.

    Raises
    ------
    InputError
        If a subset would have none at all.
    """
    classes = defaultdict(lambda: defaultdict(list))
    for recording in recordings:
        origin = _origin(recording.path, same_recording)
        classes[recording.group][origin].append(recording)
    result = {subset: [] for subset in subsets}
    for name in sorted(classes):
        origins = shuffled(classes[name], "recordings", seed, name)
        for subset, chosen in _deal(origins, subsets).items():
            result[subset] += [r for origin in chosen for r in classes[name][origin]]
    for subset, chosen in result.items():
        if not chosen:
            raise InputError(
                f"{len(recordings)} recordings are too few for {subset} to have one of "
                "its own; add recordings, or cut long ones"
            )
    return {subset: sorted(rs, key=lambda r: r.path) for subset, rs in result.items()}


def _origin(path, pattern):
    match = re.search(pattern, path.rsplit("/", 1)[-1]) if pattern else None
    return match.group() if match else path


def _deal(origins, subsets):
    """Gives each subset its share; where there are few, training comes first."""
    first, *others = [s for s in ("train", "test", "val") if s in subsets]
    left = list(origins)
    dealt = {}
    for subset in others[: len(origins) - 1]:
        number = max(1, round(HELD_OUT_SHARES[subset] * len(origins)))
        dealt[subset], left = left[:number], left[number:]
    return dealt | {first: left}
