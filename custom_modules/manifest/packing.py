"""A corpus as a few large Arrow files, which ``datasets.load_from_disk`` reads as well.

A row for each file that the tables name, in their order: ``path``, ``sample_rate``, ``sum`` (of
the samples), ``samples`` (16 bit, one channel) or, of other kinds, ``file`` as it was. Beside
them lie the tables and the index that :mod:`custom_modules.packs` reads by. Each Arrow file
carries a digest of what it was made of, so that a rerun writes what is missing or has changed.
"""

import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from custom_modules import packs
from custom_modules.errors import InputError
from custom_modules.files import PARTIAL_SUFFIX, atomic_path, check_output, lock, not_a_file
from custom_modules.layout import LAYERS, SPEAKERS_FILE
from custom_modules.manifest import csv_tables
from custom_modules.manifest.arrow_files import (
    MOST,
    Shard,
    Source,
    index_rows,
    write_for_datasets,
    write_index,
    write_json,
    write_shard,
)
from custom_modules.manifest.checks import why_unreadable
from custom_modules.packs import INDEX_FILE, PACK_FILE
from custom_modules.processes import map_pieces, worker_pool

#: About so large become the Arrow files, as those of ``datasets``.
SHARD_BYTES = 2**29

logger = logging.getLogger(__name__)


def pack_corpus(
    data_folder: str | Path,
    folder: str | Path,
    subsets: Collection[str],
    workers: int = 1,
    skip_bad_rows: bool = False,
    verify: bool = False,
) -> None:
    """Writes the files of a corpus's tables into a pack, or what has changed of them.

    ``verify`` reads all of it again. A file that cannot be read is refused, or left out
    with ``skip_bad_rows``.
    """
    _check_pyarrow()
    root, folder = os.path.abspath(data_folder), Path(folder)
    if os.path.exists(Path(root, PACK_FILE)):
        raise InputError(f"{root}: is a pack already; name the corpus as --data_folder")
    tables = {subset: csv_tables.find_table(root, subset) for subset in subsets}
    paths = _paths_of(tables, root)
    check_output(folder / PACK_FILE)
    with lock(folder):
        _refuse_others(folder, root)
        shards = _plan(_survey(root, paths, workers, skip_bad_rows))
        copied = [*tables.values(), Path(root, SPEAKERS_FILE)]
        copies = [path.relative_to(root) for path in copied if path.exists()]
        if not _is_up_to_date(folder, root, shards, copies):
            _write(folder, root, shards, copies, workers, skip_bad_rows)
        else:
            logger.info(f"{folder}: is up to date")
        packs.forget()
        if verify:
            _verify(folder, shards, workers)
    logger.info(_description(folder))


def _check_pyarrow() -> None:
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise InputError("--pack needs the package pyarrow; run `pip install pyarrow`") from error


def _paths_of(tables: dict[str, Path], root: str) -> list[str]:
    """Every file that a row names, once, those of a mixture beside each other."""
    paths: dict[str, None] = {}
    for subset, path in tables.items():
        columns = [layer.column for layer in LAYERS.values()]
        for column, cells in csv_tables.read_cells(path, columns).items():
            absolute = cells.index[cells.str.match(r"[/\\]")]
            for row in absolute[:1]:
                raise InputError(
                    f"{path}, row {row}, {column}: an absolute path; name a file inside the "
                    "corpus by a relative one, or it would not be found in a pack"
                )
        rows = csv_tables.read_table(path, subset, root).rows[[*LAYERS]]
        paths |= dict.fromkeys(name for row in rows.itertuples(index=False) for name in row)
    return [path for path in paths if path]


def _refuse_others(folder: Path, root: str) -> None:
    """A folder that holds something else, or another corpus."""
    names = [x.name for x in folder.iterdir() if x.suffix != PARTIAL_SUFFIX and x.name != ".lock"]
    if PACK_FILE in names:
        if (corpus := packs.read_facts(folder)["corpus"]) != root:
            raise InputError(f"{folder}: is a pack of {corpus}; name another folder, or remove it")
    elif names:
        raise InputError(f"{folder}: holds {min(names)}, and is no pack; name a new folder")


def _survey(root: str, paths: list[str], workers: int, skip_bad_rows: bool) -> list[Source]:
    """Size and time of each file; refuses what is not there, or leaves it out."""
    with closing(map_pieces(partial(_states, root), paths, workers)) as results:
        bar = partial(tqdm, total=len(paths), leave=False, delay=2, disable=None)
        states = list(bar(results, "listing", unit=" files"))
    found = [state for state in states if isinstance(state, Source)]
    _refuse([x for x in states if isinstance(x, str)], root, skip_bad_rows)
    return found


def _states(root: str, paths: Sequence[str]) -> list[Source | str]:
    return [_state(root, path) for path in paths]


def _state(root: str, path: str) -> Source | str:
    """A file, or what is wrong with it."""
    full = f"{root}/{path}"
    try:
        if kind := not_a_file(full):
            return f"{path}: is {kind}; name an audio file"
        size, mtime = packs.state_of(full)
        return Source(path, size, mtime) if size < MOST else f"{path}: is too large for a pack"
    except (OSError, ValueError) as error:
        return f"{path}: {why_unreadable(full, error)}"


def _refuse(faults: Sequence[str], root: str, skip_bad_rows: bool) -> None:
    if not faults:
        return
    if not skip_bad_rows:
        raise InputError(
            f"{root}: {len(faults)} files cannot be packed, as listed; fix them, or leave "
            "them out with --skip_bad_rows=True",
            faults,
        )
    logger.warning("\n".join([f"left out {len(faults)} files:", *faults]))


def _plan(sources: Sequence[Source]) -> list[Shard]:
    """Sources in groups of :data:`SHARD_BYTES`; the same ones give the same groups."""
    groups: list[list[Source]] = []
    size = SHARD_BYTES
    for source in sources:
        if size + source.size > SHARD_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(source)
        size += source.size
    return [Shard(f"data-{n:05}.arrow", _digest(group), group) for n, group in enumerate(groups)]


def _digest(sources: Sequence[object]) -> str:
    text = "\n".join(map(repr, sources))
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


def _is_up_to_date(folder: Path, root: str, shards: Sequence[Shard], copies: list[Path]) -> bool:
    """Whether a finished pack is of these sources and tables; says how it differs."""
    if not (folder / PACK_FILE).exists():
        return False
    facts = packs.read_facts(folder)
    same = [(x["name"], x["digest"]) for x in facts["shards"]] == [x[:2] for x in shards]
    sizes = {x["name"]: x["size"] for x in facts["shards"]}
    whole = all(_size(folder / name) == size for name, size in sizes.items())
    equal = all(_bytes(folder / path) == _bytes(Path(root, path)) for path in copies)
    if not same:
        _say_changes(folder, [source for shard in shards for source in shard.sources])
    elif facts["complete"] and not whole:
        logger.warning(f"{folder}: is damaged; what is missing is packed again")
    listed = facts["tables"] == [str(path) for path in copies]
    return facts["complete"] and same and whole and equal and listed and _has_index(folder)


def _has_index(folder: Path) -> bool:
    try:
        packs.Pack(str(folder))
    except InputError:
        return False
    return True


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def _bytes(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def _say_changes(folder: Path, sources: Sequence[Source]) -> None:
    try:
        index = np.load(folder / INDEX_FILE)
    except (OSError, ValueError, EOFError):
        return  # the first packing has not ended
    rows = [packs.INDEX_ROWS.index(name) for name in ("digest", "digest2", "size", "mtime")]
    known = {(a, b): state for a, b, *state in index[rows].T.tolist()}
    states = [known.pop(packs.digest_of_path(x.path), None) for x in sources]
    pairs = list(zip(sources, states, strict=True))
    new = [x.path for x, state in pairs if state is None]
    changed = [x.path for x, state in pairs if state and state != [x.size, x.mtime]]
    counts = f"changed files: {len(changed)}, new: {len(new)}, gone: {len(known)}"
    example = f", such as {(changed + new)[0]}" if changed or new else ""
    logger.warning(f"{folder}: since it was packed, {counts}{example}; this is packed again")


def _write(
    folder: Path,
    root: str,
    shards: Sequence[Shard],
    copies: Sequence[Path],
    workers: int,
    skip_bad_rows: bool,
) -> None:
    """Everything, or what is missing of it; the pack counts when its last file is there."""
    facts = {"corpus": root, "files": 0, "tables": [str(path) for path in copies], "shards": []}
    _write_facts(folder, facts, complete=False)
    _remove_stale(folder, {shard.name for shard in shards}, copies)
    for path in copies:
        with atomic_path(folder / path) as part:
            shutil.copyfile(Path(root, path), part)
    missing = [shard for shard in shards if index_rows(folder, shard, 0) is None]
    _check_space(folder, sum(source.size for shard in missing for source in shard.sources))
    work = partial(write_shard, root, folder, skip_bad_rows)
    faults = _map_shards(work, missing, workers, "packing")
    _refuse(faults, root, skip_bad_rows)
    parts = [_index_part(folder, shard, number) for number, shard in enumerate(shards)]
    facts["files"] = write_index(folder, parts)
    write_for_datasets(folder, shards, _digest([shard.digest for shard in shards]))
    sizes = [(folder / shard.name).stat().st_size for shard in shards]
    facts["shards"] = [
        {"name": shard.name, "size": size, "digest": shard.digest}
        for shard, size in zip(shards, sizes, strict=True)
    ]
    _write_facts(folder, facts, complete=True)


def _index_part(folder: Path, shard: Shard, number: int) -> np.ndarray:
    if (rows := index_rows(folder, shard, number)) is None:
        raise InputError(f"{folder / shard.name}: is damaged; remove it, and pack again")
    return rows


def _write_facts(folder: Path, facts: dict, complete: bool) -> None:
    write_json(folder / PACK_FILE, {"format": packs.FORMAT, "complete": complete} | facts)


def _remove_stale(folder: Path, names: Collection[str], copies: Sequence[Path]) -> None:
    """What a killed run left, and what an earlier one packed that is no longer there."""
    stale = [*folder.glob(f"**/*{PARTIAL_SUFFIX}"), *folder.glob("**/corpus_*_final.csv")]
    stale += [path for path in folder.glob("data-*.arrow") if path.name not in names]
    for path in {*stale, folder / SPEAKERS_FILE} - {folder / copy for copy in copies}:
        path.unlink(missing_ok=True)


def _check_space(folder: Path, needed: int) -> None:
    if needed > (free := shutil.disk_usage(folder).free):
        sizes = f"{needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free"
        raise InputError(f"{folder}: the pack takes {sizes}; make room, or name another folder")


def _map_shards(
    function: Callable[[Shard], list[str]], shards: Sequence[Shard], workers: int, what: str
) -> list[str]:
    """The faults of all shards; a worker takes one of them at a time."""
    total, faults = sum(len(shard.sources) for shard in shards), []
    with tqdm(total=total, desc=what, leave=False, delay=2, disable=None, unit=" files") as bar:
        for shard, found in zip(shards, _results(function, shards, workers), strict=True):
            bar.update(len(shard.sources))
            faults += found
    return faults


def _results(
    function: Callable[[Shard], list[str]], shards: Sequence[Shard], workers: int
) -> Iterator[list[str]]:
    workers = min(workers, len(shards))
    if workers <= 1:
        yield from map(function, shards)
        return
    with worker_pool(workers, "use fewer workers; the same command goes on") as pool:
        yield from pool.map(function, shards)


def _verify(folder: Path, shards: Sequence[Shard], workers: int) -> None:
    """Compares the sum of the samples of every file with that of its source."""
    faults = _map_shards(partial(_damaged, folder), shards, workers, "verifying")
    if faults:
        raise InputError(
            f"{folder}: {len(faults)} files are not as they were packed, as listed; remove their "
            "Arrow files and pack again",
            faults,
        )
    logger.info(f"{folder}: the samples of all files have the sum that they had")


def _damaged(folder: Path, shard: Shard) -> list[str]:
    faults = []
    for source in shard.sources:
        try:
            if packed := packs.find_packed(folder / source.path):  # else it was left out
                packed.checked()
        except ValueError as error:
            faults.append(f"{folder / shard.name}: {source.path}: {error}")
    return faults


def _description(folder: Path) -> str:
    pack = packs.Pack(os.path.abspath(folder))
    kept = int((pack.index[packs.INDEX_ROWS.index("rate")] == 0).sum())
    size = sum(path.stat().st_size for path in folder.glob("data-*.arrow"))
    shards = len(list(folder.glob("data-*.arrow")))
    text = f"{pack.index.shape[1]} files in {shards} Arrow files, {size / 1e9:.2f} GB"
    if kept:
        text += f"; {kept} are not 16 bit of one channel, and kept as they were"
    return f"{folder}: {text}. Use --data_folder={folder}"
