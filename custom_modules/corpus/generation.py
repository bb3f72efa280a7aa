"""Generating a corpus: prepare the sources, mix in parallel, write the CSVs."""

import hashlib
import json
import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from tqdm import tqdm

from custom_modules.corpus import audio, layout
from custom_modules.corpus.mixing import Mixer
from custom_modules.corpus.sources import SUBSETS, Setup
from custom_modules.corpus.state import SPEAKERS, State
from custom_modules.errors import InputError

ROLES = ("speech", "scene", "event")
#: Raise it when the same options begin to give other audio.
PROCEDURE = 1

_worker = {}


def generate(hparams, options):
    """Makes a corpus, or what is missing of it.

    Arguments
    ---------
    hparams : dict
        ``output_folder, seed, sample_rate, duration, n_train, n_val, n_test,
        workers, overwrite, indoor_share, max_tries`` and the sources ``speech,
        scene, event``.
    options : dict
        What the corpus depends on, as plain values: it is compared with what an
        earlier run in the same folder had.

    Returns
    -------
    dict of str to list of dict
        Subset → rows.

    Raises
    ------
    InputError
        If options, recordings or the output folder do not serve.
    """
    begun = time.monotonic()
    setup, sizes = make_setup(hparams)
    state = State(setup.output_folder, setup.length)
    options = {"procedure": PROCEDURE, **options}
    sources = {role: hparams[role] for role in ROLES}
    state.check(options, hparams["overwrite"])
    for source in sources.values():
        source.check(setup)
    state.claim(options)
    recordings = {role: source.prepare(setup) for role, source in sources.items()}
    state.pin(_digest(recordings))
    write_speakers(setup.output_folder, recordings["speech"])
    mixer = Mixer(
        setup, sources, recordings, hparams["indoor_share"], hparams["max_tries"]
    )
    rows, tries = {}, []
    with _pool(mixer, state, setup.workers) as pool:
        for subset, size in sizes.items():
            rows[subset] = _make_subset(pool, state, subset, size, tries)
    state.finish()
    print(summary(setup, rows, recordings["speech"], tries, time.monotonic() - begun))
    return rows


def make_setup(hparams):
    """Checks the numbers of the hparams.

    Returns
    -------
    setup : Setup
    sizes : dict of str to int
        Subset → mixtures wanted, without empty subsets.

    Raises
    ------
    InputError
        If one is out of range.
    """
    sizes = {s: _number(hparams, f"n_{s}", 0, kind=int) for s in SUBSETS}
    sizes = {subset: size for subset, size in sizes.items() if size}
    if not sizes:
        raise InputError("n_train, n_val and n_test are all 0; nothing to generate")
    _number(hparams, "max_tries", 1, kind=int)
    if hparams["indoor_share"] is not None:
        _number(hparams, "indoor_share", 0, 1)
    if not isinstance(hparams["overwrite"], bool):
        raise InputError(
            f"overwrite is {hparams['overwrite']!r}; set it to True or False"
        )
    setup = Setup(
        output_folder=Path(str(hparams["output_folder"])),
        rate=_number(hparams, "sample_rate", 1000, 384_000, kind=int),
        duration=_number(hparams, "duration", 0.1, 3600),
        seed=_number(hparams, "seed", 0, kind=int),
        workers=_number(hparams, "workers", 1, kind=int),
        subsets=tuple(sizes),
        progress=_progress,
    )
    return setup, sizes


def _number(hparams, key, lowest, highest=float("inf"), kind=float):
    value = hparams[key]
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not (whole or (kind is float and isinstance(value, float))):
        raise InputError(f"{key} is {value!r}; set --{key} to a number")
    if not lowest <= value <= highest:
        bounds = (
            f"at least {lowest}" if highest == float("inf") else f"{lowest}…{highest}"
        )
        raise InputError(f"{key} is {value!r}; it must be {bounds}")
    return value


def _progress(items, desc, total):
    return tqdm(items, desc=desc, total=total, dynamic_ncols=True, leave=False)


def _digest(recordings):
    listed = [
        (role, subset, r.path, r.group, r.samples)
        for role in ROLES
        for subset, chosen in recordings[role].items()
        for r in chosen
    ]
    return hashlib.blake2b(json.dumps(listed).encode(), digest_size=16).hexdigest()


def write_speakers(root, recordings):
    """Writes ``speakers.csv``: who speaks in which subset.

    Arguments
    ---------
    root : pathlib.Path
        The corpus.
    recordings : dict of str to list of Recording
        Of the speech source.
    """
    rows = {}
    for subset, chosen in recordings.items():
        for r in chosen:
            folder = r.path[: r.path.find(r.group) + len(r.group)]
            cells = {"speaker": r.group, "gender": r.gender, "subset": subset}
            rows.setdefault((subset, r.group), cells | {"source": folder})
    columns = ("speaker", "gender", "subset", "source")
    layout.write_rows(root / SPEAKERS, columns, rows.values())


def _make_subset(pool, state, subset, size, tries):
    """Makes the mixtures of a subset that are missing, and its CSV."""
    rows = {i: row for i, row in state.done_rows(subset).items() if i < size}
    missing = [(subset, index) for index in range(size) if index not in rows]
    bar = tqdm(total=size, initial=len(rows), desc=subset, dynamic_ncols=True)
    with bar:
        for index, row, tried in pool(missing):
            rows[index] = row
            tries.append(tried)
            bar.update()
    ordered = [rows[index] for index in range(size)]
    _check_unique(ordered)
    state.finish_subset(subset, ordered)
    return ordered


def _check_unique(rows):
    """No two mixtures of a subset may be of the same two segments."""
    seen = {}
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


class _pool:  # noqa: N801 (used as a function)
    """Runs the mixer on (subset, index) pairs, in this process or in several."""

    def __init__(self, mixer, state, workers):
        self.mixer, self.state, self.workers = mixer, state, workers
        self.executor = None

    def __enter__(self):
        if self.workers > 1:
            self.executor = _start_workers(self.mixer, self.state, self.workers)
        return self

    def __exit__(self, *_):
        if self.executor:
            # Running mixtures are finished: they take a fraction of a second,
            # and nothing half-written is left.
            self.executor.shutdown(cancel_futures=True)

    def __call__(self, tasks):
        if not self.executor:
            _worker.update(mixer=self.mixer, state=self.state)
            yield from map(_make, tasks)
            return
        try:
            yield from self.executor.map(_make, tasks, chunksize=4)
        except BrokenProcessPool as error:
            raise InputError(
                "a worker process was killed, perhaps for want of memory; run again to "
                "resume, with fewer --workers"
            ) from error


def _start_workers(mixer, state, workers):
    # One thread of BLAS per worker: set before the workers import numpy.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    methods = multiprocessing.get_all_start_methods()
    # Never by plain fork: this process may hold torch, threads and espeak-ng.
    method = "forkserver" if "forkserver" in methods else "spawn"
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload([__name__])
    return ProcessPoolExecutor(workers, context, _start_worker, (mixer, state))


def _start_worker(mixer, state):
    _worker.update(mixer=mixer, state=state)
    # Ctrl-C reaches the whole process group; the main process alone answers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent():
    """A killed parent closes no queues, and its workers would wait for ever."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _make(task):
    """Makes and writes one mixture; the row comes last, so that it is a promise."""
    mixer, state = _worker["mixer"], _worker["state"]
    mixture = mixer.mixture(*task)
    for layer, path in layout.file_paths(state.root, mixture.row).items():
        audio.write_pcm16(path, mixture.layers[layer], mixer.setup.rate)
    state.keep_row(mixture.row)
    return task[1], mixture.row, mixture.tries


def summary(setup, rows, speech, tries, seconds):
    """What was made, as a few lines to print.

    Arguments
    ---------
    setup : Setup
    rows : dict of str to list of dict
        Subset → rows.
    speech : dict of str to list of Recording
        Subset → recordings of the speech source.
    tries : list of int
        Candidates per mixture made in this run.
    seconds : float
        Wall time.

    Returns
    -------
    str
    """
    lines = [f"{'subset':8}{'rows':>8}{'hours':>8}{'indoor':>8}{'voices':>8}"]
    for subset, made in rows.items():
        hours = len(made) * setup.duration / 3600
        indoor = sum(bool(row.get("reverbForSpeaker1")) for row in made) / len(made)
        voices = len({recording.group for recording in speech[subset]})
        lines.append(f"{subset:8}{len(made):8}{hours:8.2f}{indoor:8.0%}{voices:8}")
    rejected = 1 - len(tries) / sum(tries) if tries else 0.0
    lines.append(
        f"{len(tries)} mixtures made in {seconds:.1f} s, {rejected:.1%} of the "
        f"candidates drawn again; {setup.output_folder}"
    )
    return "\n".join(lines)
