"""The chain tested in several ways on conversations whose truth is known.

An arm is finished for a conversation when its scores are stored; what has other settings, or
another recording or truth, is made again.
"""

import json
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from custom_modules.conversation.chain import Chain, Conversation
from custom_modules.conversation.formats import write_transcript
from custom_modules.conversation.measures import MEASURES, Case, Sums, measure
from custom_modules.conversation.passages import Passage
from custom_modules.conversation.truths import RTTM, SEGLST, Reference
from custom_modules.errors import InputError
from custom_modules.files import digest_of, regular_file
from custom_modules.tabular import write_record

#: Raise it when the same settings would give other scores.
FORMAT = 1
KEYS = ("session", "arm", "metric")


@dataclass(frozen=True)
class Arm:
    """A way to go from a recording to tracks and words."""

    about: str
    separate: str  # the chain's: overlaps | all | none
    given: str = ""  # "diarization" or "tracks": the truth is handed to the chain


ARMS = {
    "overlaps": Arm("who speaks when is found; overlaps alone are separated", "overlaps"),
    "all": Arm("who speaks when is found; the whole recording is separated", "all"),
    "none": Arm("who speaks when is found; nothing is separated", "none"),
    "true_diarization": Arm(
        "who speaks when is known; overlaps alone are separated", "overlaps", "diarization"
    ),
    "true_tracks": Arm("each talker's dry track is recognised: the floor", "none", "tracks"),
}


@dataclass
class Evaluation:
    """Runs the arms on conversations and stores what they are worth, in a folder."""

    chain: Chain
    folder: Path
    settings: Mapping[str, Any]  # all that the scores depend on, as JSON values
    true_number: bool = False  # the chain is told how many talkers there are
    normalise: Callable[[str], str] = str  # of texts, true ones and others
    show_progress: bool = True
    failed: dict[str, str] = field(default_factory=dict)  # session → why it has no scores

    def scores(self, references: Sequence[Reference], arms: Collection[str]) -> pd.DataFrame:
        """Rows as of :func:`rows_of`, of what is stored and of what is made now.

        A recording with an arm that fails is in no arm's rows, but in ``failed``.
        """
        tasks = [(r, a) for r in references for a in arms if self._possible(r, ARMS[a])]
        if not tasks:
            raise InputError(
                "true_tracks alone needs a --recogniser and clean tracks; name other --arms"
            )
        found: dict[tuple[str, str], dict[str, Sums]] = {}
        with tqdm(tasks, dynamic_ncols=True, disable=not self.show_progress) as bar:
            for reference, name in bar:
                if (session := reference.session) in self.failed:
                    continue
                bar.set_description(f"{session}, {name}")
                try:
                    found[session, name] = self._scores_of(reference, name)
                except (InputError, OSError) as error:
                    self.failed[session] = str(error)
        scored = {key: sums for key, sums in found.items() if key[0] not in self.failed}
        if not scored:
            raise InputError(next(iter(self.failed.values())))
        return rows_of(scored)

    def _possible(self, reference: Reference, arm: Arm) -> bool:
        words = self.chain.recogniser is not None
        return arm.given != "tracks" or (words and bool(reference.talkers))

    def _scores_of(self, reference: Reference, name: str) -> dict[str, Sums]:
        key = self._key(reference, str(ARMS[name]))
        path = self.folder / name / f"{reference.session}.scores.json"
        known = _stored(path, key)
        if known is None:
            known = measure(self._case(reference, name, key))
            write_record({"key": key, "scores": known}, path)
        return known

    def _key(self, reference: Reference, task: str) -> str:
        """All that a task's result depends on."""
        facts = {"format": FORMAT, "task": task, "settings": dict(self.settings)}
        heard = [reference.path, *reference.track_files()]
        states = [(path.name, path.stat()) for path in heard]
        facts["audio"] = [[name, state.st_size, state.st_mtime_ns] for name, state in states]
        truths = [reference.path.with_suffix(suffix) for suffix in (SEGLST, RTTM)]
        known = [regular_file(path).read_bytes() for path in truths if path.is_file()]
        return digest_of([json.dumps(facts).encode(), *known])

    def _case(self, reference: Reference, name: str, key: str) -> Case:
        """Runs the chain and writes down what it made."""
        arm, chain = ARMS[name], copy(self.chain)
        chain.separate = arm.separate
        dry, images = reference.tracks() if reference.talkers else ({}, {})
        passages = reference.passages if arm.given else self._found(reference)
        seconds, rate = reference.length
        work = self.folder / ".work" / name / reference.session
        made = chain(
            reference.path,
            rate,
            passages,
            dry if arm.given == "tracks" else None,
            work,
            reference.session,
            key,
        )
        transcript = made.transcript(reference.path.name)
        for kind, suffix in (("seglst", SEGLST), ("rttm", RTTM)):
            write_transcript(transcript, kind, self.folder / name / f"{reference.session}{suffix}")
        case = Case(seconds, reference.passages, made.passages, rate=rate)
        if chain.recogniser is not None and reference.said:
            case.said, case.heard = self._plain(reference.said), self._plain(made.utterances)
        if arm.given != "tracks":
            case.dry, case.images, case.tracks = dry, images, _tracks(made)
        shutil.rmtree(work, ignore_errors=True)
        return case

    def _found(self, reference: Reference) -> list[Passage]:
        """Who speaks when, as the chain finds it: once, for all arms."""
        path = self.folder / "found" / f"{reference.session}.json"
        key = self._key(reference, f"passages {self.true_number}")
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            if record["key"] == key:
                return [Passage(*row) for row in record["passages"]]
        except (OSError, LookupError, TypeError, ValueError):
            pass  # not there, or damaged
        chain = copy(self.chain)
        chain.separate, chain.recogniser = "none", None
        if self.true_number:
            chain.num_speakers = len({passage.speaker for passage in reference.passages})
        work = self.folder / ".work" / "found" / reference.session
        made = chain(reference.path, folder=work, session=reference.session, key=key)
        rows = [[p.speaker, p.start, p.end] for p in made.passages]
        write_record({"key": key, "passages": rows}, path)
        shutil.rmtree(work, ignore_errors=True)
        return made.passages

    def _plain(self, said: Sequence[Passage]) -> list[Passage]:
        return [replace(passage, words=self.normalise(passage.words)) for passage in said]


def rows_of(scores: Mapping[tuple[str, str], Mapping[str, tuple[float, float]]]) -> pd.DataFrame:
    """(session, arm) → metric → sums, as rows of ``session, arm, metric, total, base``.

    What a measure adds up, and what its sum over conversations is divided by.
    """
    rows = [
        (session, arm, metric, total, base)
        for (session, arm), sums in scores.items()
        for metric, (total, base) in sums.items()
    ]
    return pd.DataFrame(rows, columns=[*KEYS, "total", "base"])


def _tracks(made: Conversation) -> dict[str, np.ndarray]:
    return {talker: samples.read() for talker, samples in made.tracks.items()}


def _stored(path: Path, key: str) -> dict[str, Sums] | None:
    """Scores of an earlier run with the same key; None of others, or damaged ones."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["key"] != key:
            return None
        pairs = {name: (float(a), float(b)) for name, (a, b) in record["scores"].items()}
    except (AttributeError, OSError, LookupError, TypeError, ValueError):
        return None
    return pairs if pairs.keys() <= MEASURES.keys() else None
