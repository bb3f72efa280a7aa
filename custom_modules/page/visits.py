"""What is made of a recording that a visitor brings, and the queue for it.

Start reading at :class:`Queue`.
"""

import logging
import threading
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from custom_modules.audio import open_audio, read_blocks
from custom_modules.errors import InputError
from custom_modules.inference import PolSESSSeparation
from custom_modules.page.growing import Track
from custom_modules.page.shelf import Shelf, shown_name
from custom_modules.page.speaking import Turn, find_turns, with_words
from custom_modules.page.texts import RefusedError
from custom_modules.recognition.interface import Recogniser
from custom_modules.recordings import jobs
from custom_modules.recordings.spectrograms import plot_spectrograms
from custom_modules.recordings.streams import separate_recording

WAITING, SEPARATING, DRAWING, READING = "waiting", "separating", "drawing", "reading"
FINISHED, FAILED, STOPPED = "finished", "failed", "stopped"
OVER = (FINISHED, FAILED, STOPPED)
#: Visits beside the one that is worked on; more are told to come later.
MOST_WAITING = 20

logger = logging.getLogger(__name__)


class StoppedError(Exception):
    """The visitor wants no more of it."""


@dataclass
class Visit:
    """A recording on its way; written by the queue's thread, read by any."""

    place: Path  # its folder, whose name nobody can guess
    recording: Path
    model: str
    seconds: float
    rate: int
    stage: str = WAITING
    share: float = 0.0  # done of the stage
    problem: RefusedError | None = None
    notes: list[str] = field(default_factory=list)  # keys of texts
    tracks: dict[str, Track] = field(default_factory=dict)  # to listen to: mixture, s1 …
    files: list[Path] = field(default_factory=list)  # to take away: one for each source
    picture: Path | None = None
    turns: list[Turn] = field(default_factory=list)
    changes: int = 0
    is_stopped: bool = False
    is_replaced: bool = False  # in its tab, by another

    @property
    def token(self) -> str:
        """Its name in addresses."""
        return self.place.name

    @property
    def name(self) -> str:
        """Of the recording, as sentences show it."""
        return shown_name(self.recording)

    @property
    def is_over(self) -> bool:
        """Whether nothing changes any more."""
        return self.stage in OVER

    def reach(self, stage: str, share: float = 0.0) -> None:
        """Goes on; StoppedError if the visitor wants no more."""
        if self.is_stopped:
            raise StoppedError
        self.stage, self.share = stage, share
        self.changes += 1


class Studio:
    """Models by name, and what is done with a recording."""

    def __init__(
        self, models: dict[str, PolSESSSeparation], recogniser: Recogniser | None = None
    ) -> None:
        self.models, self.recogniser = models, recogniser
        # Of all weights, and the same for each recording.
        self._settings = {
            name: jobs.describe_settings(model, "mix", "mixture") for name, model in models.items()
        }

    def work(self, visit: Visit) -> None:
        """Separates as ``separate.py`` does, draws, and reads."""
        model = self.models[visit.model]
        item = jobs.Recording(visit.recording, visit.place / "separated" / visit.recording.stem)
        outputs = item.outputs(model.hparams.num_spks)
        self._listen(visit, len(outputs))
        comment = jobs.stamp(item, self._settings[visit.model])
        heard = _Listener(visit)
        told = separate_recording(model, visit.recording, outputs, comment=comment, watch=heard)
        for track in visit.tracks.values():
            track.finish()
        visit.notes = ["shorter" if note.startswith("shorter") else "clipped" for note in told]
        visit.files = outputs
        visit.reach(DRAWING)
        visit.turns = find_turns(outputs)
        picture, highest = visit.place / "spectrograms.png", model.hparams.sample_rate / 2
        plot_spectrograms(visit.recording, outputs, picture, highest)
        visit.picture = picture
        if self.recogniser:
            visit.reach(READING)
            visit.turns = with_words(
                visit.turns, outputs, self.recogniser, lambda share: visit.reach(READING, share)
            )

    def _listen(self, visit: Visit, sources: int) -> None:
        """Prepares what can be listened to; the mixture at once."""
        visit.reach(SEPARATING)
        with open_audio(visit.recording) as audio:
            form = (audio.samplerate, audio.frames)
            names = ["mixture", *(f"s{source + 1}" for source in range(sources))]
            tracks = {name: Track(visit.place / f"{name}.wav", *form) for name in names}
            for block in read_blocks(audio):
                tracks["mixture"].write(block.mean(0))
        tracks["mixture"].finish()
        visit.tracks = tracks
        visit.reach(SEPARATING)


class _Listener:
    """Has a visit's tracks grow as its sources do."""

    def __init__(self, visit: Visit) -> None:
        self.visit, self.done = visit, 0

    def __call__(self, part: np.ndarray) -> None:
        for source, samples in enumerate(part):
            self.visit.tracks[f"s{source + 1}"].write(samples)
        self.done += part.shape[1]
        whole = self.visit.seconds * self.visit.rate
        self.visit.reach(SEPARATING, min(1.0, self.done / whole))


class Queue:
    """Visits one after the other, in a thread of its own."""

    def __init__(self, studio: Studio, shelf: Shelf) -> None:
        self.studio, self.shelf = studio, shelf
        self.visits: dict[str, Visit] = {}
        self._waiting: deque[Visit] = deque()
        self._change = threading.Condition()

    def start(self) -> None:
        """Begins to work; ends with the process."""
        threading.Thread(target=self._run, daemon=True).start()

    def join(self, upload: str | Path | None, model: str) -> Visit:
        """A visit at the end of the queue; RefusedError if it is not taken."""
        if model not in self.studio.models:
            raise RefusedError("no_model")
        seconds, rate = self.shelf.check(upload)
        with self._change:
            if len(self._waiting) > MOST_WAITING:
                raise RefusedError("full")
            place, recording = self.shelf.take(str(upload))
            visit = Visit(place, recording, model, seconds, rate)
            self.visits[visit.token] = visit
            self._waiting.append(visit)
            self._change.notify()
        return visit

    def ahead(self, visit: Visit) -> int:
        """How many are before a visit that waits, with the one that is worked on."""
        with self._change:
            return self._waiting.index(visit) if visit in self._waiting else 0

    def stop(self, token: str) -> None:
        """Ends a visit, at once if it waits, else with its chunk."""
        visit = self.visits.get(token)
        if visit and not visit.is_over:
            visit.is_stopped = True
            if visit.stage == WAITING:
                _fill(visit)
            with self._change:
                if visit.stage == WAITING and visit in self._waiting:
                    self._waiting.remove(visit)
                    self._end(visit, STOPPED)

    def sweep(self) -> None:
        """Forgets the visits whose folders have had their time."""
        for place in self.shelf.sweep():
            self.visits.pop(place.name, None)

    def work_off(self) -> bool:
        """Does the first visit; False if none waits."""
        with self._change:
            visit = self._waiting[0] if self._waiting else None
        if visit is None:
            return False
        stage = FINISHED
        try:
            self.studio.work(visit)
        except StoppedError:
            stage = STOPPED
        except Exception as error:  # this visit's end, and not the page's
            stage, visit.problem = FAILED, _problem(error, visit)
        _fill(visit)
        with self._change:
            if visit in self._waiting:
                self._waiting.remove(visit)
                self._end(visit, stage)
        return True

    def _end(self, visit: Visit, stage: str) -> None:
        self.shelf.release(visit.place)
        visit.stage, visit.share = stage, 1.0
        visit.changes += 1

    def _run(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._waiting)
            self.work_off()


def _fill(visit: Visit) -> None:
    """Who listens is promised a length; a full disk ends the answer early."""
    for track in visit.tracks.values():
        with suppress(OSError):
            track.finish()


def _problem(error: Exception, visit: Visit) -> RefusedError:
    """What the visitor is told; a bug's traceback is for the log."""
    if isinstance(error, InputError):
        logger.warning("%s", error)
        spoilt = f"{visit.recording}: a value that is no number" in str(error)
        return RefusedError("not_numbers" if spoilt else "failed", name=visit.name)
    logger.error("a visit failed", exc_info=error)
    return RefusedError("fault", name=visit.name)
