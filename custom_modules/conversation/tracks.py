"""A track for each speaker, as long as the recording.

Where one speaks alone, the recording itself; where two do, what a separator made of it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from custom_modules.audio import create_wav
from custom_modules.conversation.passages import Atom
from custom_modules.conversation.samples import Samples
from custom_modules.files import atomic_path

#: Over so long a separated stretch is faded in before it begins, and out behind it, s.
FADE_SECONDS = 0.05


def cover(cuts: Sequence[Atom]) -> list[Atom]:
    """The same stretches, those in which nobody speaks given to their neighbours.

    A pause within a speaker's turn is the speaker's; one between two is halved: so a
    recording in which two never speak at once is the sum of its tracks.

    >>> cover([Atom(0, 2, ()), Atom(2, 4, ("a",)), Atom(4, 8, ()), Atom(8, 9, ("b",))])
    [Atom(start=0, stop=6, speakers=('a',)), Atom(start=6, stop=9, speakers=('b',))]
    """
    covered: list[Atom] = []
    for place, atom in enumerate(cuts):
        before = cuts[place - 1].speakers if place else ()
        after = cuts[place + 1].speakers if place + 1 < len(cuts) else ()
        for part in [atom] if atom.speakers else _share(atom, before, after):
            if covered and covered[-1].speakers == part.speakers:
                covered[-1] = covered[-1]._replace(stop=part.stop)
            else:
                covered.append(part)
    return covered


def _share(pause: Atom, before: tuple[str, ...], after: tuple[str, ...]) -> list[Atom]:
    both = [who for who in before if who in after] or [*(before or after)][:1]
    if not both:
        return []
    if not (before and after) or both[0] in after:
        return [pause._replace(speakers=(both[0],))]
    middle = (pause.start + pause.stop) // 2
    parts = [Atom(pause.start, middle, before[:1]), Atom(middle, pause.stop, after[:1])]
    return [part for part in parts if part.start < part.stop]


def lay(
    tracks: Mapping[str, Samples],
    base: Samples,
    covered: Sequence[Atom],
    start: int,
    stop: int,
    silence: bool = True,
) -> None:
    """Puts the recording on the tracks of those who speak, and silence on the others'.

    From sample ``start`` to ``stop``; on several tracks where several speak. New tracks are
    silent as they are, and take less room on a disk if nothing is written there.
    """
    for atom in covered:
        first, last = max(atom.start, start), min(atom.stop, stop)
        place = first
        for block in base.blocks(first, max(first, last)):
            for who, track in tracks.items():
                if who in atom.speakers:
                    track.write(place, block)
                elif silence:
                    track.write(place, np.zeros_like(block))
            place += len(block)


def fade_into(track: Samples, start: int, samples: np.ndarray, fades: tuple[int, int]) -> None:
    """Replaces a stretch of a track, faded in and out over so many samples."""
    before = track.read(start, start + len(samples))
    samples = samples[: len(before)].copy()
    first, last = (min(fade, len(samples) // 2) for fade in fades)
    if first and start > 0:
        ramp = np.linspace(0, 1, first + 2, dtype="float32")[1:-1]
        samples[:first] = before[:first] + ramp * (samples[:first] - before[:first])
    if last and start + len(samples) < track.length:
        ramp = np.linspace(1, 0, last + 2, dtype="float32")[1:-1]
        samples[-last:] = before[-last:] + ramp * (samples[-last:] - before[-last:])
    track.write(start, samples)


def write_wav(track: Samples, path: Path, subtype: str, comment: str = "") -> None:
    """A track as a wav file; what was read from one of this subtype is as it was there."""
    with (
        atomic_path(path) as partial,
        create_wav(partial, track.rate, subtype, track.length, comment) as write,
    ):
        for block in track.blocks():
            write(_stored(block, subtype))


#: libsndfile scales floats by one less than it has read them with: whole numbers, of so
#: many bits in so wide a type, stay as they were.
_WHOLE = {
    "PCM_U8": (8, "int16"),
    "PCM_16": (16, "int16"),
    "PCM_24": (24, "int32"),
    "PCM_32": (32, "int32"),
    "ULAW": (16, "int16"),
    "ALAW": (16, "int16"),
}


def _stored(samples: np.ndarray, subtype: str) -> np.ndarray:
    if subtype not in _WHOLE:
        return samples
    bits, kind = _WHOLE[subtype]
    most = 2.0 ** (bits - 1)
    whole = np.clip(np.round(samples.astype("float64") * most), -most, most - 1)
    return (whole * 2.0 ** (np.iinfo(kind).bits - bits)).astype(kind)
