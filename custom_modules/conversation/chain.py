"""The chain: a recording in; who speaks when, tracks and words out.

Start reading at :meth:`Chain.__call__`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from custom_modules import audio
from custom_modules.conversation.activity import DETECTORS, Detector
from custom_modules.conversation.clustering import check_package
from custom_modules.conversation.diarization import diarize
from custom_modules.conversation.formats import Transcript
from custom_modules.conversation.identity import Embedding, load_embedding
from custom_modules.conversation.passages import (
    Atom,
    Passage,
    Span,
    Word,
    atoms,
    overlap_spans,
    speakers_of,
    tidy,
)
from custom_modules.conversation.resuming import Progress
from custom_modules.conversation.samples import Samples
from custom_modules.conversation.stretches import Separator, Stretches, separate_whole, voices_of
from custom_modules.conversation.tracks import cover, lay
from custom_modules.conversation.transcripts import find_utterances, recognise
from custom_modules.errors import InputError
from custom_modules.recognition.interface import Recogniser

#: What is separated.
SEPARATE = ("overlaps", "all", "none")
#: Of recordings with several channels, what is taken.
CHANNELS = ("mix", "left", "right")

#: Who speaks when may end so much behind the recording, s.
_LATE_SECONDS = 0.5

Signal = str | Path | np.ndarray


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
    folder: Any = None  # keeps the tracks' temporary folder as long as this object

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
    separate: str = "overlaps"  # one of SEPARATE
    num_speakers: int | None = None  # chosen by the embedding's threshold
    activity: str = "silero"  # one of activity.DETECTORS
    embedding: str = "resemblyzer"  # one of identity.EMBEDDINGS
    channels: str = "mix"  # one of CHANNELS
    context_seconds: float = 4.0  # on each side of an overlap
    observation_db: float | None = None  # of the recording in what was separated

    def __post_init__(self) -> None:
        for option, known in (
            ("separate", SEPARATE),
            ("activity", tuple(DETECTORS)),
            ("channels", CHANNELS),
        ):
            if (value := getattr(self, option)) not in known:
                raise InputError(f"--{option}={value}: choose one of {', '.join(known)}")

    def __call__(
        self,
        recording: Signal,
        rate: int | None = None,  # of arrays
        diarization: Sequence[Passage] | None = None,
        tracks: Mapping[str, Signal] | None = None,  # by speaker
        folder: str | Path | None = None,  # a killed run goes on there; else a temporary one
        session: str = "",
        key: str = "",  # of options and inputs; what the folder has of another is removed
    ) -> Conversation:
        """What was said in a recording, a file or an array ``[time]``.

        Raises InputError where a file cannot be read, or an option lacks a package.
        """
        if tracks is None:
            self._check_models(diarization is None)
        temporary = TemporaryDirectory(prefix="conversation") if folder is None else None
        progress = Progress(Path(temporary.name if temporary else folder or ""), key)
        named = "recording" if isinstance(recording, np.ndarray) else Path(recording).stem
        with progress.timed("reading"):
            signal = self._signal(progress, "recording", recording, rate)
        if tracks is None:
            passages = self._passages(progress, signal, diarization)
            on_tracks, notes = self._tracks(progress, signal, passages)
        else:
            on_tracks = {
                who: self._signal(progress, f"given_{place}", track, rate)
                for place, (who, track) in enumerate(tracks.items())
            }
            passages, notes = self._of_tracks(on_tracks, diarization), []
        utterances = self._recognise(progress, on_tracks, passages)
        late = max((p.end for p in diarization or ()), default=0.0) - signal.seconds
        if late > _LATE_SECONDS:
            notes.append(f"who speaks when goes on for {late:.1f} s behind its end: left out")
        return Conversation(
            session or named,
            signal.rate,
            signal.length,
            passages,
            overlap_spans(passages),
            on_tracks,
            utterances,
            notes,
            progress.seconds,
            temporary,
        )

    def check(self, diarization_is_given: bool = False) -> None:
        """Refuses what could do no recording, before the first: packages, kinds of models."""
        self._check_models(not diarization_is_given)
        if not diarization_is_given or self.separate != "none":
            _ = self.voices
        if not diarization_is_given and self.num_speakers != 1:
            check_package()
        _ = self.detector

    def _check_models(self, diarizes: bool) -> None:
        if self.enhancer is not None and self.enhancer.sources != 1:
            raise InputError("--enhancer: must be of one source, trained with --task=EB")
        if self.separator is None or self.separator.sources < 2:
            if diarizes:
                raise InputError(
                    "the model separates no speakers, by which it is found who speaks when: "
                    "give one of two sources, or --diarization with --separate none"
                )
            if self.separate != "none":
                raise InputError("the model separates no speakers; use --separate none")

    @cached_property
    def detector(self) -> Detector:
        """Made once, when it is needed first."""
        return DETECTORS[self.activity]()

    @cached_property
    def voices(self) -> Embedding:
        """Likewise."""
        return load_embedding(self.embedding)

    def _signal(self, progress: Progress, name: str, signal: Signal, rate: int | None) -> Samples:
        """A recording in a file of its own, so that any part of it can be read."""
        path = progress.folder / f"{name}.f32"
        if found := progress.stages.get(name):
            return Samples(path, *found)
        if isinstance(signal, np.ndarray):
            if rate is None or signal.ndim != 1:
                raise InputError("an array must be [time], and needs its rate")
            samples = Samples.filled(path, rate, [signal])
        else:
            with audio.open_audio(signal) as opened:
                samples = Samples.filled(path, opened.samplerate, self._mono(opened))
        if not samples.length:
            raise InputError(f"{signal if isinstance(signal, str | Path) else name}: is empty")
        progress.finish(name, (samples.rate, samples.length))
        return samples

    def _mono(self, opened: audio.Decoder) -> Any:
        if self.channels == "right" and opened.channels < 2:
            raise InputError(f"{opened.name}: has no right channel; it is mono")
        for block in audio.read_blocks(opened):
            if self.channels == "mix":
                yield block.mean(0) if len(block) > 1 else block[0]
            else:
                yield block[0 if self.channels == "left" else 1]

    def _passages(
        self, progress: Progress, signal: Samples, given: Sequence[Passage] | None
    ) -> list[Passage]:
        """Who speaks when: as given, or found, within the recording."""
        if given is not None:
            inside = [p for p in given if p.start < signal.seconds]
            ends = [min(p.end, signal.seconds) for p in inside]
            return tidy(Passage(p.speaker, p.start, e) for p, e in zip(inside, ends, strict=True))
        if "passages" not in progress.stages:
            sources = self._whole(progress, signal)
            with progress.timed("who speaks when"):
                found = diarize(signal, sources, self.detector, self.voices, self.num_speakers)
            rows = [(p.speaker, p.start, min(p.end, signal.seconds)) for p in found]
            progress.finish("passages", rows)
        return [Passage(*row) for row in progress.stages["passages"]]

    def _whole(self, progress: Progress, signal: Samples) -> list[Samples]:
        """The sources of the whole recording, at the model's rate."""
        assert self.separator is not None  # as was checked
        rate = self.separator.rate
        length = math.ceil(signal.length * rate / signal.rate)
        paths = [progress.folder / f"source_{i}.f32" for i in range(self.separator.sources)]
        sources = [Samples(path, rate, length) for path in paths]
        if "sources" not in progress.stages:
            with progress.timed("separation"):
                separate_whole(signal, self.separator, sources)
            progress.finish("sources")
        return sources

    def _base(self, progress: Progress, signal: Samples) -> Samples:
        """What is on a track where nothing is separated."""
        if self.enhancer is None:
            return signal
        enhanced = Samples(progress.folder / "enhanced.f32", signal.rate, signal.length)
        if "enhanced" not in progress.stages:
            with progress.timed("enhancement"):
                separate_whole(signal, self.enhancer, [enhanced])
            progress.finish("enhanced")
        return enhanced

    def _tracks(
        self, progress: Progress, signal: Samples, passages: Sequence[Passage]
    ) -> tuple[dict[str, Samples], list[str]]:
        """A track for each speaker, and what could not be done for them."""
        base = self._base(progress, signal)
        tracks = {
            who: Samples(progress.folder / f"track_{place}.f32", signal.rate, signal.length)
            for place, who in enumerate(speakers_of(passages))
        }
        cuts = atoms(passages, signal.rate, signal.length)
        covered = cover(cuts)
        if "laid" not in progress.stages:
            lay(tracks, base, covered, 0, signal.length, silence=False)
            progress.finish("laid")
        if self.separate == "none" or not (
            stretches := self._stretches(progress, signal, base, tracks, cuts, covered)
        ):
            return tracks, []
        done = len(progress.items("stretches"))
        with progress.timed("separation of overlaps"):
            for group in stretches.groups()[done:]:
                stretches.put(group)
                progress.add("stretches", [group[0].start, group[-1].stop])
        return tracks, self._notes(cuts, signal.rate)

    def _stretches(
        self,
        progress: Progress,
        signal: Samples,
        base: Samples,
        tracks: Mapping[str, Samples],
        cuts: Sequence[Atom],
        covered: Sequence[Atom],
    ) -> Stretches | None:
        if not tracks or (self.separate == "overlaps" and all(len(x.speakers) < 2 for x in cuts)):
            return None
        assert self.separator is not None
        whole = self._whole(progress, signal) if self.separate == "all" else []
        voices = voices_of(signal, cuts, self.voices)
        context = round(self.context_seconds * signal.rate)
        observed = 0.0 if self.observation_db is None else audio.from_db(self.observation_db)
        parts = (self.separator, self.voices, voices, context, observed, whole)
        return Stretches(signal, base, tracks, cuts, covered, *parts)

    def _notes(self, cuts: Sequence[Atom], rate: int) -> list[str]:
        most = self.separator.sources if self.separator else 2
        crowded = sum(x.stop - x.start for x in cuts if len(x.speakers) > most) / rate
        if not crowded:
            return []
        return [f"{crowded:.1f} s in which more than {most} speak at once were not separated"]

    def _of_tracks(
        self, tracks: Mapping[str, Samples], given: Sequence[Passage] | None
    ) -> list[Passage]:
        """Who speaks when, where each speaker's track is known."""
        if given is not None:
            return tidy(given)
        return tidy(
            Passage(who, *span)
            for who, track in tracks.items()
            for span in self.detector(track.blocks(), track.rate)
        )

    def _recognise(
        self, progress: Progress, tracks: Mapping[str, Samples], passages: Sequence[Passage]
    ) -> list[Passage]:
        """The words of all tracks; what a killed run has recognised is not done again."""
        if self.recogniser is None:
            return []
        items = progress.items("utterances")
        for who, track in tracks.items():
            spans = self._spans(progress, who, track, passages)
            left = spans[sum(item[0] == who for item in items) :]
            with progress.timed("recognition"):
                for passage in recognise(track, who, left, self.recogniser):
                    progress.add("utterances", _row(passage))
        told = [_passage(item) for item in progress.items("utterances")]
        return sorted(told, key=lambda passage: (passage.start, passage.speaker))

    def _spans(
        self, progress: Progress, who: str, track: Samples, passages: Sequence[Passage]
    ) -> list[Span]:
        name = f"spans of {who}"
        if name not in progress.stages:
            mine = [(p.start, p.end) for p in passages if p.speaker == who]
            with progress.timed("activity"):
                progress.finish(name, find_utterances(track, mine, self.detector))
        return [(start, end) for start, end in progress.stages[name]]


def _row(passage: Passage) -> list[Any]:
    return [passage.speaker, passage.start, passage.end, passage.words, passage.timed]


def _passage(row: list[Any]) -> Passage:
    who, start, end, words, timed = row
    return Passage(who, start, end, words, tuple(Word(*word) for word in timed))
