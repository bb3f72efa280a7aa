"""Scoring a test set: the model on its device, the metrics in processes beside it.

Start reading at :func:`score_test_set`.
"""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import torch
from speechbrain.utils.distributed import ddp_all_reduce, ddp_barrier, if_main_process
from torch import Tensor
from tqdm import tqdm

from custom_modules.audio import write_pcm16
from custom_modules.dataio import MixtureDataset
from custom_modules.distributed import rank_and_processes
from custom_modules.evaluation.loading import Model
from custom_modules.evaluation.scoring import ScoringJob, scoring_processes
from custom_modules.evaluation.store import ScoreStore
from custom_modules.longform.polarity import upright
from custom_modules.metrics import align, metrics_of, scores_on_device
from custom_modules.mmipc import is_target, num_sources, variants_of
from custom_modules.processes import available_cores

#: How many examples may wait for others of their length.
MAX_WAITING = 64

#: Of what is tested, these are written as audio: clean speech and the full mix.
HEARD_VARIANTS = ("C", "SER", "SE")

#: Rows of a batch, unless something else is asked for.
BATCH_SIZE = 8

#: Mixtures per worker that may wait for their metrics before the model waits, too.
BACKLOG = 32


class Example(NamedTuple):
    """A mixture in one variant."""

    id: str
    variant: str
    mixture: Tensor  # [time]
    targets: Tensor  # [time, sources]; the same tensor for all variants of a mixture


class Estimates(dict[tuple[str, str], Tensor]):
    """Mixture and variant → what a model made of it, as much as fits into some memory."""

    room = 2**29  # bytes that are free

    def keep(self, example: Example, estimate: Tensor) -> None:
        """Copies an estimate; not if there is no room."""
        self.room -= estimate.nbytes
        if self.room >= 0:
            self[example.id, example.variant] = estimate.detach().to("cpu", copy=True)


class Scope(NamedTuple):
    """What is scored, and how."""

    groups: tuple[str, ...] = ("sdr", "pesq", "stoi")  # of metrics, beside SI-SDR
    #: Rows of a batch on a GPU. A CPU takes mixtures one by one, in threads.
    batch_size: int = BATCH_SIZE
    size_option: str = "--batch_size"  # that sets it, for whoever has to lower it
    #: Processes for metrics; 0 computes them in this one. By default, one per
    #: available core, shared among the processes of ``torchrun``.
    workers: int | None = None
    audio_folder: str = "audio"  # where examples go
    save_audio: int = 0  # of how many mixtures
    progressbar: bool = True
    recogniser: str | None = None  # that counts words
    pseudo_references: bool = False  # its transcripts of the targets are the references


class Timing(NamedTuple):
    """What scoring took, of all processes."""

    scored: int  # mixtures × variants, those of an earlier run not counted
    seconds: float  # until the last process was done
    waited: float  # for metrics, s, of the process whose model waited longest
    processes: int = 1


def score_test_set(
    model: Model,
    dataset: MixtureDataset,
    store: ScoreStore,
    scope: Scope,
    kept: Estimates | None = None,
) -> Timing:
    """Scores what is not yet in the store, which then holds all scores.

    ``kept`` gets what is separated, for others to use. Processes of ``torchrun`` share the
    mixtures of the dataset (``draw=False``).
    InputError if a file has gone, or a process for metrics dies.
    """
    start = time.perf_counter()
    wanted = _missing(dataset, store, scope)
    ddp_barrier()  # all have read the store before anybody adds to it
    rank, processes = rank_and_processes()
    wanted = dict(list(wanted.items())[rank::processes])
    workers = scope.workers
    if workers is None:
        workers = min(max(1, available_cores() // processes), len(wanted))
    run = _Run(model, dataset, store, scope, wanted, kept)
    if wanted:
        run.through(workers)
    seconds = time.perf_counter() - start

    def over_processes(number: float, operation: str) -> float:
        tensor = torch.tensor(float(number), device=model.device)
        reduce = getattr(torch.distributed.ReduceOp, operation)
        return ddp_all_reduce(tensor, reduce).item()

    # Summed up when all are there: what they wrote can be read.
    scored = int(over_processes(run.scored, "SUM"))
    seconds = over_processes(seconds, "MAX")
    waited = over_processes(run.waited, "MAX")
    store.read_all()
    return Timing(scored, seconds, waited, processes)


def _missing(dataset: MixtureDataset, store: ScoreStore, scope: Scope) -> dict[str, list[str]]:
    """Id → its variants that are to be scored, or heard, and are not yet."""
    metrics = metrics_of(scope.groups, num_sources(dataset.task))
    missing = {}
    for name in dataset.data_ids:
        variants = [
            variant
            for variant in dataset.all_variants(name, dataset.data[name]["environment"])
            if store.missing(name, variant, metrics)
            or (
                _is_heard(dataset, scope, name, variant)
                and not example_path(scope.audio_folder, name, variant).exists()
            )
        ]
        if variants:
            missing[name] = variants
    return missing


def _is_heard(dataset: MixtureDataset, scope: Scope, name: str, variant: str) -> bool:
    return variant in HEARD_VARIANTS and name in dataset.data_ids[: scope.save_audio]


class _Run:
    """One pass over the mixtures that are missing."""

    def __init__(
        self,
        model: Model,
        dataset: MixtureDataset,
        store: ScoreStore,
        scope: Scope,
        wanted: dict[str, list[str]],
        kept: Estimates | None,
    ) -> None:
        self.model, self.dataset, self.store = model, dataset, store
        self.scope, self.wanted, self.kept = scope, wanted, kept
        self.sources = num_sources(dataset.task)
        self.metrics = metrics_of(scope.groups, self.sources)
        self.jobs: dict[str, ScoringJob] = {}  # id → what is separated so far
        self.running: set[Future] = set()
        self.scored, self.waited = 0, 0.0
        self.gains: list[float] = []

    def through(self, workers: int) -> None:
        """Separates and scores everything."""
        size = self.model.batch_size(self.scope.batch_size)
        rows = rows_by_length(self.dataset.data, size)
        examples = read_examples(self.dataset, self.wanted)
        batches = batches_of_one_length(examples, rows)
        # The processes are forked before the bar and the lanes begin threads of theirs.
        with closing(self.store), scoring_processes(workers) as submit, self._progress() as bar:
            for batch, estimates in self.model.separate_all(batches):
                for example, estimate in zip(batch, estimates, strict=False):
                    job = self._take(example, estimate)
                    if job is not None:
                        self.running.add(submit(job))
                        wait_first = len(self.running) > BACKLOG * max(1, workers)
                        self._collect(bar, wait_first)
            while self.running:
                self._collect(bar, wait_first=True)

    def _progress(self) -> tqdm:
        total = sum(map(len, self.wanted.values()))
        hidden = not (self.scope.progressbar and if_main_process())
        _, processes = rank_and_processes()
        share = f"process 1 of {processes}" if processes > 1 else None
        return tqdm(None, share, total, unit="mix", disable=hidden, dynamic_ncols=True)

    def _take(self, example: Example, estimates: Tensor) -> ScoringJob | None:
        """Aligns and keeps an estimate; what is to be scored if it was the last."""
        name, variant = example.id, example.variant
        if self.kept is not None:
            self.kept.keep(example, estimates)
        targets = example.targets.to(estimates)[None]
        mixture = example.mixture.to(estimates)[None]
        aligned = align(estimates[None], targets)
        estimate = aligned[0].cpu()
        if _is_heard(self.dataset, self.scope, name, variant):
            folder, rate = self.scope.audio_folder, self.model.sample_rate
            write_example(folder, example, estimate, rate)
        if name not in self.jobs:
            self.jobs[name] = self._job(example)
        job = self.jobs[name]
        scores = scores_on_device(job.metrics, aligned, targets, mixture)
        job.mixtures[variant] = example.mixture.numpy()
        job.estimates[variant] = estimate.numpy()
        for metric, by_signal in scores.items():
            of_sources = {suffix: x[0].tolist() for suffix, x in by_signal.items()}
            job.on_device.setdefault(metric, {})[variant] = of_sources
        is_last = len(job.mixtures) == len(self.wanted[name])
        return self.jobs.pop(name) if is_last else None

    def _job(self, example: Example) -> ScoringJob:
        """What is to be scored of a mixture, nothing of it separated yet."""
        variants = self.wanted[example.id]
        metrics = [  # what every variant has already is not scored again
            metric
            for metric in self.metrics
            if any(self.store.missing(example.id, v, [metric]) for v in variants)
        ]
        rate, targets = self.model.sample_rate, example.targets.numpy()
        existing = variants_of(self.dataset.data[example.id]["environment"])
        return ScoringJob(example.id, rate, metrics, existing, targets, {}, {}, {})

    def _collect(self, bar: tqdm, wait_first: bool) -> None:
        """Stores what is scored; waits for the first if nothing is."""
        start = time.perf_counter()
        timeout = None if wait_first else 0
        done, self.running = wait(self.running, timeout, FIRST_COMPLETED)
        if wait_first:
            self.waited += time.perf_counter() - start
        for future in done:
            mixture_id, scores = future.result()
            self.store.add(mixture_id, scores)
            self.scored += len(scores)
            for variant in scores:
                self._add_gains(mixture_id, variant)
            if self.gains:
                mean = sum(self.gains) / len(self.gains)
                bar.set_postfix_str(f"SI-SDRi {mean:.2f} dB", refresh=False)
            bar.update(len(scores))

    def _add_gains(self, mixture_id: str, variant: str) -> None:
        """For the bar."""
        known = self.store.scores(mixture_id, variant, ["si_sdr"])["si_sdr"]
        if not is_target(variant, self.sources):
            for estimate, mixture in zip(known[""], known["_mixture"], strict=True):
                if isinstance(estimate, float) and isinstance(mixture, float):
                    self.gains.append(estimate - mixture)


def read_examples(
    dataset: MixtureDataset, wanted: Mapping[str, Iterable[str]]
) -> Iterator[Example]:
    """Reads variants of mixtures, each layer once, whatever their number."""
    place = {name: index for index, name in enumerate(dataset.data_ids)}
    for name, variants in wanted.items():
        item = dataset[place[name]]
        for variant, mixture in zip(item["variants"], item["mixtures"], strict=True):
            if variant in variants:
                yield Example(name, variant, mixture, item["targets"])


def rows_by_length(manifest: Mapping[str, dict], batch_size: int) -> dict[int, int]:
    """Length in samples → rows of its batches, at most as many as the test set has."""
    if batch_size == 1:
        return {}
    available: Counter[int] = Counter()
    for entry in manifest.values():
        samples = round(entry["duration"] * entry["sample_rate"])
        available[samples] += len(variants_of(entry["environment"]))
    return {samples: min(batch_size, n) for samples, n in available.items()}


def batches_of_one_length(
    examples: Iterable[Example], rows: Mapping[int, int]
) -> Iterator[tuple[list[Example], Tensor]]:
    """Groups examples by length; ``rows`` as of :func:`rows_by_length`, by default 1.

    Yields examples and ``[rows, time]``: beyond the examples, copies of the last one.

    >>> examples = [Example("a", "C", torch.ones(n), None) for n in (5, 9, 5, 5)]
    >>> batches = batches_of_one_length(examples, {5: 2, 9: 2})
    >>> [(len(batch), tuple(mixtures.shape)) for batch, mixtures in batches]
    [(2, (2, 5)), (1, (2, 9)), (1, (2, 5))]
    """
    waiting: dict[int, list[Example]] = {}
    for example in examples:
        length = len(example.mixture)
        group = waiting.setdefault(length, [])
        group.append(example)
        if len(group) < rows.get(length, 1):
            if sum(map(len, waiting.values())) < MAX_WAITING:
                continue
            length = next(iter(waiting))  # that has waited longest
        yield _fill(waiting.pop(length), rows.get(length, 1))
    for length, group in waiting.items():
        yield _fill(group, rows.get(length, 1))


def _fill(examples: list[Example], rows: int) -> tuple[list[Example], Tensor]:
    mixtures = [example.mixture for example in examples]
    mixtures += mixtures[-1:] * (rows - len(mixtures))
    return examples, torch.stack(mixtures)


def example_path(
    folder: str | Path, mixture_id: str, variant: str, signal: str = "mixture"
) -> Path:
    """Where a signal of an example is written: the mixture, ``s1``, ``s1_target`` …"""
    return Path(folder, f"{mixture_id}_{variant}_{signal}.wav")


def write_example(
    folder: str | Path, example: Example, estimates: Tensor, sample_rate: int
) -> None:
    """Writes a mixture, its estimates (``[time, sources]``) and its targets.

    SI-SDR leaves scale and sign of an estimate open: each gets the level of its target,
    and is not against the mixture.
    """
    estimates, targets = estimates.float().nan_to_num(0.0), example.targets
    estimates = upright(estimates, example.mixture.to(estimates))
    levels = targets.square().mean(0).sqrt()
    estimates = estimates * levels / estimates.square().mean(0).sqrt().clamp_min(1e-8)
    signals = {"mixture": example.mixture}
    for source in range(targets.shape[1]):
        signals[f"s{source + 1}"] = estimates[:, source]
        signals[f"s{source + 1}_target"] = targets[:, source]
    for name, signal in signals.items():
        path = example_path(folder, example.id, example.variant, name)
        write_pcm16(path, torch.clamp(signal, -1, 1).cpu().numpy(), sample_rate)
