"""The Arrow files of a pack: streams of record batches, as ``datasets`` writes them."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import soundfile

from custom_modules import packs
from custom_modules.files import atomic_path
from custom_modules.manifest.checks import UNREADABLE, why_unreadable
from custom_modules.packs import INDEX_ROWS

if TYPE_CHECKING:
    import pyarrow as pa

#: So much is written at once.
BATCH_BYTES = 2**23
#: Arrow counts the samples, or bytes, of a list in 32 bits.
MOST = 2**31 - 2**10
#: How a stream of Arrow ends that is whole.
_END = b"\xff\xff\xff\xff\0\0\0\0"
_DIGEST = b"polsess_sources"  # the key of a shard's digest, in its schema
#: Column → its type, as Arrow and ``datasets`` name it.
_COLUMNS = {"path": "string", "sample_rate": "int32", "sum": "int64", "samples": "list"}
_COLUMNS |= {"file": "binary"}


class Source(NamedTuple):
    """A file to pack."""

    path: str  # relative to the corpus
    size: int
    mtime: int  # ns


class Shard(NamedTuple):
    """An Arrow file of the pack."""

    name: str
    digest: str  # of its sources
    sources: Sequence[Source]


class Content(NamedTuple):
    """What a file holds: samples ``[time]`` in 16 bit, or else the file's bytes."""

    rate: int
    samples: np.ndarray | None
    file: bytes | None

    @property
    def sum(self) -> int:
        values = np.frombuffer(self.file or b"", "u1") if self.samples is None else self.samples
        return int(values.sum(dtype=np.int64))


def write_shard(root: str, folder: Path, skip_bad_rows: bool, shard: Shard) -> list[str]:
    """Writes an Arrow file; returns what could not be read, and writes none if that counts."""
    import pyarrow as pa

    faults: list[str] = []
    try:
        with atomic_path(folder / shard.name) as part, open(part, "wb") as file:
            with pa.ipc.new_stream(file, _schema(shard.digest)) as writer:
                for batch in _batches(root, shard.sources, faults):
                    writer.write_batch(batch)
            if faults and not skip_bad_rows:
                raise _FaultsError
    except _FaultsError:
        pass
    return faults


class _FaultsError(Exception):
    pass


def _schema(digest: str) -> "pa.Schema":
    import pyarrow as pa

    fields = [(name, _type(kind)) for name, kind in _COLUMNS.items()]
    return pa.schema(fields, metadata={_DIGEST: digest.encode()})


def _type(kind: str) -> "pa.DataType":
    import pyarrow as pa

    return pa.list_(pa.int16()) if kind == "list" else getattr(pa, kind)()


def _batches(root: str, sources: Sequence[Source], faults: list[str]) -> Iterator["pa.RecordBatch"]:
    """Contents of all sources, some at once; appends to ``faults`` what cannot be read."""
    rows: dict[str, Content] = {}
    size = 0
    for source in sources:
        if rows and size + source.size > BATCH_BYTES:
            yield _batch(rows)
            rows, size = {}, 0
        try:
            rows[source.path] = read_content(f"{root}/{source.path}", source)
            size += source.size
        except UNREADABLE as error:
            faults.append(f"{source.path}: {why_unreadable(f'{root}/{source.path}', error)}")
    if rows:
        yield _batch(rows)


def read_content(path: str, source: Source) -> Content:
    """What a file holds; ValueError if it is no longer as it was."""
    with soundfile.SoundFile(path) as audio:
        rate, samples, file = audio.samplerate, None, None
        if audio.subtype == "PCM_16" and audio.channels == 1:
            if audio.frames > MOST:
                raise ValueError(f"a length of {audio.frames} samples")
            samples = audio.read(dtype="int16")
            if len(samples) != audio.frames:
                raise ValueError(f"ends after {len(samples)} of {audio.frames} samples")
    if samples is None:
        file = Path(path).read_bytes()
    if packs.state_of(path) != (source.size, source.mtime):
        raise ValueError("it changes while it is packed")
    return Content(rate, samples, file)


def _batch(rows: dict[str, Content]) -> "pa.RecordBatch":
    import pyarrow as pa

    contents = rows.values()
    none = np.zeros(0, np.int16)
    lists = [none if x.samples is None else x.samples for x in contents]
    offsets = np.cumsum([0, *map(len, lists)], dtype=np.int32)
    samples = pa.ListArray.from_arrays(
        pa.array(offsets),
        pa.array(np.concatenate(lists)),
        mask=pa.array([x.samples is None for x in contents]),
    )
    columns = [
        pa.array(list(rows), pa.string()),
        pa.array([x.rate for x in contents], pa.int32()),
        pa.array([x.sum for x in contents], pa.int64()),
        samples,
        pa.array([x.file for x in contents], pa.binary()),
    ]
    return pa.record_batch(columns, names=list(_COLUMNS))


def index_rows(folder: Path, shard: Shard, number: int) -> np.ndarray | None:
    """The part of the index of a shard, ``[rows, files]``; None if it is not there or damaged."""
    import pyarrow as pa

    states = {source.path: (source.size, source.mtime) for source in shard.sources}
    rows = []
    try:
        with pa.memory_map(str(folder / shard.name)) as file:
            content = file.read_buffer()
            if content[-len(_END) :].to_pybytes() != _END:
                return None
            stream = pa.ipc.open_stream(content)
            if (stream.schema.metadata or {}).get(_DIGEST) != shard.digest.encode():
                return None
            for batch in stream:
                for path, *values in _places(batch, content.address):
                    first, second = packs.digest_of_path(path)
                    rows.append((first, second, number, *values, *states[path]))
    except (OSError, ValueError, KeyError):  # Arrow's own errors are such
        return None
    return np.array(rows, "<i8").reshape(-1, len(INDEX_ROWS)).T


def _places(batch: "pa.RecordBatch", base: int) -> Iterator[tuple[str, int, int, int, int]]:
    """Of each row its path, first byte in the file, length, rate (0 of a file), and sum."""
    columns = {name: batch.column(name) for name in _COLUMNS}
    samples, files = columns["samples"], columns["file"]
    sample_bytes, file_bytes = samples.values.buffers()[1], files.buffers()[2]
    first_sample = sample_bytes.address - base if sample_bytes else 0
    first_byte = file_bytes.address - base if file_bytes else 0
    file_offsets = np.frombuffer(files.buffers()[1], "<i4", len(batch) + 1)
    spans = zip(*map(_spans, (samples.offsets.to_numpy(), file_offsets)), strict=True)
    known = (columns[name].to_pylist() for name in ("path", "sample_rate", "sum"))
    is_file = samples.is_null().to_pylist()
    for path, rate, total, (one, other), kept in zip(*known, spans, is_file, strict=True):
        if kept:
            yield path, first_byte + other[0], other[1], 0, total
        else:
            yield path, first_sample + 2 * one[0], one[1], rate, total


def _spans(offsets: np.ndarray) -> list[tuple[int, int]]:
    return list(zip(offsets[:-1].tolist(), np.diff(offsets).tolist(), strict=True))


def write_index(folder: Path, parts: Sequence[np.ndarray]) -> int:
    """The parts of all shards as one, sorted; returns how many files it has."""
    index = np.concatenate([np.zeros((len(INDEX_ROWS), 0), "<i8"), *parts], axis=1)
    with atomic_path(folder / packs.INDEX_FILE) as part, open(part, "wb") as file:
        np.save(file, np.ascontiguousarray(index[:, np.lexsort(index[1::-1])]))
    return index.shape[1]


def write_for_datasets(folder: Path, shards: Sequence[Shard], fingerprint: str) -> None:
    """What ``datasets.load_from_disk`` reads beside the Arrow files."""
    features = {name: {"dtype": kind, "_type": "Value"} for name, kind in _COLUMNS.items()}
    # The older name of its List, which newer versions know as well.
    sequence: dict = {"feature": {"dtype": "int16", "_type": "Value"}, "_type": "Sequence"}
    texts = {"citation": "", "description": "", "homepage": "", "license": ""}
    write_json(folder / "dataset_info.json", {"features": features | {"samples": sequence}} | texts)
    state: dict = {"_data_files": [{"filename": shard.name} for shard in shards]}
    state |= {"_fingerprint": fingerprint, "_format_columns": None, "_format_kwargs": {}}
    state |= {"_format_type": None, "_output_all_columns": False, "_split": None}
    write_json(folder / "state.json", state)


def write_json(path: Path, value: dict) -> None:
    """Writes a file of JSON, whole or not at all."""
    with atomic_path(path) as part:
        part.write_text(json.dumps(value, indent=1, ensure_ascii=False), "utf-8")
