"""Generating a corpus: prepare the sources, mix in parallel, write the CSVs.

``generator.json`` says which options a corpus belongs to. A mixture is done when
its row is known and each of its files is there in full length. Until a subset's
CSV is written, rows wait in ``.rows/``, one small file per mixture.
"""

import hashlib
import json
import multiprocessing
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

from tqdm import tqdm

from custom_modules import audio, layout
from custom_modules.corpus.mixing import Mixer, Row, Segments, segments_of
from custom_modules.corpus.sources import Listing, Setup, Source
from custom_modules.errors import InputError
from custom_modules.files import PARTIAL_SUFFIX, atomic_path, lock
from custom_modules.layout import COLUMNS, SPEAKERS_FILE, SUBSETS
from custom_modules.limits import check_values
from custom_modules.processes import begin_worker, worker_pool

NOTE, ROWS = "generator.json", ".rows"
#: Options that earlier versions had not → what they did.
NEWER = {"sentences": "text", "utterances": "cut", "test_voices": 8}
WAV_HEADER = 44  # bytes that soundfile writes before the samples
ELSEWHERE = "choose another --output_folder"
ROLES = ("speech", "scene", "event")
#: Raise it when the same options begin to give other audio.
PROCEDURE = 2
DRY_LAYERS = ("s1", "s2", "scene", "event", "mix")  # of every mixture
#: Mixtures handed to a worker at a time.
CHUNK = 4


@dataclass(frozen=True)
class Task:
    """A mixture to make, or a conversation."""

    subset: str
    index: int
    taken: Collection[Segments] = ()  # by other mixtures


Made = tuple[int, Row, int]  # index, row, number of candidates
Maker = Callable[[Iterable[Task]], Iterable[Made]]


@dataclass
class State:
    """A corpus under construction, in a folder that this process has locked."""

    root: Path
    length: int  # samples, of a mixture

    @property
    def _note(self) -> Path:
        return self.root / NOTE

    def check(self, options: dict, overwrite: bool = False) -> None:
        """Refuses a folder that is not ours to work in; changes nothing."""
        if self._note.is_file():
            if not (overwrite or self._is_of(options)):
                raise InputError(
                    f"{self._note}: this corpus was made with other options; set "
                    f"--overwrite=True to replace it, or {ELSEWHERE}"
                )
        elif any(x.name != ".lock" and x.suffix != PARTIAL_SUFFIX for x in self.root.iterdir()):
            message = "holds files that are not a corpus of this generator"
            raise InputError(f"{self.root}: {message}; {ELSEWHERE}")

    def claim(self, options: dict) -> None:
        """Makes the folder ours, after `check`; a corpus of other options goes."""
        if self._note.is_file() and not self._is_of(options):
            # The note goes last: killed in between, the folder is still known as ours.
            self._remove(*SUBSETS, ROWS, "sources")
            (self.root / SPEAKERS_FILE).unlink(missing_ok=True)
            self._note.unlink()
        if not self._note.is_file():
            self._write_note({"options": options})
        for folder in (*SUBSETS, ROWS, "sources"):  # what a killed process left
            for path in (self.root / folder).rglob(f"*{PARTIAL_SUFFIX}"):
                path.unlink(missing_ok=True)
        for path in self.root.glob(f"*{PARTIAL_SUFFIX}"):
            path.unlink(missing_ok=True)

    def pin(self, digest: str, overwrite: bool = False) -> None:
        """Holds a resumed run to the recordings, of this digest, that it began with."""
        content = self._read_note()
        if content.get("recordings", digest) != digest:
            if not overwrite:
                raise InputError(
                    f"{self._note}: the source recordings have changed since this "
                    "corpus was begun; set --overwrite=True to make it again"
                )
            self._remove(*SUBSETS, ROWS)
        self._write_note(content | {"recordings": digest})

    def done_rows(self, subset: str) -> dict[int, Row]:
        """Index → row of the mixtures that are whole; those of damaged rows are made again."""
        table, size = layout.csv_path(self.root, subset), WAV_HEADER + 2 * self.length
        rows = layout.read_rows(table) if table.is_file() else []
        rows = [row for row in rows if row.keys() >= set(COLUMNS)]
        rows += map(read_mapping, sorted((self.root / ROWS / subset).glob("*.json")))
        return {
            index: row
            for row in rows
            if (index := _index(row, subset)) is not None
            and all(
                path.is_file() and path.stat().st_size == size
                for path in layout.file_paths(self.root, row).values()
            )
        }

    def keep_row(self, row: Row) -> None:
        """Remembers that a mixture is done; its files must have been written."""
        path = self.root / ROWS / row["subset"] / row["mixFile"]
        with atomic_path(path.with_suffix(".json")) as partial:
            partial.write_text(json.dumps(row), encoding="utf-8")

    def finish_subset(self, subset: str, rows: Iterable[Row]) -> None:
        """Writes a subset's CSV; its waiting rows are needed no more."""
        rows = list(rows)
        texts = [c for c in layout.TEXT_COLUMNS.values() if any(c in row for row in rows)]
        layout.write_rows(layout.csv_path(self.root, subset), (*COLUMNS, *texts), rows)
        self._remove(Path(ROWS, subset))
        with suppress(OSError):  # rows of other subsets wait, or there were none
            (self.root / ROWS).rmdir()

    def _remove(self, *folders: str | Path) -> None:
        for folder in folders:
            shutil.rmtree(self.root / folder, ignore_errors=True)

    def _is_of(self, options: dict) -> bool:
        known = self._read_note().get("options")
        return known == _as_known(json.loads(json.dumps(options)), known)

    def _read_note(self) -> dict:
        content = read_mapping(self._note)
        if not content:
            message = f"{self._note}: cannot be read; remove the folder, or {ELSEWHERE}"
            raise InputError(message)
        return content

    def _write_note(self, content: dict) -> None:
        with atomic_path(self._note) as partial:
            partial.write_text(json.dumps(content, indent=1), encoding="utf-8")


def _as_known(options: Any, known: Any) -> Any:
    """Options without what is newer than a note, and as it was before there was a choice."""
    if not isinstance(options, dict) or not isinstance(known, dict):
        return options
    return {
        key: _as_known(value, known.get(key))
        for key, value in options.items()
        if key in known or NEWER.get(key) != value
    }


def read_mapping(path: Path) -> dict:
    """What a JSON file holds; nothing if it is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _index(row: Row, subset: str) -> int | None:
    """Which mixture of a subset a row is of; None if it does not name its files."""
    match = re.fullmatch(r".*_([0-9]{5,9})\.wav", str(row.get("mixFile")))
    if not match:
        return None
    cells = layout.file_cells(subset, int(match[1]), DRY_LAYERS) | {"subset": subset}
    return int(match[1]) if cells.items() <= row.items() else None


def generate(hparams: dict, options: dict) -> dict[str, list[Row]]:
    """Makes a corpus, or what is missing of it; returns the rows of each subset.

    ``options``: all that the corpus depends on, as plain values. Only a corpus of the
    same ones is resumed.
    """
    begun = time.monotonic()
    setup, sizes = make_setup(hparams)
    sources = {role: hparams[role] for role in ROLES}
    limits, overwrite = (hparams["indoor_share"], hparams["max_tries"]), hparams["overwrite"]
    state = State(setup.output_folder, setup.length)
    with lock(state.root):
        recordings = begin(state, setup, sources, overwrite, options)
        write_speakers(setup.output_folder, recordings["speech"])
        mixer = Mixer(setup, sources, recordings, *limits)
        rows, tries = {}, []
        with mixture_maker(mixer, state) as make:
            for subset, size in sizes.items():
                rows[subset], tried = _make_subset(make, state, subset, size)
                tries += tried
    print(summary(setup, rows, recordings["speech"]))
    again = "all were there"
    if tries:
        again = f"{1 - len(tries) / sum(tries):.1%} of the candidates drawn again"
    seconds = time.monotonic() - begun
    print(f"{len(tries)} mixtures made in {seconds:.1f} s, {again}; {state.root}")
    return rows


def make_setup(hparams: dict) -> tuple[Setup, dict[str, int]]:
    """Checks the hparams; the second is the number of mixtures of each subset."""
    check_values(hparams)
    sizes = {s: hparams[f"n_{s}"] for s in SUBSETS if hparams[f"n_{s}"]}
    if not sizes:
        raise InputError("n_train, n_val and n_test are all 0; nothing to generate")
    folder = Path(hparams["output_folder"])
    options = ("sample_rate", "duration", "seed", "workers")
    rate, duration, seed, workers = (hparams[option] for option in options)
    return Setup(folder, rate, duration, seed, workers, tuple(sizes)), sizes


def begin(
    state: State, setup: Setup, sources: dict[str, Source], overwrite: bool, options: dict
) -> dict[str, Listing]:
    """Checks everything, and only then changes anything; lists the recordings."""
    options = {"procedure": PROCEDURE, **options}
    state.check(options, overwrite)
    for source in sources.values():
        source.check(setup)
    state.claim(options)
    recordings = {role: source.prepare(setup) for role, source in sources.items()}
    listed = [
        (role, subset, r.path, r.group, r.samples, *([r.text] if r.text else []))
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


def _make_subset(make: Maker, state: State, subset: str, size: int) -> tuple[list[Row], list[int]]:
    """Makes what is missing of a subset, and its CSV; rows, and candidates of each."""
    rows = {i: row for i, row in state.done_rows(subset).items() if i < size}
    missing = [Task(subset, index) for index in range(size) if index not in rows]
    tries = []
    with tqdm(total=size, initial=len(rows), desc=subset, dynamic_ncols=True) as bar:
        for index, row, tried in make(missing):
            rows[index] = row
            tries.append(tried)
            bar.update()
    _redraw_twins(make, subset, rows)
    ordered = [rows[index] for index in range(size)]
    state.finish_subset(subset, ordered)
    return ordered, tries


def _redraw_twins(make: Maker, subset: str, rows: dict[int, Row]) -> None:
    """Makes those again, of others, that are of the same two segments as an earlier one.

    In their order: so each depends on those before it, whenever it is made.
    """
    taken: set[Segments] = set()
    for index in sorted(rows):
        if segments_of(rows[index]) in taken:
            ((_, rows[index], _),) = make([Task(subset, index, frozenset(taken))])
        taken.add(segments_of(rows[index]))


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
    mixer: Any, state: Any, make: Callable[..., Any] | None = None, chunk: int = CHUNK
) -> Iterator[Callable[[Iterable[Task]], Iterable[Any]]]:
    """Yields what makes and writes mixtures, in order: here, or in worker processes.

    ``make`` is called with mixer, state and task, a mixture's by default.
    """
    workers, make = mixer.setup.workers, make or _make
    if workers == 1:
        yield partial(map, partial(make, mixer, state))
        return
    # One thread of BLAS per worker: set before the workers import numpy.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    # Never plain fork: this process may hold torch, threads and espeak-ng.
    methods = multiprocessing.get_all_start_methods()
    method = "forkserver" if "forkserver" in methods else "spawn"
    context = multiprocessing.get_context(method)
    context.set_forkserver_preload([__name__])
    resource_tracker.ensure_running()  # it would undo the blocking of signals
    remedy = "run again to resume, with fewer --workers"
    # At its end, mixtures in progress are finished: that takes a fraction of a
    # second, and nothing half-written is left.
    with worker_pool(workers, remedy, context, _start_worker, (make, mixer, state)) as pool:
        with _ctrl_c_deferred():
            wait([pool.submit(os.getpid) for _ in range(workers)])
        yield partial(pool.map, _make_in_worker, chunksize=chunk)


@contextmanager
def _ctrl_c_deferred() -> Iterator[None]:
    """Keeps Ctrl-C back while processes start, and from those processes for good.

    It reaches the whole process group, and a starting process dies of it with a
    traceback; the main process alone answers, when they have started.
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
_makers: list[Callable[[Task], Any]] = []


def _start_worker(make: Callable[..., Any], mixer: Any, state: Any) -> None:
    _makers.append(partial(make, mixer, state))
    begin_worker()


def _make_in_worker(task: Task) -> Any:
    return _makers[0](task)


def _make(mixer: Mixer, state: State, task: Task) -> Made:
    """Makes and writes one mixture; the row comes last, so that it is a promise."""
    mixture = mixer.mixture(task.subset, task.index, task.taken)
    for layer, path in layout.file_paths(state.root, mixture.row).items():
        audio.write_pcm16(path, mixture.layers[layer], mixer.setup.rate)
    state.keep_row(mixture.row)
    return task.index, mixture.row, mixture.tries
