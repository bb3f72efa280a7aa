"""Generating a corpus: prepare the sources, mix in parallel, write the CSVs."""

import hashlib
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import wait
from contextlib import ExitStack, contextmanager
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

from tqdm import tqdm

from custom_modules import audio, layout
from custom_modules.corpus.mixing import Mixer, Row
from custom_modules.corpus.sources import Listing, Setup
from custom_modules.corpus.state import State
from custom_modules.errors import InputError, check_number
from custom_modules.layout import SPEAKERS_FILE, SUBSETS
from custom_modules.processes import begin_worker, worker_pool

ROLES = ("speech", "scene", "event")
#: Raise it when the same options begin to give other audio.
PROCEDURE = 1
#: Option → least, most, whether it is a whole number.
LIMITS = {
    **{f"n_{subset}": (0, None, True) for subset in SUBSETS},
    "max_tries": (1, None, True),
    "indoor_share": (0, 1, False),  # or None
    "sample_rate": (1000, 384_000, True),  # Hz
    "duration": (0.1, 3600, False),  # s
    "seed": (0, None, True),
    "workers": (1, None, True),
}
#: Mixtures handed to a worker at a time.
CHUNK = 4

Task = tuple[str, int]  # subset and index of a mixture
Made = tuple[int, Row, int]  # index, row, number of candidates
Maker = Callable[[Task], Made]


def generate(hparams: dict, options: dict) -> dict[str, list[Row]]:
    """Makes a corpus, or what is missing of it; returns the rows of each subset.

    ``options`` are what the corpus depends on, as plain values: they are compared with
    those of an earlier run in the same folder.
    """
    begun = time.monotonic()
    setup, sizes = make_setup(hparams)
    sources = {role: hparams[role] for role in ROLES}
    with State(setup.output_folder, setup.length) as state:
        recordings = _begin(state, setup, sources, hparams["overwrite"], options)
        write_speakers(setup.output_folder, recordings["speech"])
        limits = hparams["indoor_share"], hparams["max_tries"]
        mixer = Mixer(setup, sources, recordings, *limits)
        rows, tries = {}, []
        with mixture_maker(mixer, state) as make:
            for subset, size in sizes.items():
                rows[subset], tried = _make_subset(make, state, subset, size)
                tries += tried
        state.finish()
    print(summary(setup, rows, recordings["speech"]))
    again = "all were there"
    if tries:
        again = f"{1 - len(tries) / sum(tries):.1%} of the candidates drawn again"
    seconds = time.monotonic() - begun
    print(f"{len(tries)} mixtures made in {seconds:.1f} s, {again}; {state.root}")
    return rows


def make_setup(hparams: dict) -> tuple[Setup, dict[str, int]]:
    """Checks the hparams; the second is the number of mixtures of each subset."""
    for option, (least, most, whole) in LIMITS.items():
        value = hparams[option]
        if option != "indoor_share" or value is not None:
            check_number(f"--{option}", value, least=least, most=most, whole=whole)
    if not isinstance(hparams["overwrite"], bool):
        raise InputError(
            f"overwrite is {hparams['overwrite']!r}; set it to True or False"
        )
    if not hparams["output_folder"]:
        raise InputError("output_folder is empty; set --output_folder to a folder")
    sizes = {s: hparams[f"n_{s}"] for s in SUBSETS if hparams[f"n_{s}"]}
    if not sizes:
        raise InputError("n_train, n_val and n_test are all 0; nothing to generate")
    folder, subsets = Path(str(hparams["output_folder"])), tuple(sizes)
    options = ("sample_rate", "duration", "seed", "workers")
    rate, duration, seed, workers = (hparams[option] for option in options)
    return Setup(folder, rate, duration, seed, workers, subsets), sizes


def _begin(
    state: State, setup: Setup, sources: dict[str, Any], overwrite: bool, options: dict
) -> dict[str, Listing]:
    """Checks everything, and only then changes anything; lists the recordings."""
    options = {"procedure": PROCEDURE, **options}
    state.check(options, overwrite)
    for source in sources.values():
        source.check(setup)
    state.claim(options)
    recordings = {role: source.prepare(setup) for role, source in sources.items()}
    listed = [
        (role, subset, r.path, r.group, r.samples)
        for role, listing in recordings.items()
        for subset, chosen in listing.items()
        for r in chosen
    ]
    digest = hashlib.blake2b(json.dumps(listed).encode(), digest_size=16)
    state.pin(digest.hexdigest(), overwrite)
    return recordings


def write_speakers(root: Path, recordings: Listing) -> None:
    """Writes ``speakers.csv``: who speaks in which subset, and from which folder."""
    rows: dict[tuple[str, str], Row] = {}
    for subset, listed in recordings.items():
        for r in listed:
            above, named, _ = f"/{r.path}".partition(f"/{r.group}/")
            source = f"{above}/{r.group}"[1:] if named else ""
            cells = {"speaker": r.group, "gender": r.gender, "subset": subset}
            rows.setdefault((subset, r.group), cells | {"source": source})
    columns = ("speaker", "gender", "subset", "source")
    layout.write_rows(root / SPEAKERS_FILE, columns, rows.values())


def _make_subset(
    make: Callable[[list[Task]], Iterable[Made]], state: State, subset: str, size: int
) -> tuple[list[Row], list[int]]:
    """Makes what is missing of a subset, and its CSV; rows, and candidates of each."""
    rows = {i: row for i, row in state.done_rows(subset).items() if i < size}
    missing = [(subset, index) for index in range(size) if index not in rows]
    tries = []
    bar = tqdm(total=size, initial=len(rows), desc=subset, dynamic_ncols=True)
    with bar:
        for index, row, tried in make(missing):
            rows[index] = row
            tries.append(tried)
            bar.update()
    ordered = [rows[index] for index in range(size)]
    _check_unique(ordered)
    state.finish_subset(subset, ordered)
    return ordered, tries


def _check_unique(rows: list[Row]) -> None:
    """No two mixtures of a subset may be of the same two segments."""
    seen: dict[frozenset, Row] = {}
    for row in rows:
        pair = frozenset(
            (row[f"speech{n}OryginalPath"], row[f"speech{n}Start"]) for n in (1, 2)
        )
        other = seen.setdefault(pair, row)
        if other is not row:
            raise InputError(
                f"{row['mixFile']}: its speech is that of {other['mixFile']}; there is "
                f"too little for {len(rows)} mixtures: add recordings or lower n_"
                + row["subset"]
            )


def summary(setup: Setup, rows: dict[str, list[Row]], speech: Listing) -> str:
    """What the corpus holds, a line for each subset."""
    lines = [f"{'subset':8}{'rows':>8}{'hours':>8}{'indoor':>8}{'voices':>8}"]
    for subset, made in rows.items():
        hours = len(made) * setup.duration / 3600
        indoor = sum(bool(row.get("reverbForSpeaker1")) for row in made) / len(made)
        voices = len({recording.group for recording in speech[subset]})
        lines.append(f"{subset:8}{len(made):8}{hours:8.2f}{indoor:8.0%}{voices:8}")
    return "\n".join(lines)


@contextmanager
def mixture_maker(
    mixer: Mixer, state: State
) -> Iterator[Callable[[list[Task]], Iterable[Made]]]:
    """Yields what makes and writes mixtures, in order: here, or in worker processes."""
    workers = mixer.setup.workers
    if workers == 1:
        yield partial(map, partial(_make, mixer, state))
        return
    # One thread of BLAS per worker: set before the workers import numpy.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    resource_tracker.ensure_running()  # it would undo the blocking of signals
    remedy = "run again to resume, with fewer --workers"
    start = _context(), _start_worker, (mixer, state)
    with ExitStack() as stack:
        with _ctrl_c_deferred():
            # At its end, mixtures in progress are finished: that takes a fraction of
            # a second, and nothing half-written is left.
            pool = stack.enter_context(worker_pool(workers, remedy, *start))
            wait([pool.submit(os.getpid) for _ in range(workers)])
        yield partial(pool.map, _make_in_worker, chunksize=CHUNK)


def _context() -> BaseContext:
    """Never plain fork: this process may hold torch, threads and espeak-ng."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "custom_modules.corpus.mixing"])
    return context


@contextmanager
def _ctrl_c_deferred() -> Iterator[None]:
    """Keeps Ctrl-C back while processes start, and from those processes for good.

    It reaches the whole process group. A process that is starting up would die of it
    with a traceback; the main process alone answers, when they have started.
    """
    pressed = []
    handler = signal.signal(signal.SIGINT, lambda *_: pressed.append(True))
    masked = getattr(signal, "pthread_sigmask", lambda *_: None)  # not on Windows
    masked(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        masked(signal.SIG_UNBLOCK, {signal.SIGINT})
        signal.signal(signal.SIGINT, handler)
    if pressed:
        raise KeyboardInterrupt


#: What a worker process makes mixtures with.
_makers: list[Maker] = []


def _start_worker(mixer: Mixer, state: State) -> None:
    _makers.append(partial(_make, mixer, state))
    begin_worker()


def _make_in_worker(task: Task) -> Made:
    return _makers[0](task)


def _make(mixer: Mixer, state: State, task: Task) -> Made:
    """Makes and writes one mixture; the row comes last, so that it is a promise."""
    mixture = mixer.mixture(*task)
    for layer, path in layout.file_paths(state.root, mixture.row).items():
        audio.write_pcm16(path, mixture.layers[layer], mixer.setup.rate)
    state.keep_row(mixture.row)
    return task[1], mixture.row, mixture.tries
