"""The published procedure: from recordings to the layers of one mixture.

Two different speakers; speaker 1 keeps its level, speaker 2 is scaled to the
speech-to-speech ratio; the scene is scaled relative to the speech mix; the event
suits the scene and keeps its level; indoors every source has a fully wet layer
of reverberation. Sources are limited at ±0.999; a candidate whose speech mix or
full mix reaches 0.9999 is drawn again.

Source: Kleć, Szklanny, Wieczorkowska 2024, and the MATLAB script published with
it.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from custom_modules import audio, layout
from custom_modules.corpus import reverb, segments
from custom_modules.corpus import sources as tables
from custom_modules.errors import InputError
from custom_modules.mmipc import generator

SMALLEST_SSR, LARGEST_SSR = -5, 5  # dB
LOWEST_SCENE, HIGHEST_SCENE = -14.0, 0.0  # dB relative to the speech mix
REJECTED_PEAK = 0.9999
#: Share of a mixture in which both talk at the same time, at least.
SMALLEST_OVERLAP = 0.3
SILENCE_REMEDY = "remove silent recordings"
#: Of the reverberated layers, the dry one that each is made from.
DRY_LAYERS = {"s1_reverb": "s1", "s2_reverb": "s2", "event_reverb": "event"}
PRE_DELAY_COLUMNS = {
    "s1_reverb": "preDelay1",
    "s2_reverb": "preDelay2",
    "event_reverb": "preDelayForEvent",
}


class RejectedError(Exception):
    """A candidate that has to be drawn again.

    Arguments
    ---------
    reason : str
        Why.
    remedy : str
        What to do if this happens to every candidate.
    """

    def __init__(self, reason, remedy):
        super().__init__(reason)
        self.remedy = remedy


@dataclass(frozen=True)
class Mixture:
    """A finished mixture.

    Arguments
    ---------
    row : dict of str to str
        Its cells.
    layers : dict of str to numpy.ndarray
        Layer → int16 samples, ``[time]``; ``mix`` is the sum of the others.
    tries : int
        Candidates that were drawn, this one included.
    """

    row: dict
    layers: dict
    tries: int


class Mixer:
    """Draws mixtures; each depends on the seed, the subset and its index only.

    Arguments
    ---------
    setup : Setup
        Rate, duration and seed.
    sources : dict of str to Source
        ``speech``, ``scene`` and ``event``.
    recordings : dict of str to dict of str to list of Recording
        The same keys → subset → what their ``prepare`` listed.
    indoor_share : float
        Share of indoor mixtures. None: as the scene classes fall.
    max_tries : int
        Candidates per mixture before giving up.
    """

    def __init__(self, setup, sources, recordings, indoor_share=None, max_tries=100):
        self.setup = setup
        self.sources = sources
        self.recordings = recordings
        self.indoor_share = indoor_share
        self.max_tries = max_tries

    def mixture(self, subset, index):
        """Draws candidates until one is good.

        Arguments
        ---------
        subset : str
        index : int

        Returns
        -------
        Mixture

        Raises
        ------
        InputError
            If none of ``max_tries`` candidates is good, or a recording cannot
            be read.
        """
        reasons, remedies = Counter(), {}
        for attempt in range(self.max_tries):
            try:
                return self._candidate(subset, index, attempt)
            except RejectedError as error:
                reasons[str(error)] += 1
                remedies[str(error)] = error.remedy
        told = ", ".join(f"{reason}: {n}" for reason, n in reasons.most_common())
        remedy = remedies[reasons.most_common(1)[0][0]]
        raise InputError(
            f"{layout.stem(subset, index)}: all of {self.max_tries} candidates were "
            f"rejected ({told}); {remedy}, or raise --max_tries"
        )

    def _candidate(self, subset, index, attempt):
        rng = generator(self.setup.seed, subset, index, attempt)
        turn = index * self.max_tries + attempt
        row = {"subset": subset}
        layers = self._speech(subset, turn, rng, row)
        scene = self._scene(subset, index, rng, row, layers)
        self._event(subset, scene, rng, row, layers)
        if scene.room:
            self._reverberate(scene, rng, row, layers)
        return _finish(row, layers, subset, index, attempt)

    def _speech(self, subset, turn, rng, row):
        """Two talkers at a ratio; fills in the row and returns their layers."""
        talkers = self._talkers[subset]
        names = rng.choice(talkers.speakers, 2, replace=False)
        first, second = (talkers.cut(name, turn, rng) for name in names)
        rate = self.setup.rate
        both = audio.active_frames(first.samples, rate) & audio.active_frames(
            second.samples, rate
        )
        if not both.any() or both.mean() < SMALLEST_OVERLAP:
            raise RejectedError(
                "talkers hardly overlap",
                "give speakers more speech or lower --duration",
            )
        ratio = int(rng.integers(SMALLEST_SSR, LARGEST_SSR + 1))
        gain = audio.rms(first.samples) / audio.rms(second.samples)
        s1 = audio.limit(first.samples)
        s2 = audio.limit(second.samples * gain / audio.from_db(ratio))
        row |= first.cells("speech1", rate) | second.cells("speech2", rate)
        row["SSR"] = str(ratio)
        return {"s1": s1, "s2": s2}

    def _scene(self, subset, index, rng, row, layers):
        """A scene at a level relative to the speech mix; returns its class."""
        speech = layers["s1"] + layers["s2"]
        _check_peak(speech, "speech at full scale")
        name = _draw(rng, self._environments[subset][self._environment(subset, index)])
        chosen = _draw(rng, self._grouped["scene"][subset][name])
        cut = segments.cut_background(
            self.sources["scene"], chosen, self.setup.length, self.setup.rate, rng
        )
        level = audio.rms(cut.samples)
        if level == 0.0:
            raise RejectedError("silent scene", SILENCE_REMEDY)
        relative = round(rng.uniform(LOWEST_SCENE, HIGHEST_SCENE), 2)
        to_speech = audio.rms(audio.limit(speech)) / level
        gain = to_speech * audio.from_db(relative)
        layers["scene"] = audio.limit(cut.samples * gain)
        row |= cut.cells("scene", self.setup.rate)
        row |= {
            "sceneRandomDB": layout.number(relative),
            "sceneOffsetDB": layout.number(20 * np.log10(to_speech)),
            "sceneVolumeGain": layout.number(gain),
            "sceneClass": name,
        }
        return self.sources["scene"].scene_class(name)

    def _event(self, subset, scene, rng, row, layers):
        """An event that suits the scene, at its own level."""
        suiting = self._events_for(subset, scene.name)
        if not suiting:
            raise RejectedError(
                f"no event suits {scene.name}", "add or map event classes"
            )
        name = _draw(rng, suiting)
        chosen = _draw(rng, self._grouped["event"][subset][name])
        cut = segments.cut_event(
            self.sources["event"], chosen, self.setup.length, self.setup.rate, rng
        )
        layers["event"] = audio.limit(cut.samples)
        row |= cut.cells("event", self.setup.rate)
        row["eventClass"] = name

    def _reverberate(self, scene, rng, row, layers):
        """The wet layers: one room for all, a pre-delay for each source."""
        drawn = reverb.draw_room(scene.room, rng)
        row |= {column: layout.number(value) for column, value in drawn.items()}
        room = reverb.Room(
            drawn["highCut"], drawn["diffusion"], drawn["decay"], drawn["freqDamp"]
        )
        rate = self.setup.rate
        response = reverb.impulse_response(room, self.setup.length, rate)
        for wet, dry in DRY_LAYERS.items():
            delay = drawn[PRE_DELAY_COLUMNS[wet]]
            layers[wet] = audio.limit(reverb.wet(layers[dry], response, delay, rate))

    def _environment(self, subset, index):
        """Indoor or outdoor, the same for every candidate of a mixture.

        Were it drawn again, loud recordings would make corpora of outdoor mixtures:
        reverberation brings a candidate nearer to full scale.
        """
        classes = self._environments[subset]
        if len(classes) == 1:
            return next(iter(classes))
        share = self.indoor_share
        if share is None:
            share = len(classes[tables.INDOOR]) / sum(map(len, classes.values()))
        rng = generator(self.setup.seed, subset, index, "environment")
        return tables.INDOOR if rng.random() < share else tables.OUTDOOR

    @cached_property
    def _talkers(self):
        setup = self.setup
        return {
            subset: segments.Talkers(
                self.sources["speech"], recordings, setup.length, setup.rate
            )
            for subset, recordings in self.recordings["speech"].items()
        }

    @cached_property
    def _grouped(self):
        """Role → subset → class → recordings."""
        result = {role: {} for role in ("scene", "event")}
        for role, by_subset in result.items():
            for subset, recordings in self.recordings[role].items():
                groups = by_subset.setdefault(subset, defaultdict(list))
                for recording in recordings:
                    groups[recording.group].append(recording)
        return result

    @cached_property
    def _environments(self):
        """Subset → environment → its scene classes, sorted."""
        source = self.sources["scene"]
        result = {}
        for subset, groups in self._grouped["scene"].items():
            by_environment = result.setdefault(subset, defaultdict(list))
            for name in sorted(groups):
                by_environment[source.scene_class(name).environment].append(name)
        return result

    def _events_for(self, subset, scene_name):
        source = self.sources["event"]
        names = sorted(self._grouped["event"][subset])
        return [name for name in names if source.suits(name, scene_name)]


def _finish(row, layers, subset, index, attempt):
    """Quantises the layers, and adds up what will be in the files."""
    integers = {name: audio.quantise(samples) for name, samples in layers.items()}
    for name in ("s1", "s2", "scene", "event"):
        if not integers[name].any():
            raise RejectedError(f"silent {name}", SILENCE_REMEDY)
    mix = np.sum(list(integers.values()), axis=0, dtype=np.int32)
    _check_peak(mix / audio.FULL_SCALE, "mix at full scale")
    integers["mix"] = mix.astype(np.int16)
    row |= layout.file_cells(subset, index, integers)
    return Mixture(row, integers, attempt + 1)


def _check_peak(samples, reason):
    if np.abs(samples).max() >= REJECTED_PEAK:
        raise RejectedError(reason, "lower the level of the recordings")


def _draw(rng, items):
    return items[int(rng.integers(len(items)))]
