"""Scoring a test set: the model on its device, the metrics in processes beside it.

Start reading at :func:`score_test_set`.
"""

import time
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, wait
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import soundfile as sf
import torch
from speechbrain.utils.distributed import (
    ddp_all_reduce,
    ddp_barrier,
    if_main_process,
)
from tqdm import tqdm

from custom_modules.distributed import rank_and_processes
from custom_modules.evaluation.scoring import ScoringJob, ScoringPool
from custom_modules.files import atomic_path
from custom_modules.metrics import align, si_sdr_of_signals
from custom_modules.mmipc import variants_of
from custom_modules.processes import available_cores

#: How many examples may wait for others of their length.
MAX_WAITING = 64


class Example(NamedTuple):
    """A mixture in one variant.

    Arguments
    ---------
    id : str
    variant : str
    mixture : torch.Tensor
        ``[time]``.
    targets : torch.Tensor
        ``[time, sources]``; the same tensor for all variants of a mixture.
    """

    id: str
    variant: str
    mixture: torch.Tensor
    targets: torch.Tensor


def read_examples(dataset, wanted):
    """Reads mixtures, each layer once, whatever the number of variants.

    Arguments
    ---------
    dataset : custom_modules.dataio.MixtureDataset
        With ``draw=False``.
    wanted : dict of str to collection of str
        Id of a mixture → the variants of it.

    Yields
    ------
    Example
    """
    place = {name: index for index, name in enumerate(dataset.data_ids)}
    for name, variants in wanted.items():
        item = dataset[place[name]]
        for variant, mixture in zip(item["variants"], item["mixtures"], strict=True):
            if variant in variants:
                yield Example(name, variant, mixture, item["targets"])


def rows_by_length(manifest, batch_size):
    """How many rows a batch of each length has.

    Arguments
    ---------
    manifest : Mapping
        The whole test set.
    batch_size : int
        At most.

    Returns
    -------
    dict of int to int
        Samples → rows; never more than the test set has of that length.
    """
    if batch_size == 1:
        return {}
    available = Counter()
    for entry in manifest.values():
        samples = round(entry["duration"] * entry["sample_rate"])
        available[samples] += len(variants_of(entry["environment"]))
    return {samples: min(batch_size, n) for samples, n in available.items()}


def batches_of_one_length(examples, rows):
    """Groups examples by length.

    Arguments
    ---------
    examples : iterable of Example
    rows : dict of int to int
        From :func:`rows_by_length`; 1 for what is missing.

    Yields
    ------
    examples : list of Example
    mixtures : torch.Tensor
        ``[rows, time]``; beyond the examples, copies of the last one.

    Example
    -------
    >>> examples = [Example("a", "C", torch.ones(n), None) for n in (5, 9, 5, 5)]
    >>> batches = batches_of_one_length(examples, {5: 2, 9: 2})
    >>> [(len(batch), tuple(mixtures.shape)) for batch, mixtures in batches]
    [(2, (2, 5)), (1, (2, 9)), (1, (2, 5))]
    """
    waiting = {}
    for example in examples:
        group = waiting.setdefault(len(example.mixture), [])
        group.append(example)
        full = rows.get(len(example.mixture), 1)
        if len(group) == full:
            yield _fill(waiting.pop(len(example.mixture)), full)
        elif sum(map(len, waiting.values())) >= MAX_WAITING:
            oldest = next(iter(waiting))
            yield _fill(waiting.pop(oldest), rows.get(oldest, 1))
    for samples, group in waiting.items():
        yield _fill(group, rows.get(samples, 1))


def _fill(examples, rows):
    mixtures = [example.mixture for example in examples]
    mixtures += mixtures[-1:] * (rows - len(mixtures))
    return examples, torch.stack(mixtures)


#: Of what is tested, these are written as audio: clean speech and the full mix.
HEARD_VARIANTS = ("C", "SER", "SE")


def example_path(folder, mixture_id, variant, signal="mixture"):
    """Where a signal of an example is written.

    Arguments
    ---------
    folder : str or pathlib.Path
    mixture_id, variant : str
    signal : str
        ``"mixture"``, ``"s1"``, ``"s1_target"`` and so on.

    Returns
    -------
    pathlib.Path

    Example
    -------
    >>> example_path("audio", "test_1", "SER", "s2").name
    'test_1_SER_s2.wav'
    """
    return Path(folder, f"{mixture_id}_{variant}_{signal}.wav")


def write_example(folder, mixture_id, variant, mixture, estimates, targets, rate):
    """Writes a mixture, its estimates and its targets.

    SI-SDR leaves the scale of an estimate open, so each is given the level of
    its target.

    Arguments
    ---------
    folder : str or pathlib.Path
        Made if missing.
    mixture_id, variant : str
        Begin the names of the files, see :func:`example_path`.
    mixture : torch.Tensor
        ``[time]``.
    estimates : torch.Tensor
        ``[time, sources]``, in the order of the targets.
    targets : torch.Tensor
        ``[time, sources]``.
    rate : int
        Hz.
    """
    estimates = estimates.float().nan_to_num(0.0)
    levels = targets.square().mean(0).sqrt()
    estimates = estimates * levels / estimates.square().mean(0).sqrt().clamp_min(1e-8)
    signals = {"mixture": mixture}
    sources = range(targets.shape[1])
    signals |= {f"s{i + 1}": estimates[:, i] for i in sources}
    signals |= {f"s{i + 1}_target": targets[:, i] for i in sources}
    for name, signal in signals.items():
        with atomic_path(example_path(folder, mixture_id, variant, name)) as path:
            samples = torch.clamp(signal, -1, 1).cpu().numpy()
            sf.write(path, samples, rate, subtype="PCM_16", format="WAV")


#: Rows of a batch, unless something else is asked for.
BATCH_SIZE = 8

#: Mixtures per worker that may wait for their metrics before the model waits, too.
BACKLOG = 32


class Scope(NamedTuple):
    """What is scored, and how.

    Arguments
    ---------
    groups : tuple of str
        Some of :data:`custom_modules.metrics.GROUPS`.
    batch_size : int
        Rows of a batch on a GPU. A CPU takes mixtures one by one, in threads.
    size_option : str
        The option that sets it, for whoever has to lower it.
    workers : int, optional
        Processes for metrics; 0 computes them in this one. By default, one per
        available core, shared among the processes of ``torchrun``.
    audio_folder : str
        Where examples go.
    save_audio : int
        Of how many mixtures.
    progressbar : bool
    """

    groups: tuple = ("sdr", "pesq", "stoi")
    batch_size: int = BATCH_SIZE
    size_option: str = "--batch_size"
    workers: int | None = None
    audio_folder: str = "audio"
    save_audio: int = 0
    progressbar: bool = True


class Effort(NamedTuple):
    """What scoring took.

    Arguments
    ---------
    scored : int
        Mixtures × variants scored in this run, by all processes; those of an
        earlier run are not.
    seconds : float
        Until the last process was done.
    waited : float
        Seconds in which the model waited for metrics, of the process in which it
        did longest.
    processes : int
    """

    scored: int
    seconds: float
    waited: float
    processes: int = 1


def score_test_set(model, dataset, store, scope):
    """Scores what is not yet in the store.

    Arguments
    ---------
    model : custom_modules.evaluation.loading.Model
    dataset : custom_modules.dataio.MixtureDataset
        With ``draw=False``. Processes of ``torchrun`` share its mixtures.
    store : custom_modules.evaluation.store.ScoreStore
        Holds all scores afterwards, also those of other processes.
    scope : Scope

    Returns
    -------
    Effort
        Of all processes.

    Raises
    ------
    InputError
        If a file has gone, or a process for metrics dies.
    """
    start = time.perf_counter()
    wanted = _missing(dataset, store, scope)
    ddp_barrier()  # all have read the store before anybody adds to it
    rank, processes = rank_and_processes()
    wanted = dict(list(wanted.items())[rank::processes])
    scope = scope._replace(workers=_workers(scope, processes, len(wanted)))
    run = _Run(model, dataset, store, scope, wanted)
    run.through()
    seconds = time.perf_counter() - start, run.waited
    # Summed up when all are there: what they wrote can be read.
    scored = _over_processes(run.scored, "SUM", model.device)
    seconds = [_over_processes(spent, "MAX", model.device) for spent in seconds]
    store.read_all()
    return Effort(int(scored), *seconds, processes)


def _over_processes(number, operation, device):
    number = torch.tensor(float(number), device=device)
    return ddp_all_reduce(number, getattr(torch.distributed.ReduceOp, operation)).item()


def _missing(dataset, store, scope):
    """Id → its variants that are to be scored, or heard, and are not yet."""
    heard = set(dataset.data_ids[: scope.save_audio])
    missing = {}
    for name in dataset.data_ids:
        variants = [
            variant
            for variant in variants_of(
                dataset.data[name]["environment"], dataset.variants
            )
            if store.rows(name, variant, scope.groups) is None
            or (name in heard and _is_unheard(scope.audio_folder, name, variant))
        ]
        if variants:
            missing[name] = variants
    return missing


def _is_unheard(folder, name, variant):
    path = example_path(folder, name, variant)
    return variant in HEARD_VARIANTS and not path.exists()


def _workers(scope, processes, mixtures):
    if scope.workers is not None:
        return scope.workers
    return min(max(1, available_cores() // processes), mixtures)


class _Run:
    """One pass over the mixtures that are missing."""

    def __init__(self, model, dataset, store, scope, wanted):
        self.model, self.dataset, self.store = model, dataset, store
        self.scope, self.wanted = scope, wanted
        self.heard = set(dataset.data_ids[: scope.save_audio])
        self.parts = {}  # id → what is known of a mixture so far
        self.jobs = set()
        self.scored, self.gains, self.waited = 0, [], 0.0

    def through(self):
        """Separates and scores everything."""
        if not self.wanted:
            return
        with ExitStack() as stack:
            stack.callback(self.store.close)
            # Forked before the bar and the lanes begin threads of theirs.
            self.pool = stack.enter_context(ScoringPool(self.scope.workers))
            self.bar = stack.enter_context(self._progress())
            rows = rows_by_length(
                self.dataset.data, self.model.batch_size(self.scope.batch_size)
            )
            examples = read_examples(self.dataset, self.wanted)
            batches = batches_of_one_length(examples, rows)
            for batch, estimates in self.model.separate_all(batches):
                for example, estimate in zip(batch, estimates, strict=False):
                    self._take(example, estimate)
            while self.jobs:
                self._collect(block=True)

    def _progress(self):
        total = sum(map(len, self.wanted.values()))
        shown = self.scope.progressbar and if_main_process()
        _, processes = rank_and_processes()
        share = f"process 1 of {processes}" if processes > 1 else None
        return tqdm(
            total=total, unit="mix", desc=share, disable=not shown, dynamic_ncols=True
        )

    def _take(self, example, estimates):
        """Aligns and keeps an estimate; scores its mixture if it was the last."""
        targets = example.targets.to(estimates)[None]
        mixture = example.mixture.to(estimates)[None]
        aligned = align(estimates[None], targets)
        scores = si_sdr_of_signals(aligned, targets, mixture)
        aligned = aligned[0].cpu()
        self._write_audio(example, aligned)
        part = self.parts.setdefault(example.id, ({}, {}, {}))
        kept = (
            example.mixture.numpy(),
            aligned.numpy(),
            {suffix: values[0].tolist() for suffix, values in scores.items()},
        )
        for place, value in zip(part, kept, strict=True):
            place[example.variant] = value
        if len(part[0]) == len(self.wanted[example.id]):
            self._submit(example)

    def _submit(self, example):
        environment = self.dataset.data[example.id]["environment"]
        known = [self.store.groups(example.id, v) for v in self.parts[example.id][0]]
        job = ScoringJob(
            example.id,
            self.model.sample_rate,
            # What every variant has already is not scored again.
            tuple(g for g in self.scope.groups if not all(g in has for has in known)),
            variants_of(environment),
            example.targets.numpy(),
            *self.parts.pop(example.id),
        )
        self.jobs.add(self.pool.submit(job))
        self._collect(block=False)

    def _collect(self, block):
        """Stores what is scored; waits if asked to, or if too much waits already."""
        start = time.perf_counter()
        block = block or len(self.jobs) > BACKLOG * max(1, self.scope.workers)
        done, self.jobs = wait(
            self.jobs, None if block else 0, return_when=FIRST_COMPLETED
        )
        if block:
            self.waited += time.perf_counter() - start
        for future in done:
            mixture_id, groups, scores = self.pool.result(future)
            self.store.add(mixture_id, scores, groups)
            self._show(scores)

    def _show(self, scores):
        for rows in scores.values():
            self.scored += 1
            self.gains += [r["si_sdri"] for r in rows if r["si_sdri"] is not None]
        if self.gains:
            mean = sum(self.gains) / len(self.gains)
            self.bar.set_postfix_str(f"SI-SDRi {mean:.2f} dB", refresh=False)
        self.bar.update(len(scores))

    def _write_audio(self, example, aligned):
        if example.id in self.heard and example.variant in HEARD_VARIANTS:
            write_example(
                self.scope.audio_folder,
                example.id,
                example.variant,
                example.mixture,
                aligned,
                example.targets,
                self.model.sample_rate,
            )
