"""Dividing speakers and recordings so that none is in two subsets."""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from itertools import chain, zip_longest

from custom_modules.corpus.sources import Listing, Recording, Setup, by_group
from custom_modules.errors import InputError
from custom_modules.mmipc import shuffled

#: The shares that validation and test take; training has the rest.
HELD_OUT_SHARES = {"test": 0.2, "val": 0.15}
SPEAKERS_NEEDED = 2  # in every subset: a mixture has two different ones


def split_speakers(
    genders: Mapping[str, str], subsets: Collection[str], seed: int
) -> dict[str, list[str]]:
    """Divides speakers over subsets, genders (or "") balanced as far as they go.

    >>> genders = dict.fromkeys("abc", "female") | dict.fromkeys("xyz", "male")
    >>> split = split_speakers(genders, ("train", "val", "test"), seed=1)
    >>> {subset: len(names) for subset, names in split.items()}
    {'test': 2, 'val': 2, 'train': 2}
    """
    if len(genders) < SPEAKERS_NEEDED * len(subsets):
        other = ", or set --val_speakers=train" if "val" in subsets else ""
        raise InputError(
            f"{len(genders)} speakers are too few for {', '.join(subsets)}, which need "
            f"two each; add speakers{other}"
        )
    queues = defaultdict(list)
    for speaker in shuffled(genders, "speakers", seed):
        queues[genders[speaker]].append(speaker)
    turns = chain(*zip_longest(*(queues[gender] for gender in sorted(queues))))
    waiting = [speaker for speaker in turns if speaker is not None]
    result = {}
    for subset, share in HELD_OUT_SHARES.items():
        if subset in subsets:
            number = max(SPEAKERS_NEEDED, int(share * len(genders)))
            result[subset], waiting = waiting[:number], waiting[number:]
    return result | {"train": waiting} if "train" in subsets else result


def check_explicit(split: Mapping[str, Iterable[str]], speakers: Collection[str]) -> None:
    """Refuses a division with unknown, repeated or too few speakers."""
    seen: dict[str, str] = {}
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


def hold_out(recordings: list[Recording], seed: int) -> tuple[list[Recording], list[Recording]]:
    """Those that are kept, and of each speaker a share, at least one, for validation.

    As in WSJ0-2mix, whose cv set has the speakers of training.
    """
    taken: set[str] = set()
    for speaker, own in by_group(recordings).items():
        if len(own) < 2:
            raise InputError(
                f"speaker {speaker!r} has one recording, too few to hold one out for "
                "validation; cut it into several, or set --val_speakers=disjoint"
            )
        order = shuffled([recording.path for recording in own], "held out", seed)
        taken.update(order[: max(1, int(HELD_OUT_SHARES["val"] * len(own)))])
    kept = [r for r in recordings if r.path not in taken]
    return kept, [r for r in recordings if r.path in taken]


def split_by_class(
    recordings: list[Recording], setup: Setup, same_recording: str | None = None
) -> Listing:
    """Divides the recordings of each class; small classes are missing in some subsets.

    ``same_recording`` is a regular expression: files in whose name it finds the same
    text are parts of one recording and stay together.
    """
    result: Listing = {subset: [] for subset in setup.subsets}
    for name, own in by_group(recordings).items():
        origins = defaultdict(list)
        for recording in own:
            file = recording.path.rsplit("/", 1)[-1]
            match = re.search(same_recording, file) if same_recording else None
            origins[match.group() if match else recording.path].append(recording)
        order = shuffled(origins, "recordings", setup.seed, name)
        for subset, chosen in _deal(order, setup.subsets).items():
            result[subset] += [r for origin in chosen for r in origins[origin]]
    for subset, listed in result.items():
        if not listed:
            raise InputError(
                f"{len(recordings)} recordings are too few for {subset} to have one of "
                "its own; add recordings, or cut long ones"
            )
        listed.sort(key=lambda recording: recording.path)
    return result


def _deal(origins: list[str], subsets: Collection[str]) -> dict[str, list[str]]:
    """Gives each subset its share; where there are few, training comes first."""
    first, *others = [s for s in ("train", "test", "val") if s in subsets]
    dealt, left = {}, origins
    for subset in others[: len(origins) - 1]:
        number = max(1, round(HELD_OUT_SHARES[subset] * len(origins)))
        dealt[subset], left = left[:number], left[number:]
    return dealt | {first: left}
