"""Looking at the audio of a row: the header of every file, or every sample."""

import hashlib
import io
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import count, takewhile
from typing import NamedTuple

import numpy as np
import pandas as pd
import soundfile
from tqdm import tqdm

from custom_modules import packs
from custom_modules.audio import LIMIT
from custom_modules.files import not_a_file
from custom_modules.layout import LAYERS, MOST_SECONDS, RATES
from custom_modules.manifest.csv_tables import Problem, Table
from custom_modules.processes import map_pieces

#: From the quickest to the most thorough. ``none`` reads only the mixture's header, as
#: its length and rate must be known; ``header``: every file is readable, has one
#: channel and is as long as the mixture; ``full``: also, every sample is finite, no
#: speaker is silent, and the mixture is the sum of its layers.
LEVELS = ("none", "header", "full")

#: A speaker whose peak stays below (−80 dB of full scale) counts as silent.
SILENCE = 1e-4

# Bytes that stand for a mixture until two of them agree: no two noises are alike.
_EXCERPT = 2048
_BLOCK = 2**20  # samples

#: What soundfile raises for a file that is not there or is not audio.
UNREADABLE = (soundfile.SoundFileError, OSError, TypeError, ValueError)

# Step of one quantisation level; other subtypes are float32 or finer, or
# lossy, and then the sum cannot hold and should be complained about.
_STEP = {"PCM_S8": 2.0**-7, "PCM_U8": 2.0**-7, "PCM_16": 2.0**-15}
_FINE_STEP = 2.0**-23

#: A file and what is wrong with it.
Fault = tuple[str, str]


class Facts(NamedTuple):
    """What was seen of one row."""

    sample_rate: int = 0  # of the mixture, in Hz
    frames: int = 0  # of the mixture
    # What tells the mixture's file from others: its place on the disk, its length …
    device: int = 0
    inode: int = 0
    size: int = 0
    excerpt: int = 0  # … and a digest of a few bytes in its middle
    #: Samples (of a full check) at which a limiter explains a difference from the sum.
    limited: int = 0
    problems: tuple[Fault, ...] = ()


def survey_audio(
    tables: Sequence[Table], root: str, level: str, workers: int, rate: int = 0
) -> tuple[list[Table], int]:
    """Tables whose rows have the columns of :class:`Facts`, with what is wrong.

    Second, the corpus' sample rate in Hz: by default, that of most mixtures.
    """
    rows = pd.concat({table.subset: table.rows[[*LAYERS]] for table in tables})
    files = list(rows.itertuples(index=False, name=None))
    work = partial(_check_rows, root, level)
    # Closing ends the workers, also on Ctrl-C.
    with closing(map_pieces(work, files, workers)) as results:
        # A bar for less than two seconds is flicker, and a log file wants none.
        bar = partial(tqdm, total=len(files), leave=False, delay=2, disable=None)
        facts = list(bar(results, "checking", unit=" rows"))
    rates = Counter(row.sample_rate for row in facts if row.sample_rate)
    rate = rate or max(rates, key=rates.__getitem__, default=0)
    seen = pd.DataFrame(facts, rows.index)
    return [_surveyed(table, seen.loc[table.subset], rate) for table in tables], rate


def _check_rows(root: str, level: str, rows: Sequence[tuple[str, ...]]) -> list[Facts]:
    return [check_row(root, files, level) for files in rows]


def _surveyed(table: Table, seen: pd.DataFrame, rate: int) -> Table:
    """The table with what was seen; rows of another rate are bad ones."""
    rows = table.rows.join(seen)
    found = rows.pop("problems").items()
    problems = [Problem(row, *fault) for row, faults in found for fault in faults]
    others = rows.loc[~rows["sample_rate"].isin([0, rate]), ["mix", "sample_rate"]]
    problems += [
        Problem(row, file, f"{other} Hz, the corpus {rate} Hz; resample it")
        for row, file, other in others.itertuples(name=None)
    ]
    return replace(table, rows=rows, problems=(*table.problems, *problems))


def check_row(root: str, files: Sequence[str], level: str) -> Facts:
    """Checks a mixture's files, in the order of LAYERS; ``""`` for one it has not."""
    if level == "none":
        files = files[:1]
    facts = _check_headers(root, files)
    if level == "full" and not facts.problems:
        limited, problems = _check_samples(root, files)
        facts = facts._replace(limited=limited, problems=tuple(problems))
    return facts


def _check_headers(root: str, files: Sequence[str]) -> Facts:
    problems = [
        (file, "named twice in this row; each layer needs its own")
        for place, file in enumerate(files)
        if file and file in files[:place]
    ]
    forms = {}
    for file in filter(None, files):
        try:
            rate, channels, frames = _header(f"{root}/{file}")
        except UNREADABLE as error:
            problems.append((file, why_unreadable(f"{root}/{file}", error)))
            continue
        forms[file] = rate, frames
        if channels != 1:
            problems.append((file, f"{channels} channels; convert it to one"))
        if not frames:
            problems.append((file, "has no samples; make it again"))
    if files[0] not in forms:
        return Facts(problems=tuple(problems))
    rate, frames = forms[files[0]]
    for file, (its_rate, its_frames) in forms.items():
        if its_rate != rate:
            reason = f"{its_rate} Hz, its mixture {rate} Hz; resample it"
            problems.append((file, reason))
        elif its_frames != frames:
            reason = f"{its_frames} samples, its mixture {frames}"
            problems.append((file, f"{reason}; make the row's files again"))
    identity = _identify(f"{root}/{files[0]}")
    return Facts(rate, frames, *identity, problems=tuple(problems))


def _header(path: str) -> tuple[int, int, int]:
    """Rate, channels and frames; a pipe would be waited for, and is not opened."""
    if packed := packs.find_packed(path):
        if packed.is_samples:
            return packed.rate, 1, packed.length
    elif kind := not_a_file(path):
        raise ValueError(f"is {kind}")
    with soundfile.SoundFile(io.BytesIO(packed.content()) if packed else path) as audio:
        if not RATES[0] <= audio.samplerate <= RATES[1]:
            raise ValueError(f"a rate of {audio.samplerate} Hz")
        if audio.frames > MOST_SECONDS * audio.samplerate:
            raise ValueError(f"a length of {audio.frames} samples")
        return audio.samplerate, audio.channels, audio.frames


def _identify(path: str) -> tuple[int, int, int, int]:
    """Tells a file from others by few bytes: device, inode, size, excerpt."""
    if packed := packs.find_packed(path):
        size = packed.length * (2 if packed.is_samples else 1)
        excerpt = packed.pack.read(packed.shard, packed.start + size // 2, min(_EXCERPT, size // 2))
        return 0, packed.row, size, _number(excerpt)
    with open(path, "rb", buffering=0) as file:
        stat = os.fstat(file.fileno())
        file.seek(stat.st_size // 2)
        return stat.st_dev, stat.st_ino, stat.st_size, _number(file.read(_EXCERPT))


def _number(excerpt: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(excerpt, digest_size=8).digest(), "big")


def why_unreadable(path: str, error: Exception) -> str:
    """What is wrong with a file that could not be read, and the remedy."""
    if packs.find_packed(path):
        return f"{error}; {packs.AGAIN}"
    try:
        if kind := not_a_file(path):
            return f"is {kind}; name an audio file"
        size = os.path.getsize(path)
        open(path, "rb").close()
    except FileNotFoundError:
        link = "is a link to nowhere" if os.path.islink(path) else "no such file"
        return f"{link}; restore it or remove the row"
    except OSError as denied:
        return f"may not be read ({denied.strerror}); check its permissions"
    if not size:
        return "is empty; make it again"
    reason = " ".join(str(error).rpartition(": ")[2].split()).rstrip(".")
    return f"is not readable audio ({reason}); make it again"


def _check_samples(root: str, files: Sequence[str]) -> tuple[int, list[Fault]]:
    """In how many samples a limiter was at work, and faults; of files of one length."""
    signals, tolerance = {}, 0.0
    problems: list[Fault] = []
    for layer, file in zip(LAYERS, files, strict=True):
        if not file:
            continue
        try:
            signals[layer], step = _read(f"{root}/{file}")
        except UNREADABLE as error:
            problems.append((file, why_unreadable(f"{root}/{file}", error)))
            continue
        # Rounding is off by half a step, but not all writers round: soundfile
        # cuts floats off, each layer in the same direction.
        tolerance += step
        if not np.isfinite(signals[layer]).all():
            problems.append((file, "has NaN or infinite samples; make it again"))
        elif layer in ("s1", "s2") and np.abs(signals[layer]).max() < SILENCE:
            problems.append((file, "the speaker is silent; choose another segment"))
    if problems:
        return 0, problems
    limited, worst = compare_with_sum(signals, tolerance)
    if worst:
        reason = f"differs from the sum of its layers by {worst:.2g}; make it again"
        problems = [(files[0], reason)]
    return limited, problems


def _read(path: str) -> tuple[np.ndarray, float]:
    """Samples, and the step of their quantisation; of a pack, their sum is compared, too."""
    if packed := packs.find_packed(path):
        packed.checked()
        if packed.is_samples:
            return packed.samples() * _STEP["PCM_16"], _STEP["PCM_16"]
    with soundfile.SoundFile(io.BytesIO(packed.content()) if packed else path) as audio:
        # Block by block: a header may claim more than memory holds.
        blocks = (audio.read(_BLOCK, dtype="float64") for _ in count())
        samples = np.concatenate([*takewhile(len, blocks), np.zeros(0)])
        if len(samples) != audio.frames:
            raise ValueError(f"ends after {len(samples)} of {audio.frames} samples")
        return samples, _STEP.get(audio.subtype, _FINE_STEP)


def compare_with_sum(signals: Mapping[str, np.ndarray], tolerance: float) -> tuple[int, float]:
    """How ``mix`` differs from the sum of its layers, each ``[time]``.

    Differences up to ``tolerance`` are quantisation. Returns how many larger ones a
    limiter explains, as the mixture or the two speakers together reach ±0.999 (the
    generator of Kleć, Szklanny, Wieczorkowska 2024 limits both), and the largest one
    that nothing explains, or 0.
    """
    mix = signals["mix"]
    layers = [signal for name, signal in signals.items() if name != "mix"]
    difference = np.abs(mix - np.sum(layers, axis=0))
    loudest = np.maximum(np.abs(mix), np.abs(signals["s1"] + signals["s2"]))
    differs = difference > tolerance
    excused = differs & (loudest >= LIMIT - tolerance)
    worst = difference[differs & ~excused].max(initial=0.0)
    return int(excused.sum()), float(worst)
