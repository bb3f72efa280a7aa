"""What a recogniser hears in a test set, and what it heard so far.

Start reading at :func:`transcribe_test_set`.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from speechbrain.utils.distributed import ddp_barrier, if_main_process
from speechbrain.utils.logger import get_logger
from torch import Tensor
from tqdm import tqdm

from custom_modules.audio import cancel, read_layer
from custom_modules.dataio import MixtureDataset
from custom_modules.distributed import rank_and_processes
from custom_modules.errors import InputError
from custom_modules.evaluation.loading import Model
from custom_modules.evaluation.runner import (
    Estimates,
    Example,
    batches_of_one_length,
    read_examples,
    rows_by_length,
)
from custom_modules.evaluation.store import LineStore
from custom_modules.mmipc import CANCELLED_LAYERS, num_sources
from custom_modules.postprocessing import at_level_of, is_gated, observed
from custom_modules.recognition.interface import Recogniser

logger = get_logger(__name__)

#: Mixtures, each in one variant, whose signals go to the recogniser together.
AT_ONCE = 8


class Transcripts(NamedTuple):
    """What was heard of a mixture in a variant, as the recogniser wrote it."""

    targets: list[str]  # of each dry source
    oracle: list[str]  # of each talker alone with the background; none without background
    mixture: str
    model: list[str]  # of each output, in the model's order
    silent: list[bool]  # outputs that a gate takes for silent


class TranscriptStore(LineStore):
    """Transcripts by mixture and variant, and why there are none.

    >>> folder, heard = getfixture("tmp_path"), Transcripts(["a"], [], "b", ["c"], [False])
    >>> store = TranscriptStore(folder, "x")
    >>> store.add("m1", "C", heard)
    >>> store.add("m2", "C", "ValueError: too loud")
    >>> store.close()
    >>> store = TranscriptStore(folder, "x")
    >>> store.heard, store.failures
    ({('m1', 'C'): Transcripts(targets=['a'], oracle=[], mixture='b', model=['c'], \
silent=[False])}, {('m2', 'C'): 'ValueError: too loud'})
    """

    def __init__(self, folder: str | Path, key: str, rank: int = 0) -> None:
        self.heard: dict[tuple[str, str], Transcripts] = {}
        self.failures: dict[tuple[str, str], str] = {}
        super().__init__(folder, key, rank)

    def add(self, mixture_id: str, variant: str, result: Transcripts | str) -> None:
        """Appends what was heard, or the reason for which nothing was."""
        found = {"failure": result} if isinstance(result, str) else result._asdict()
        record = {"id": mixture_id, "variant": variant, **found}
        self._take(record)
        self._append([record])

    def _take(self, record: dict[str, Any]) -> None:
        place = str(record["id"]), str(record["variant"])
        if "failure" in record:
            if place not in self.heard:
                self.failures[place] = str(record["failure"])
            return
        found = Transcripts(**{name: record[name] for name in Transcripts._fields})
        texts = [*found.targets, *found.oracle, found.mixture, *found.model]
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("no text")
        self.heard[place] = found
        self.failures.pop(place, None)


def transcribe_test_set(
    model: Model,
    dataset: MixtureDataset,
    ids: Iterable[str],
    store: TranscriptStore,
    recogniser: Recogniser,
    batch_size: int,
    progressbar: bool = True,
    kept: Estimates | None = None,
) -> None:
    """Has a recogniser hear what is not yet in the store, of mixtures with these ids.

    What was ``kept`` of them is not separated again.
    Processes of ``torchrun`` share the mixtures. What it raises on a mixture is kept with
    the mixture's name, and the others go on; what it raises on all is raised.
    """
    wanted = {}
    for name in ids:
        variants = dataset.all_variants(name, dataset.data[name]["environment"])
        if missing := [v for v in variants if (name, v) not in store.heard]:
            wanted[name] = missing
    ddp_barrier()  # all have read the store before anybody adds to it
    rank, processes = rank_and_processes()
    wanted = dict(list(wanted.items())[rank::processes])
    if wanted:
        total = sum(map(len, wanted.values()))
        hidden = not (progressbar and if_main_process())
        bar = tqdm(None, "words", total, unit="mix", disable=hidden, dynamic_ncols=True)
        with closing(store), bar:
            listener = _Listener(model, dataset, store, recogniser, bar)
            for example, estimate in _separated(model, dataset, wanted, batch_size, kept or {}):
                listener.take(example, estimate)
            listener.listen()
    ddp_barrier()  # what all wrote can be read
    store.read_all()


def _separated(
    model: Model,
    dataset: MixtureDataset,
    wanted: Mapping[str, list[str]],
    batch_size: int,
    kept: Mapping[tuple[str, str], Tensor],
) -> Iterator[tuple[Example, Tensor]]:
    """Each example with what the model makes of it; first those of which it is ``kept``."""
    known = {name: [v for v in variants if (name, v) in kept] for name, variants in wanted.items()}
    for example in read_examples(dataset, _filled(known)):
        yield example, kept[example.id, example.variant]
    rest = {
        name: [v for v in variants if v not in known[name]] for name, variants in wanted.items()
    }
    rows = rows_by_length(dataset.data, model.batch_size(batch_size))
    batches = batches_of_one_length(read_examples(dataset, _filled(rest)), rows)
    for examples, estimates in model.separate_all(batches):
        yield from zip(examples, estimates, strict=False)


def _filled(lists: Mapping[str, list[str]]) -> dict[str, list[str]]:
    return {name: values for name, values in lists.items() if values}


class _Heard(NamedTuple):
    """An example and the signals that the recogniser is to hear, by arm."""

    example: Example
    signals: dict[str, list[np.ndarray]]
    silent: list[bool]


class _Listener:
    """Gathers signals, and has the recogniser hear several at once."""

    def __init__(
        self,
        model: Model,
        dataset: MixtureDataset,
        store: TranscriptStore,
        recogniser: Recogniser,
        bar: tqdm,
    ) -> None:
        self.model, self.dataset, self.store = model, dataset, store
        self.recogniser, self.bar = recogniser, bar
        self.waiting: list[_Heard] = []
        self.targets = {name: heard.targets for (name, _), heard in store.heard.items()}
        self.is_proven = False  # whether the recogniser ever returned

    def take(self, example: Example, estimate: Tensor) -> None:
        """Takes a separated mixture, ``[time, sources]``."""
        mixture = example.mixture
        levelled, raw = self._levelled(mixture, estimate.cpu())
        signals = {
            "mixture": [mixture.numpy()],
            "model": [*levelled.T.numpy()],
            "oracle": self._with_background(example),
        }
        waiting = {heard.example.id for heard in self.waiting if "targets" in heard.signals}
        if example.id not in self.targets.keys() | waiting:
            signals["targets"] = [*example.targets.T.numpy()]
        self.waiting.append(_Heard(example, signals, is_gated(raw).tolist()))
        if len(self.waiting) == AT_ONCE:
            self.listen()

    def _levelled(self, mixture: Tensor, estimate: Tensor) -> tuple[Tensor, Tensor]:
        """What is heard, at the mixture's level, and what a gate judges by."""
        observation_db = getattr(self.model.modules, "observation_db", None)
        if observation_db is None:
            levelled = at_level_of(mixture, estimate, self.model.sample_rate)
            return levelled, levelled
        added = observed(torch.zeros_like(estimate), mixture, observation_db)
        return estimate, estimate - added

    def _with_background(self, example: Example) -> list[np.ndarray]:
        """Each talker alone with the variant's background, ``[time]``; none if there is none."""
        if example.variant == "C" or num_sources(self.dataset.task) == 1:
            return []
        entry = self.dataset.data[example.id]
        layers = CANCELLED_LAYERS[entry["environment"]]
        paths = dict(zip(layers["C"], entry["variants"]["C"], strict=True))
        paths |= {source: entry[source] for source in ("s1", "s2")}
        mixture, alone = example.mixture.numpy(), []
        for other in ("s2", "s1"):
            kept = [x for x in (other, f"{other}_reverb") if x in paths]
            kept = [x for x in kept if x not in layers[example.variant]]
            read = (read_layer(paths[x], 0, len(mixture)) for x in kept)
            alone.append(cancel(mixture, read))
        return alone

    def listen(self) -> None:
        """Has the recogniser hear what waits, and stores it."""
        waiting, self.waiting = self.waiting, []
        errors: list[Exception] = []
        try:
            self._transcribe(waiting)
        except InputError:
            raise
        except Exception as error:  # of which mixture, if it is of one
            errors = [error]
        if errors:
            errors = [e for heard in waiting if (e := self._alone(heard)) is not None]
        if errors and not self.is_proven:
            raise errors[0]
        self.is_proven = True
        self.bar.update(len(waiting))

    def _alone(self, heard: _Heard) -> Exception | None:
        """Transcribes one; what it raised."""
        example = heard.example
        if example.id not in self.targets:  # it may have waited for one that failed
            heard.signals.setdefault("targets", [*example.targets.T.numpy()])
        try:
            self._transcribe([heard])
        except InputError:
            raise
        except Exception as error:
            place = f"{example.id}, {example.variant}"
            error.add_note(f"in the words of mixture {place}")
            logger.exception("%s cannot transcribe %s", self.recogniser.name, place)
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            self.store.add(example.id, example.variant, reason)
            return error
        self.is_proven = True
        return None

    def _transcribe(self, waiting: list[_Heard]) -> None:
        signals = [s for h in waiting for listed in h.signals.values() for s in listed]
        texts = iter(self.recogniser.transcribe(signals, self.model.sample_rate))
        found = [
            {arm: [next(texts) for _ in listed] for arm, listed in heard.signals.items()}
            for heard in waiting
        ]
        for heard, by_arm in zip(waiting, found, strict=True):
            name, variant = heard.example.id, heard.example.variant
            targets = self.targets.setdefault(name, by_arm.get("targets", []))
            (mixture,) = by_arm["mixture"]
            model, oracle = by_arm["model"], by_arm["oracle"]
            result = Transcripts(targets, oracle, mixture, model, heard.silent)
            self.store.add(name, variant, result)
