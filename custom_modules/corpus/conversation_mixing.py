"""MiniConversations: recordings of two to four talkers, by PolSESS's procedure of mixing.

A conversation is the exact sum of its 16-bit layers: a dry and a wet track of each talker
(wet is the reverberation alone), scene, events and their reverberation. What differs from
:mod:`custom_modules.corpus.mixing`: levels are measured where somebody speaks; several events
may be heard; and a sum at full scale lowers all layers by one gain instead of being drawn
again, as in minutes there is always one.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.random import Generator

from custom_modules import audio, layout
from custom_modules.corpus import reverb
from custom_modules.corpus.mixing import (
    HIGHEST_SCENE,
    LARGEST_SSR,
    LOWEST_SCENE,
    SILENCE_REMEDY,
    SMALLEST_SSR,
    Layers,
    Mixer,
    RejectedError,
)
from custom_modules.corpus.sources import Recording
from custom_modules.corpus.turns import Piece, Span, Utterance, converse, draw_turns
from custom_modules.errors import InputError
from custom_modules.mmipc import generator

DRAW_VERSION = 1
#: A room's response, s: that of PolSESS is as long as its mixtures.
RESPONSE_SECONDS = 4.0
#: Pauses up to this length are part of speech, as in NIST's evaluations of diarization, s.
BRIDGED_PAUSE = 0.3
LONGEST_PIECE = 20.0  # s; a recording that is longer is no utterance
PEAK = 0.99  # of what would reach full scale
SHARE_TOLERANCE = 0.02

Draw = dict[str, Any]
Range = tuple[float, float]


@dataclass(frozen=True)
class Plan:
    """What is drawn of a conversation; a pair of numbers is a range."""

    minutes: Range = (1.0, 10.0)
    voices: tuple[int, int] = (2, 4)
    overlap_share: float = 0.15
    events_per_minute: float = 4.0
    scene_level: Range = (LOWEST_SCENE, HIGHEST_SCENE)  # dB relative to speech

    @classmethod
    def of(cls, hparams: dict) -> "Plan":
        """From an hparams file, where a number may stand for a range of one."""
        pairs: dict[str, Any] = {
            key: tuple(value) if isinstance(value, (list, tuple)) else (value, value)
            for key in ("minutes", "voices", "scene_level")
            for value in [hparams[key]]
        }
        return cls(
            **pairs,
            overlap_share=hparams["overlap_share"],
            events_per_minute=hparams["events_per_minute"],
        )


@dataclass(frozen=True)
class Conversation:
    """A finished conversation."""

    draw: Draw  # all that was drawn; as JSON beside the recording
    layers: Layers  # int16, [time], by file name; "" is the recording, the sum of the others
    spans: list[tuple[str, Span]]  # talker, s: where who speaks
    tries: int


@dataclass
class Conversations(Mixer):
    """Draws conversations; each depends on the seed, the subset and its index only."""

    plan: Plan = Plan()

    def conversation(self, subset: str, index: int) -> Conversation:
        """Draws until one is good."""
        reasons = []
        for attempt in range(self.max_tries):
            try:
                return self._conversation(subset, index, attempt)
            except RejectedError as error:
                reasons.append("; ".join(error.args))
        raise InputError(
            f"{layout.stem(subset, index)}: all of {self.max_tries} candidates were rejected "
            f"({reasons[-1]})"
        )

    def _conversation(self, subset: str, index: int, attempt: int) -> Conversation:
        rng = generator(self.setup.seed, subset, index, attempt, "conversation")
        seconds = round(60 * rng.uniform(*self.plan.minutes), 1)
        mixer = replace(self, setup=replace(self.setup, duration=seconds))
        for name in ("_pieces", "_by_path", "_grouped"):  # what the length does not change
            setattr(mixer, name, getattr(self, name))
        names, said, share, scale = mixer._words(subset, seconds, rng)
        layers, ratios = mixer._tracks(names, said, rng)
        speech = np.sum(list(layers.values()), axis=0)
        spoken = mixer._spoken(said)
        scene = mixer._backgrounds(subset, index, layers, speech, spoken, rng)
        room = mixer._rooms(scene.pop("ranges"), layers, rng)
        integers, gain = _sum_up(layers)
        draw = {
            "version": DRAW_VERSION,
            "session": layout.stem(subset, index),
            "subset": subset,
            "sample_rate": self.setup.rate,
            "samples": mixer.setup.length,
            "attempt": attempt,
            "overlap_share": _rounded(share),
            "overlap_scale": _rounded(scale),
            "gain": _rounded(gain),
            "speakers": ratios,
            **scene,
            "room": room,
            "utterances": [_line(names[u.speaker], u) for u in said],
            "layers": sorted(name for name in integers if name),
        }
        spans = [(names[u.speaker], span) for u in said for span in u.spans]
        return Conversation(draw, integers, sorted(spans, key=lambda s: s[1]), attempt + 1)

    def _words(
        self, subset: str, seconds: float, rng: Generator
    ) -> tuple[list[str], list[Utterance], float, float]:
        """Who says what when; the share of overlap and its scale."""
        speakers = self._grouped["speech"][subset]
        least, most = self.plan.voices
        if least > len(speakers):
            raise InputError(
                f"{subset} has {len(speakers)} speakers, and --voices={least} or more are "
                "wanted; add speakers or lower it"
            )
        count = int(rng.integers(least, min(most, len(speakers)) + 1))
        names = [str(name) for name in rng.choice(list(speakers), count, replace=False)]
        pieces = [[self._piece(r) for r in speakers[name]] for name in names]
        fitting = [[p for p in own if p and p.seconds <= LONGEST_PIECE] for own in pieces]
        for name, own in zip(names, fitting, strict=True):
            if not own:
                raise InputError(
                    f"speaker {name}: no recording of up to {LONGEST_PIECE:g} s that is not "
                    "silent; cut its recordings into utterances"
                )
        turns = draw_turns(fitting, seconds, rng)
        said, share, scale = converse(turns, self.plan.overlap_share, seconds)
        if len({u.speaker for u in said}) < count:
            raise RejectedError("not all talkers speak", "raise --minutes or lower --voices")
        if abs(share - self.plan.overlap_share) > SHARE_TOLERANCE:
            raise RejectedError(f"{share:.3f} overlapped at most", "lower --overlap_share")
        return names, said, share, scale

    def _piece(self, recording: Recording) -> Piece | None:
        """What is speech of a recording, from its first to its last active frame."""
        if recording not in self._pieces:
            rate, source = self.setup.rate, self.sources["speech"]
            samples = source.read(recording, 0, recording.samples, rate)
            spans = active_spans(samples, rate)
            first, last = (spans[0][0], spans[-1][1]) if spans else (0.0, 0.0)
            inner = tuple((a - first, b - first) for a, b in spans)
            piece = Piece(recording.path, last - first, inner, recording.text)
            self._pieces[recording] = (piece, round(first * rate)) if spans else None
        known = self._pieces[recording]
        return known and known[0]

    @cached_property
    def _pieces(self) -> dict[Recording, tuple[Piece, int] | None]:
        return {}

    @cached_property
    def _by_path(self) -> dict[str, Recording]:
        return {r.path: r for listed in self.recordings["speech"].values() for r in listed}

    def _tracks(
        self, names: list[str], said: list[Utterance], rng: Generator
    ) -> tuple[Layers, list[dict]]:
        """A dry track of each talker; the first keeps its level, others are at a ratio to it."""
        rate, layers, facts = self.setup.rate, {}, []
        levels = []
        genders = {
            r.group: r.gender for listed in self.recordings["speech"].values() for r in listed
        }
        for number, name in enumerate(names):
            track, own = np.zeros(self.setup.length), [u for u in said if u.speaker == number]
            for utterance in own:
                recording = self._by_path[utterance.piece.path]
                _, begin = self._pieces[recording] or (None, 0)
                size = round(utterance.piece.seconds * rate)
                samples = self.sources["speech"].read(recording, begin, size, rate)
                start = round(utterance.start * rate)
                track[start : start + size] = audio.limit(samples)
            levels.append(audio.rms(track[self._spoken(own)]))
            ratio = 0 if not number else int(rng.integers(SMALLEST_SSR, LARGEST_SSR + 1))
            gain = levels[0] / levels[number] / audio.from_db(ratio)
            layers[f"{name}_dry"] = track * gain
            facts.append({"speaker": name, "gender": genders[name], "ratio_db": ratio})
        return layers, facts

    def _spoken(self, said: Iterable[Utterance]) -> np.ndarray:
        """Which samples are of an utterance, ``[time]``."""
        spoken, rate = np.zeros(self.setup.length, bool), self.setup.rate
        for utterance in said:
            spoken[round(utterance.start * rate) : round(utterance.end * rate)] = True
        return spoken

    def _backgrounds(
        self,
        subset: str,
        index: int,
        layers: Layers,
        speech: np.ndarray,
        spoken: np.ndarray,
        rng: Generator,
    ) -> Draw:
        """Adds the layers of scene and events; what was drawn, and the room's ranges."""
        names = self._scene_classes(subset, index)
        name = names[int(rng.integers(len(names)))]
        cut = self._cut("scene", subset, name, rng)
        scene, level = audio.limit(cut.samples), audio.rms(cut.samples)
        if level == 0.0:
            raise RejectedError("silent scene", SILENCE_REMEDY)
        relative = round(rng.uniform(*self.plan.scene_level), 2)
        gain = audio.rms(speech[spoken]) / level * audio.from_db(relative)
        layers["scene"] = scene * gain
        kind = self.sources["scene"].scene_class(name)
        events = []
        count = int(rng.poisson(self.plan.events_per_minute * self.setup.duration / 60))
        if count:
            layers["event"] = np.zeros(self.setup.length)
        for _ in range(count):
            samples, cells = self._event(subset, name, rng)
            layers["event"] += samples
            heard = np.flatnonzero(samples)
            start = heard[0] / self.setup.rate if len(heard) else 0.0
            named = {"class": cells["eventClass"], "file": cells["eventOryginalPath"]}
            events.append({**named, "start": _rounded(start)})
        drawn = {"class": name, "file": cut.path, "start": cut.start, "level_db": relative}
        return {
            "environment": kind.environment,
            "scene": drawn,
            "events": events,
            "ranges": kind.room,
        }

    def _rooms(self, ranges: dict, layers: Layers, rng: Generator) -> Draw | None:
        """Adds wet layers: one room for all, a pre-delay for each source; None outdoors."""
        if not ranges:
            return None
        drawn, rate = reverb.draw_room(ranges, rng), self.setup.rate
        size = min(self.setup.length, round(RESPONSE_SECONDS * rate))
        response = reverb.impulse_response(drawn, size, rate)
        latest = drawn["preDelay1"]
        earliest = latest - reverb.PRE_DELAY_ADVANCE * (latest - ranges["pre_delay"][0])
        delays: dict[str, float] = {}
        for name in [name for name in layers if name.endswith("_dry") or name == "event"]:
            delay = latest if not delays else rng.uniform(earliest, latest)
            delay = drawn["preDelayForEvent"] if name == "event" else delay
            wet = "event_reverb" if name == "event" else f"{name.removesuffix('_dry')}_wet"
            delays[wet] = _rounded(delay)
            layers[wet] = reverb.wet(layers[name], response, delays[wet], rate)
        kept = ("highCut", "diffusion", "decay", "freqDamp")
        return {**{key: drawn[key] for key in kept}, "pre_delays": delays}


def active_spans(samples: np.ndarray, rate: int, bridge: float = BRIDGED_PAUSE) -> list[Span]:
    """Where a signal ``[time]`` is within 40 dB of its loudest frame, s; pauses are bridged.

    >>> active_spans(np.repeat([0.0, 1.0, 0.0, 1.0, 0.0], [800, 1600, 1600, 1600, 4000]), 8000)
    [(0.1, 0.7)]
    """
    active = audio.active_frames(samples, rate)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], active, [False]]).astype(int)))
    size = max(1, round(audio.FRAME_SECONDS * rate)) / rate
    spans: list[Span] = []
    for first, last in (edges.reshape(-1, 2) * size).tolist():
        if spans and first - spans[-1][1] <= bridge:
            first, _ = spans.pop()
        spans.append((round(first, 6), round(last, 6)))
    return spans


def _sum_up(layers: Layers) -> tuple[Layers, float]:
    """Layers as int16 with their exact sum as ``""``, and the gain that all were given."""
    total = np.sum(list(layers.values()), axis=0)
    peak = max(float(np.abs(samples).max()) for samples in (total, *layers.values()))
    gain = min(1.0, PEAK / peak) if peak else 1.0
    integers = {name: audio.quantise(samples * gain) for name, samples in layers.items()}
    mix = np.sum([samples.astype(np.int32) for samples in integers.values()], axis=0)
    return integers | {"": mix.astype(np.int16)}, gain


def _line(speaker: str, utterance: Utterance) -> Draw:
    return {
        "speaker": speaker,
        "start": _rounded(utterance.start),
        "end": _rounded(utterance.end),
        "back_channel": utterance.back_channel,
        "file": utterance.piece.path,
        "text": utterance.piece.text,
    }


def _rounded(value: float) -> float:
    """As in a table: the last digits differ between machines while the audio does not."""
    return round(float(value), 4)
