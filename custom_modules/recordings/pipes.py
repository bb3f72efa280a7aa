"""What comes in by a pipe, separated while it comes, and goes out by another.

Start reading at :func:`separate_pipe`.
"""

import math
import struct
import sys
import time
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import numpy as np
import torch

from custom_modules import audio
from custom_modules.decoding import HIGHEST_RATE, LOWEST_RATE
from custom_modules.errors import InputError
from custom_modules.inference import PolSESSSeparation
from custom_modules.longform.live import LiveSeparation

#: Samples as they lie in a pipe → type, full scale, code and bits of a wav header.
FORMS = {"s16le": ("<i2", 2**15, 1, 16), "s32le": ("<i4", 2**31, 1, 32), "f32le": ("<f4", 1, 3, 32)}
_READ_BYTES = 1 << 16
_ENDLESS = 0xFFFFFFFF  # the length of a wav file that nobody knows yet
_UNKNOWN = 0x7FFF0000  # what others write then is at least that, or 0
_EXTENSIBLE = 0xFFFE
#: How files begin that people have, and that are no samples.
_OTHERS = (b"fLaC", b"OggS", b"ID3", b"\x1aE\xdf\xa3")


class PipeFormat(NamedTuple):
    """Of what comes in, and, with another number of channels, of what goes out."""

    rate: int  # Hz
    form: str = "s16le"
    channels: int = 1
    is_wav: bool = False
    size: int | None = None  # bytes of samples in a wav file, where it says so

    @property
    def header(self) -> bytes:
        """A wav file's, of unknown length; none of raw samples."""
        if not self.is_wav:
            return b""
        _, _, code, bits = FORMS[self.form]
        frame = self.channels * bits // 8
        sizes = (16, code, self.channels, self.rate, self.rate * frame, frame, bits)
        form = b"fmt " + struct.pack("<IHHIIHH", *sizes)
        return b"RIFF" + struct.pack("<I", _ENDLESS) + b"WAVE" + form + b"data\xff\xff\xff\xff"

    def encode(self, samples: np.ndarray) -> bytes:
        """``[time, channels]``, cut off at full scale."""
        dtype, scale, _, _ = FORMS[self.form]
        if scale > 1:
            samples = np.round(samples.astype("float64") * scale).clip(-scale, scale - 1)
        return samples.astype(dtype).tobytes()


def separate_pipe(
    model: PolSESSSeparation,
    source: BinaryIO,
    sink: BinaryIO,
    raw: PipeFormat,  # of what has no header
    chunk_seconds: float,
    ahead_seconds: float,
    context_seconds: float,
) -> None:
    """Reads samples or a wav file, and writes the sources as its channels, in the same form.

    Says the latency at the beginning, and how long computing took at the end, on
    standard error.
    """
    given, begun = _read_header(source, raw)
    model_rate, sources = model.hparams.sample_rate, model.hparams.num_spks
    seconds = (chunk_seconds, ahead_seconds, context_seconds)
    timed = _Timed(model)
    live = LiveSeparation(timed, model_rate, *seconds)
    print(
        f"latency {live.latency:g} s (chunk {chunk_seconds:g} s, look-ahead {ahead_seconds:g} s)"
        f" and computing; {sources} channels of {given.rate} Hz go out",
        file=sys.stderr,
        flush=True,
    )
    taken = given._replace(channels=sources)
    blocks = audio.resample_blocks(_read(source, given, begun), given.rate, model_rate)
    parts = live.stream(torch.from_numpy(block[0]) for block in blocks)
    waves = audio.resample_blocks((part.T.numpy() for part in parts), model_rate, given.rate)
    _write(sink, taken.header)
    for wave in waves:
        _write(sink, taken.encode(wave.T))
    heard = max(live.position, 1) / model_rate
    print(f"{heard:.1f} s separated in {timed.seconds:.1f} s", file=sys.stderr)


def _write(sink: BinaryIO, data: bytes) -> None:
    try:
        sink.write(data)
        sink.flush()
    except BrokenPipeError:  # who listened has gone
        raise
    except OSError as error:
        raise InputError(f"standard output: cannot be written ({error.strerror})") from error


class _Timed:
    """A model's estimate, and the seconds that it took in all."""

    def __init__(self, model: PolSESSSeparation) -> None:
        self.model, self.seconds = model, 0.0

    def __call__(self, mixture: torch.Tensor) -> torch.Tensor:
        start = time.perf_counter()
        estimates = self.model.estimate(mixture)
        self.seconds += time.perf_counter() - start
        return estimates


def _read(source: BinaryIO, given: PipeFormat, begun: bytes) -> Iterator[np.ndarray]:
    """Blocks of the channels' mean, float32 ``[1, time]``, as they come."""
    dtype, scale, _, bits = FORMS[given.form]
    frame, held, position = given.channels * bits // 8, b"", 0
    for block in _bytes(source, begun, given.size):
        held += block
        whole = len(held) // frame * frame
        samples = np.frombuffer(held[:whole], dtype).reshape(-1, given.channels)
        held = held[whole:]
        mixture = samples.mean(1, dtype="float64") / scale
        if not np.isfinite(mixture).all():
            second = position / given.rate
            raise InputError(f"standard input: a value that is no number after {second:.3f} s")
        position += len(mixture)
        if len(mixture):
            yield mixture.astype("float32")[None]


def _bytes(source: BinaryIO, begun: bytes, size: int | None) -> Iterator[bytes]:
    """Samples as they come; behind so many bytes of them may be other chunks."""
    read = getattr(source, "read1", source.read)
    left = math.inf if size is None else size
    yield begun
    while block := read(int(min(_READ_BYTES, left))):
        left -= len(block)
        yield block


def _read_header(source: BinaryIO, raw: PipeFormat) -> tuple[PipeFormat, bytes]:
    """The format of a stream, and what was read of its samples to know it."""
    begin = _take(source, 12)
    if begin.startswith(_OTHERS):
        raise InputError("standard input: takes wav or raw samples, and this is neither")
    if begin[:4] not in (b"RIFF", b"RF64") or begin[8:] != b"WAVE":
        return raw, begin
    given = None
    while len(head := _take(source, 8)) == 8:
        name, size = head[:4], int.from_bytes(head[4:], "little")
        if name == b"data" and given:
            return given._replace(size=size if 0 < size < _UNKNOWN else None), b""
        if size > 1 << 24:
            break
        content = _take(source, size + size % 2)
        if name == b"fmt ":
            given = _parse_format(content)
    raise InputError("standard input: a wav header without samples; is it cut off?")


def _parse_format(content: bytes) -> PipeFormat:
    if len(content) < 16:
        raise InputError("standard input: a damaged wav header")
    code, channels, rate, _, _, bits = struct.unpack("<HHIIHH", content[:16])
    if code == _EXTENSIBLE:
        code = int.from_bytes(content[24:26], "little")
    forms = {(code, bits): form for form, (_, _, code, bits) in FORMS.items()}
    if (code, bits) not in forms:
        known = ", ".join(FORMS)
        raise InputError(f"standard input: wav samples of format {code}, {bits} bits; use {known}")
    if not channels or not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise InputError(f"standard input: a wav header of {channels} channels at {rate} Hz")
    return PipeFormat(rate, forms[code, bits], channels, is_wav=True)


def _take(source: BinaryIO, count: int) -> bytes:
    """So many bytes, or what there is."""
    taken = b""
    while len(taken) < count and (more := source.read(count - len(taken))):
        taken += more
    return taken
