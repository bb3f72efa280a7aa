"""Whole utterances: what is said in a mixture is said to its end, and its text is known."""

from collections.abc import Callable, Iterable
from itertools import combinations
from math import gcd

import numpy as np

from custom_modules import layout
from custom_modules.corpus.sources import Listing, Recording, Samples, Setup, by_group
from custom_modules.mmipc import generator, shuffled

#: Between recordings that are joined, in s.
GAP = 0.2
GOLDEN_RATIO = (5**0.5 - 1) / 2
#: Candidates of a mixture that are of the same two utterances, at other places and levels.
TRIES_PER_PAIR = 10
#: From a mixture's first pair to its next one, in turns: more than there are mixtures.
LATER = 1_000_003


def join_short(recordings: list[Recording], setup: Setup) -> list[Recording]:
    """Recordings of each speaker, as many after each other as fit into a mixture.

    In an order that the seed draws; their texts are joined, too.
    """
    gap, result = round(GAP * setup.rate), []
    for speaker, own in by_group(recordings).items():
        by_path = {recording.path: recording for recording in own}
        waiting: list[Recording] = []
        for path in shuffled(by_path, "utterances", setup.seed, speaker):
            recording = by_path[path]
            length = sum(r.samples + gap for r in waiting) + recording.samples
            if waiting and length > setup.length:
                result.append(_joined(waiting, gap))
                waiting = []
            waiting.append(recording)
        result.append(_joined(waiting, gap))
    return result


def _joined(parts: list[Recording], gap: int) -> Recording:
    first, *others = parts
    if not others:
        return first
    return Recording(
        layout.JOIN.join(part.path for part in parts),
        first.group,
        sum(part.samples for part in parts) + gap * len(others),
        first.gender,
        first.rate,
        " ".join(part.text for part in parts if part.text),
        tuple(parts),
    )


def read_joined(
    read: Callable[[Recording, int, int, int], Samples], parts: Iterable[Recording], rate: int
) -> Samples:
    """Parts after each other, each read whole, with gaps between them."""
    pieces: list[Samples] = []
    for part in parts:
        pieces += [np.zeros(round(GAP * rate))] if pieces else []
        pieces.append(read(part, 0, part.samples, rate))
    return np.concatenate(pieces)


class Pairs:
    """Pairs of utterances of two speakers; no pair comes again before all have come.

    Turn t takes the pair at t times a step that shares no divisor with their number. The
    step is near the golden section of it, which spreads the pairs of any run of turns.
    """

    def __init__(self, speakers: Listing, *key: int | str) -> None:
        self.couples = list(combinations(speakers.values(), 2))
        self.ends = np.cumsum([len(a) * len(b) for a, b in self.couples])
        self.total = int(self.ends[-1])
        self.step = max(1, round(GOLDEN_RATIO * self.total))
        while gcd(self.step, self.total) > 1:
            self.step += 1
        self.first = int(generator("utterances", *key).integers(self.total))

    def of(self, index: int, attempt: int = 0) -> tuple[Recording, Recording]:
        """The pair of a mixture's candidate."""
        turn = index + attempt // TRIES_PER_PAIR * LATER
        position = (self.first + turn * self.step) % self.total
        place = int(np.searchsorted(self.ends, position, side="right"))
        first, second = self.couples[place]
        a, b = divmod(int(self.ends[place]) - 1 - position, len(second))
        return first[a], second[b]
