"""The chain: a recording in; who speaks when, tracks and words out.

Start reading at :class:`Chain`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from custom_modules.conversation.formats import Transcript
from custom_modules.conversation.passages import Passage, Span
from custom_modules.conversation.samples import Samples


class Separator(Protocol):
    """What parts a stretch of a recording into its sources."""

    rate: int

    def separate(self, blocks: Iterable[np.ndarray], start: int) -> Iterator[np.ndarray]:
        """Blocks ``[time]`` at ``rate`` → parts ``[sources, time]``, together as long.

        ``start`` is the first one's sample in the recording at ``rate``.
        """


class Recogniser(Protocol):
    """What writes down waveforms ``[time]``, whose rate is given in Hz."""

    def transcribe(self, waveforms: list[np.ndarray], rate: int) -> list[str]: ...


@dataclass
class Conversation:
    """All that the chain makes of a recording."""

    session: str
    rate: int  # of the recording and its tracks
    length: int  # in samples
    passages: list[Passage]  # who speaks when
    overlaps: list[Span]  # s
    tracks: dict[str, Samples]  # by speaker, as long as the recording: track.read()
    utterances: list[Passage]  # with words
    notes: list[str] = field(default_factory=list)  # what the user should know
    seconds: dict[str, float] = field(default_factory=dict)  # of each stage

    def transcript(self, recording: str = "") -> Transcript:
        """What is written down of it."""
        seconds = self.length / self.rate
        return Transcript(self.session, seconds, self.passages, self.utterances, recording)


@dataclass
class Chain:
    """Recordings of conversations into tracks and transcripts, one after the other.

    Given who speaks when, that is believed; given the tracks, they are only recognised.
    """

    separator: Separator | None = None  # not needed if nothing is to be separated
    recogniser: Recogniser | None = None  # without one there are no words
    enhancer: Separator | None = None  # of one source
    separate: str = "overlaps"  # overlaps | all | none
    num_speakers: int | None = None  # chosen by the embedding's threshold
    activity: str = "silero"  # of activity.DETECTORS
    embedding: str = "resemblyzer"  # of identity.EMBEDDINGS
    context_seconds: float = 4.0  # on each side of an overlap

    def __call__(
        self,
        recording: str | Path | np.ndarray,
        rate: int | None = None,  # of an array
        diarization: Sequence[Passage] | None = None,
        tracks: Mapping[str, str | Path | np.ndarray] | None = None,  # by speaker
        folder: str | Path | None = None,  # a killed run goes on there; else a temporary one
        session: str = "",
    ) -> Conversation:
        raise NotImplementedError
