"""Reading and writing audio, and the few measures that mixing needs.

Signals are numpy arrays: what worker processes import needs no torch.
"""

import io
import math
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile as sf

from custom_modules.decoding import Decoder, reading
from custom_modules.errors import InputError
from custom_modules.files import atomic_path, not_a_file
from custom_modules.packs import find_packed

#: What is taken for a recording in a folder: what soundfile reads without being told more.
_FORMATS = {kind.lower() for kind in sf.available_formats()} - {"raw", "mat4", "mat5"}
_ALIASES = ["aif", "aifc", "bwf", "mp2", "oga", "opus", "snd", "sph", "wave"]
SUFFIXES = tuple(sorted(f".{name}" for name in {*_FORMATS, *_ALIASES}))
#: The published generator of PolSESS limits every signal at this magnitude.
LIMIT = 0.999
FULL_SCALE = 32768  # soundfile reads int16 samples as value / 32768
FRAME_SECONDS = 0.02
ACTIVITY_RANGE_DB = 40.0
READ_SECONDS = 10.0

#: Sample formats that a wav file keeps, in bytes.
WAV_BYTES = {
    **{"PCM_U8": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4},
    **{"ULAW": 1, "ALAW": 1, "FLOAT": 4, "DOUBLE": 8},
}
#: Where a wav file's four-byte sizes end.
_WAV_LIMIT = 2**32 - 2**16
#: What a wav file of one channel of 16 bit begins with, beside its sizes and rate.
_WAV_HEADER = 44
_WAV_FORM = b"WAVEfmt \x10\0\0\0\1\0\1\0"
_WAV_DATA = b"\2\0\x10\0data"
_STEP = np.float32(1 / FULL_SCALE)

#: Zero crossings of the filter on each side, and its stop band, as in resampy's
#: kaiser_best: aliases are 90 dB down.
_HALF_WIDTH = 48
_KAISER_BETA = 9.0
_ROLLOFF = 0.95


def find_recordings(folder: str | Path) -> tuple[list[Path], list[str]]:
    """All recordings in and below a folder, sorted; a line for each folder that cannot be listed.

    What is hidden is passed over. A linked folder is followed once, under its own name if
    it is below ``folder``.
    """
    paths: list[Path] = []
    problems: list[str] = []
    seen: set[str] = set()
    top = Path(os.path.realpath(folder))

    def note(error: OSError) -> None:
        problems.append(f"{error.filename}: cannot be listed ({error.strerror})")

    for here, folders, names in os.walk(folder, onerror=note, followlinks=True):
        real = os.path.realpath(here)
        own = top / Path(here).relative_to(folder)
        if real in seen or (Path(real) != own and _is_reached(Path(real), top)):
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if name[0] != ".")
        shown = (Path(here, name) for name in names if name[0] != ".")
        paths += [path for path in shown if path.suffix.lower() in SUFFIXES]
    return sorted(paths), problems


def _is_reached(path: Path, top: Path) -> bool:
    """Whether a walk from ``top`` comes by a real folder, which it does unless it is hidden."""
    return path.is_relative_to(top) and not any(
        part[0] == "." for part in path.relative_to(top).parts
    )


def open_audio(path: str | Path) -> Decoder:
    """Opens an audio file for reading, or names what is wrong with it."""
    return Decoder(path)


def read_blocks(audio: Decoder, seconds: float = READ_SECONDS) -> Iterator[np.ndarray]:
    """Blocks of an open file, float32 ``[channels, time]``; NaN and infinity raise."""
    size = max(1, round(seconds * audio.samplerate))
    while len(block := audio.read(size, "float32")):
        bad = np.flatnonzero(~np.isfinite(block).all(1))
        if len(bad):
            second = (audio.tell() - len(block) + bad[0]) / audio.samplerate
            raise InputError(f"{audio.name}: a value that is no number at {second:.3f} s")
        yield block.T


def read_header(path: str | Path) -> tuple[float, int]:
    """A recording's length in s and rate in Hz, from its header and last sample."""
    with open_audio(path) as audio:
        # A truncated file betrays itself at its end, and not in its header.
        audio.seek(max(audio.frames - 1, 0))
        if not len(audio.read(1)):
            raise InputError(f"{path}: is empty or cut off; fix or remove it")
        return audio.frames / audio.samplerate, audio.samplerate


def read_span(path: str | Path, start: int, length: int, rate: int) -> np.ndarray:
    """A stretch of a recording of any kind, mono, ``[length]``.

    ``start`` and ``length`` are samples at ``rate``, the result's. Zeros follow where
    the recording has ended.
    """
    with open_audio(path) as audio:
        own_rate = audio.samplerate
        audio.seek(round(start * own_rate / rate))
        samples = audio.read(-(-length * own_rate // rate))
    if not np.isfinite(samples).all():
        raise InputError(f"{path}: holds samples that are not finite; fix or remove it")
    return fit(resample(samples.mean(axis=1), own_rate, rate), length)


def read_layer(path: str | Path, start: int, frames: int) -> np.ndarray:
    """A part of a corpus file of one channel, in a pack or by itself, ``[frames]``.

    Sums and differences of PCM_16 stay exact in its float32.
    """
    with reading(path, "prepare again"):
        if packed := find_packed(path):
            steps = packed.samples(start, frames) if packed.is_samples else None
        else:
            if kind := not_a_file(path):
                raise ValueError(f"is {kind}")
            steps = _read_plain_wav(path, start, frames)
        if steps is None:
            source = io.BytesIO(packed.content()) if packed else path
            samples, _ = sf.read(source, frames=frames, start=start, dtype="float32")
        else:
            samples = steps.astype(np.float32)
            samples *= _STEP
    if samples.shape != (frames,):
        raise InputError(
            f"{path}: not as it was prepared, {samples.shape} samples from {start} on "
            f"instead of {frames}; restore it, or remove the manifests to prepare again"
        )
    return samples


def _read_plain_wav(path: str | Path, start: int, frames: int) -> np.ndarray | None:
    """int16 samples of a wav file with nothing but them; None of others, libsndfile's.

    That takes a tenth of libsndfile's time.
    """
    first, wanted = _WAV_HEADER + 2 * start, 2 * frames
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if os.fstat(descriptor).st_size < first + wanted:
            return None
        head = os.pread(descriptor, _WAV_HEADER + (0 if start else wanted), 0)
        body = os.pread(descriptor, wanted, first) if start else head[_WAV_HEADER:]
    finally:
        os.close(descriptor)
    is_plain = head[:4] == b"RIFF" and head[8:24] == _WAV_FORM and head[32:40] == _WAV_DATA
    last = _WAV_HEADER + int.from_bytes(head[40:_WAV_HEADER], "little")
    if not is_plain or len(body) < wanted or first + wanted > last:
        return None
    return np.frombuffer(body, "<i2")


@contextmanager
def create_wav(
    path: str | Path, rate: int, subtype: str, frames: int, comment: str = ""
) -> Iterator[Callable[[np.ndarray], None]]:
    """Yields what writes ``[time]`` to a mono wav file; OSError if the disk is full.

    ``frames`` is about its length, which decides how its sizes are stored.
    """
    written = 0

    def write(samples: np.ndarray) -> None:
        nonlocal written
        try:
            audio.write(np.ascontiguousarray(samples))
        except AssertionError:  # soundfile's, if the disk took less than it was given
            raise OSError("no space left on device") from None
        written += len(samples)

    # Of the formats that soundfile writes, RF64 alone is a wav of any size.
    kind = "RF64" if frames * WAV_BYTES[subtype] > _WAV_LIMIT else "WAV"
    with sf.SoundFile(path, "w", rate, 1, subtype, format=kind) as audio:
        if comment:
            audio.comment = comment
        yield write
    with sf.SoundFile(path) as audio:  # libsndfile does not report what it lacks
        if audio.frames != written:
            raise OSError(f"only {audio.frames} of {written} samples were written")


def write_pcm16(path: Path, samples: np.ndarray, rate: int) -> None:
    """Writes int16 samples ``[time]`` into a mono wav file, whole or not at all."""
    with atomic_path(path) as partial:
        sf.write(partial, samples, rate, subtype="PCM_16", format="WAV")


def resample(samples: np.ndarray, old_rate: int, new_rate: int) -> np.ndarray:
    """A signal ``[time]`` at another rate; its length is rounded up.

    >>> resample(np.zeros(441), 44100, 8000).shape
    (80,)
    """
    if old_rate == new_rate or not len(samples):
        return samples
    from scipy.signal import resample_poly  # its import takes 1.6 s, which few commands need

    common = math.gcd(old_rate, new_rate)
    return resample_poly(samples, new_rate // common, old_rate // common)


def resample_blocks(blocks: Iterable[np.ndarray], rate: int, new_rate: int) -> Iterator[np.ndarray]:
    """A stream of blocks ``[batch, time]`` at another rate, as if done at once.

    A stream of n samples becomes one of ``ceil(n * new_rate / rate)``.

    >>> blocks = np.array_split(np.zeros((1, 44100), "float32"), 9, axis=1)
    >>> np.concatenate(list(resample_blocks(blocks, 44100, 8000)), axis=1).shape
    (1, 8000)
    """
    if rate == new_rate:
        yield from blocks
        return
    from scipy.signal import firwin

    divisor = math.gcd(rate, new_rate)
    up, down = new_rate // divisor, rate // divisor
    slower = max(up, down)
    # A sinc below the lower of the two Nyquist frequencies.
    window = ("kaiser", _KAISER_BETA)
    taps = firwin(2 * _HALF_WIDTH * slower + 1, _ROLLOFF / slower, window=window)
    taps = taps.astype("float32")
    # Whole periods of both rates, so that blocks fit onto each other.
    context = down * math.ceil(_HALF_WIDTH * slower / up / down)
    held, past = None, 0  # the stream from `past` samples before what comes next
    for block in blocks:
        held = block if held is None else np.concatenate([held, block], axis=1)
        ready = (held.shape[1] - past - context) // down * down
        if ready <= 0:
            continue
        whole = _resample(held[:, : past + ready + context], up, down, taps)
        yield whole[:, past // down * up :][:, : ready // down * up]
        kept = min(past + ready, context)
        held, past = held[:, past + ready - kept :], kept
    if held is not None and held.shape[1] > past:
        yield _resample(held, up, down, taps)[:, past // down * up :]


def _resample(signal: np.ndarray, up: int, down: int, taps: np.ndarray) -> np.ndarray:
    from scipy.signal import resample_poly

    return resample_poly(signal, up, down, axis=1, window=taps).astype("float32")


def fit(samples: np.ndarray, length: int) -> np.ndarray:
    """Cuts or zero-pads at the end."""
    return np.pad(samples[:length], (0, max(0, length - len(samples))))


def rms(samples: np.ndarray) -> float:
    """Root of the mean square. Not by ``np.dot``: BLAS kernels differ in rounding."""
    return float(np.sqrt(np.mean(np.square(samples))))


def from_db(level: float) -> float:
    """A level in dB as an amplitude ratio."""
    return 10.0 ** (level / 20.0)


def limit(samples: np.ndarray) -> np.ndarray:
    """The hard limiter of the published script, at ±0.999."""
    return np.clip(samples, -LIMIT, LIMIT)


def active_frames(samples: np.ndarray, rate: int) -> np.ndarray:
    """Which frames of 20 ms are within 40 dB of the loudest, booleans ``[frames]``.

    A last incomplete frame is left out.

    >>> active_frames(np.repeat([1.0, 0.0, 0.5], 160), 8000)
    array([ True, False,  True])
    """
    size = max(1, round(FRAME_SECONDS * rate))
    frames = samples[: len(samples) // size * size].reshape(-1, size)
    power = np.mean(np.square(frames), axis=1)
    least = power.max(initial=0) * 10 ** (-ACTIVITY_RANGE_DB / 10)
    return (power > 0) & (power >= least)


def quantise(samples: np.ndarray) -> np.ndarray:
    """Samples within ±0.999 as int16."""
    return np.round(samples * FULL_SCALE).astype(np.int16)


def cancel(mix: np.ndarray, layers: Iterable[np.ndarray]) -> np.ndarray:
    """Adds layers ``[time]`` to a copy of a mix with their phase inverted.

    >>> cancel(np.float32([3, 4]), [np.float32([1, 1]), np.float32([1, 0])])
    array([1., 3.], dtype=float32)
    """
    mixture = mix.copy()
    for layer in layers:
        mixture -= layer
    return mixture
