#!/usr/bin/env python3
"""What the chain of recipes/conversation loses by itself, in words.

    python recipes/benchmark/chain_alone.py --data_folder=data/MiniConversations \\
        --recogniser mini:results/mini/42

Recordings are the sums of their dry tracks, and who speaks when is known, so that nothing
else costs words. With an oracle for a separator, the words should be those of the true
tracks; with one that returns the mixture twice, those without separation.
"""

from custom_modules.startup import prepare_process

prepare_process(__name__)

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
from tqdm import tqdm

from custom_modules.conversation.chain import Chain
from custom_modules.conversation.measures import MEASURES, Case, Sums
from custom_modules.conversation.passages import Passage
from custom_modules.conversation.truths import Reference, find_references
from custom_modules.errors import InputError, OptionParser, exit_cleanly
from custom_modules.recognition.interface import Recogniser
from custom_modules.recognition.recognisers import load_recogniser
from custom_modules.recognition.text import normalise


class Oracle:
    """Returns the true tracks, of all talkers."""

    def __init__(self, tracks: np.ndarray, rate: int) -> None:
        self.tracks, self.rate, self.sources = tracks, rate, len(tracks)

    def separate(self, blocks: Iterable[np.ndarray], start: int) -> Iterator[np.ndarray]:
        """Their part ``[talkers, time]``."""
        yield self.tracks[:, start : start + sum(len(block) for block in blocks)]


class Twice:
    """The mixture, twice."""

    sources = 2

    def __init__(self, rate: int) -> None:
        self.rate = rate

    def separate(self, blocks: Iterable[np.ndarray], start: int) -> Iterator[np.ndarray]:
        """Blocks ``[time]`` → ``[2, time]``."""
        for block in blocks:
            yield np.stack([block, block])


def errors(reference: Reference, recogniser: Recogniser) -> dict[str, Sums]:
    """Wrong words and words, of each way to separate."""
    seconds, rate = reference.length
    dry, _ = reference.tracks()
    tracks = {who: track.astype("float32") for who, track in dry.items()}
    mixture = np.sum([*tracks.values()], axis=0)
    truth = reference.passages
    told = {"true tracks": Chain(None, recogniser)(mixture, rate, truth, tracks=tracks)}
    ways = {"oracle": Oracle(np.stack([*tracks.values()]), rate), "mixture twice": Twice(rate)}
    for name, separator in ways.items():
        told[name] = Chain(separator, recogniser)(mixture, rate, truth)
    told["no separation"] = Chain(None, recogniser, separate="none")(mixture, rate, truth)
    said = _plain(reference.said or [])
    cases = {
        name: Case(seconds, truth, made.passages, said, _plain(made.utterances))
        for name, made in told.items()
    }
    found = {name: MEASURES["cpwer"].compute(case) for name, case in cases.items()}
    return {name: sums for name, sums in found.items() if sums}


def _plain(said: list[Passage]) -> list[Passage]:
    return [replace(passage, words=normalise(passage.words)) for passage in said]


def main() -> None:
    """Prints cpWER in per cent."""
    parser = OptionParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data_folder", required=True)
    parser.add_argument("--recogniser", metavar="KIND:FOLDER", required=True)
    options = parser.parse_args()
    recogniser = load_recogniser(options.recogniser)
    references = find_references(options.data_folder)
    told = [reference for reference in references if reference.said and reference.talkers]
    if not told:
        raise InputError(f"{options.data_folder}: no conversation has words and dry tracks")
    rows = [errors(reference, recogniser) for reference in tqdm(told)]
    for name in rows[0]:
        wrong, words = np.sum([row[name] for row in rows], axis=0)
        print(f"{name:14}{100 * wrong / words:6.1f} % of {words:.0f} words")


if __name__ == "__main__":
    with exit_cleanly():
        main()
