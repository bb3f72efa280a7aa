"""Generating a corpus: prepare the sources, mix in parallel, write the CSVs."""

import hashlib
import json
import multiprocessing
import os
import signal
import time
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import resource_tracker
from pathlib import Path

from tqdm import tqdm

from custom_modules import audio, layout
from custom_modules.corpus.mixing import Mixer
from custom_modules.corpus.sources import Setup
from custom_modules.corpus.state import State
from custom_modules.errors import InputError
from custom_modules.layout import SPEAKERS_FILE, SUBSETS
from custom_modules.processes import begin_worker

#: Mixtures handed to a worker at a time.
CHUNK = 4

#: What a worker process works with.
_worker = {}


class Pool:
    """Runs a mixer in this process, or in several; a context manager.

    Arguments
    ---------
    mixer : Mixer
        Makes the mixtures; its setup says how many workers there are.
    state : State
        Knows where they go.
    """

    def __init__(self, mixer, state):
        self.mixer = mixer
        self.state = state
        self.workers = mixer.setup.workers
        self.executor = None

    def __enter__(self):
        if self.workers > 1:
            try:
                self._start()
            except KeyboardInterrupt:
                self.__exit__()
                raise
        return self

    def __exit__(self, *_):
        if self.executor:
            # Mixtures in progress are finished: that takes a fraction of a second,
            # and nothing half-written is left.
            self.executor.shutdown(cancel_futures=True)

    def run(self, tasks):
        """Makes and writes mixtures.

        Arguments
        ---------
        tasks : list of tuple
            (subset, index)

        Yields
        ------
        tuple
            (index, row, number of candidates), in the order of the tasks.

        Raises
        ------
        InputError
            If a mixture cannot be made, or a worker was killed.
        """
        if not self.executor:
            yield from (_make_one(self.mixer, self.state, task) for task in tasks)
            return
        try:
            yield from self.executor.map(_make_in_worker, tasks, chunksize=CHUNK)
        except BrokenProcessPool as error:
            raise InputError(
                "a worker process was killed, perhaps for want of memory; run again to "
                "resume, with fewer --workers"
            ) from error

    def _start(self):
        # One thread of BLAS per worker: set before the workers import numpy.
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ.setdefault(name, "1")
        arguments = self.workers, _context(), _start_worker, (self.mixer, self.state)
        resource_tracker.ensure_running()  # it would undo the blocking of signals
        with _ctrl_c_deferred():
            self.executor = ProcessPoolExecutor(*arguments)
            wait([self.executor.submit(os.getpid) for _ in range(self.workers)])


def _context():
    """Never plain fork: this process may hold torch, threads and espeak-ng."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "custom_modules.corpus.mixing"])
    return context


@contextmanager
def _ctrl_c_deferred():
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


def _start_worker(mixer, state):
    _worker.update(mixer=mixer, state=state)
    begin_worker()


def _make_in_worker(task):
    return _make_one(_worker["mixer"], _worker["state"], task)


def _make_one(mixer, state, task):
    """Makes and writes one mixture; the row comes last, so that it is a promise."""
    mixture = mixer.mixture(*task)
    for layer, path in layout.file_paths(state.root, mixture.row).items():
        audio.write_pcm16(path, mixture.layers[layer], mixer.setup.rate)
    state.keep_row(mixture.row)
    return task[1], mixture.row, mixture.tries


ROLES = ("speech", "scene", "event")
#: Raise it when the same options begin to give other audio.
PROCEDURE = 1


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
    sources = {role: hparams[role] for role in ROLES}
    with State(setup.output_folder, setup.length) as state:
        recordings = _begin(state, setup, sources, hparams["overwrite"], options)
        write_speakers(setup.output_folder, recordings["speech"])
        limits = hparams["indoor_share"], hparams["max_tries"]
        mixer = Mixer(setup, sources, recordings, *limits)
        rows, tries = _make(mixer, state, sizes)
        state.finish()
    print(summary(setup, rows, recordings["speech"], tries, time.monotonic() - begun))
    return rows


def _begin(state, setup, sources, overwrite, options):
    """Checks everything, and only then changes anything; lists the recordings."""
    options = {"procedure": PROCEDURE, **options}
    state.check(options, overwrite)
    for source in sources.values():
        source.check(setup)
    state.claim(options)
    recordings = {role: source.prepare(setup) for role, source in sources.items()}
    state.pin(_digest(recordings), overwrite)
    return recordings


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
    if not hparams["output_folder"]:
        raise InputError("output_folder is empty; set --output_folder to a folder")
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
        wanted = "whole number" if kind is int else "number"
        raise InputError(f"{key} is {value!r}; set --{key} to a {wanted}")
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
            cells = {"speaker": r.group, "gender": r.gender, "subset": subset}
            cells["source"] = _speaker_folder(r)
            rows.setdefault((subset, r.group), cells)
    columns = ("speaker", "gender", "subset", "source")
    layout.write_rows(root / SPEAKERS_FILE, columns, rows.values())


def _speaker_folder(recording):
    """The folder that is named after the speaker; empty if there is none."""
    folders = recording.path.split("/")[:-1]
    if recording.group not in folders:
        return ""
    return "/".join(folders[: folders.index(recording.group) + 1])


def _make(mixer, state, sizes):
    """Makes every subset; returns its rows, and the candidates that each took."""
    rows, tries = {}, []
    with Pool(mixer, state) as pool:
        for subset, size in sizes.items():
            rows[subset] = _make_subset(pool, state, subset, size, tries)
    return rows, tries


def _make_subset(pool, state, subset, size, tries):
    """Makes the mixtures of a subset that are missing, and its CSV."""
    rows = {i: row for i, row in state.done_rows(subset).items() if i < size}
    missing = [(subset, index) for index in range(size) if index not in rows]
    bar = tqdm(total=size, initial=len(rows), desc=subset, dynamic_ncols=True)
    with bar:
        for index, row, tried in pool.run(missing):
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
    done = f"{len(tries)} mixtures made in {seconds:.1f} s"
    if tries:
        rejected = 1 - len(tries) / sum(tries)
        done += f", {rejected:.1%} of the candidates drawn again"
    else:
        done += ", all were there"
    lines.append(f"{done}; {setup.output_folder}")
    return "\n".join(lines)
