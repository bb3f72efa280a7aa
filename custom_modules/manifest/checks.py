"""Looking at the audio of a row: the header of every file, or every sample.

Each function works on one row, or a few, and depends on nothing else, so that
worker processes can share the rows among them.
"""

import functools
import hashlib
import os
from collections import Counter
from contextlib import closing
from itertools import islice
from stat import S_ISDIR
from typing import NamedTuple

import numpy as np
import soundfile
from tqdm import tqdm

from custom_modules.audio import LIMIT
from custom_modules.layout import LAYERS
from custom_modules.processes import map_pieces

#: From the quickest to the most thorough.
LEVELS = ("none", "header", "full")

#: A speaker whose peak stays below (−80 dB of full scale) counts as silent.
SILENCE = 1e-4

# Bytes that stand for a mixture until two of them agree: in the middle of a
# recording even a few samples of noise are unlike any other.
_EXCERPT = 2048

# What soundfile raises for a file that is not there or is not audio.
_UNREADABLE = (soundfile.SoundFileError, OSError, TypeError, ValueError)

# Step of one quantisation level; other subtypes are float32 or finer, or
# lossy, and then the sum cannot hold and should be complained about.
_STEP = {"PCM_S8": 2.0**-7, "PCM_U8": 2.0**-7, "PCM_16": 2.0**-15}
_FINE_STEP = 2.0**-23


class Facts(NamedTuple):
    """What was seen of one row.

    Arguments
    ---------
    sample_rate : int
        Of the mixture, in Hz.
    frames : int
        Length of the mixture in samples.
    device, inode, size, excerpt : int
        What tells the mixture's file from others: its place on the disk, its
        length in bytes, and a digest of a few bytes in its middle.
    limited : int
        Samples at which a limiter explains that the mixture is not the sum of
        its layers. Only ``"full"`` counts them.
    problems : tuple of (str, str)
        File and reason for everything that is wrong.
    """

    sample_rate: int = 0
    frames: int = 0
    device: int = 0
    inode: int = 0
    size: int = 0
    excerpt: int = 0
    limited: int = 0
    problems: tuple = ()


def check_row(root, files, level):
    """Checks the files of one mixture.

    Arguments
    ---------
    root : str
        The corpus folder.
    files : tuple of str
        Paths relative to ``root``, in the order of
        :data:`~custom_modules.layout.LAYERS`; ``""`` where the row
        has no such layer.
    level : str
        ``"none"``: only the mixture's header, as its length and rate must be
        known. ``"header"``: every file is readable, has one channel and is as
        long as the mixture. ``"full"``: also, every sample is finite, no
        speaker is silent, and the mixture is the sum of its layers.

    Returns
    -------
    Facts
    """
    if level == "none":
        files = files[:1]
    facts = _check_headers(root, files)
    if level == "full" and not facts.problems:
        limited, problems = check_samples(root, files)
        facts = facts._replace(limited=limited, problems=tuple(problems))
    return facts


def _check_headers(root, files):
    problems = _named_twice(files)
    forms = [_read_form(root, file, problems) if file else None for file in files]
    if forms[0] is None:
        return Facts(problems=tuple(problems))
    for file, form in zip(files, forms, strict=True):
        if form not in (None, forms[0]):
            problems.append((file, _unlike(*form, *forms[0])))
    identity = _identify(f"{root}/{files[0]}")
    return Facts(*forms[0], *identity, problems=tuple(problems))


def _named_twice(files):
    seen, problems = {""}, []
    for file in files:
        if file in seen and file:
            problems.append((file, "named twice in this row; each layer needs its own"))
        seen.add(file)
    return problems


def _read_form(root, file, problems):
    """Sample rate and length, or None; the faults are added to ``problems``."""
    path = f"{root}/{file}"
    try:
        with soundfile.SoundFile(path) as audio:
            rate, channels, frames = audio.samplerate, audio.channels, audio.frames
    except _UNREADABLE as error:
        problems.append((file, _why_unreadable(path, error)))
        return None
    if channels != 1:
        problems.append((file, f"{channels} channels; convert it to one"))
    if not frames:
        problems.append((file, "has no samples; make it anew"))
    return rate, frames


def _unlike(rate, frames, mix_rate, mix_frames):
    if rate != mix_rate:
        return f"{rate} Hz, its mixture {mix_rate} Hz; resample it"
    return f"{frames} samples, its mixture {mix_frames}; make the row's files anew"


def _identify(path):
    """Tells a file from others by few bytes: (device, inode, size, excerpt)."""
    with open(path, "rb", buffering=0) as file:
        stat = os.fstat(file.fileno())
        file.seek(stat.st_size // 2)
        digest = hashlib.blake2b(file.read(_EXCERPT), digest_size=8).digest()
    return stat.st_dev, stat.st_ino, stat.st_size, int.from_bytes(digest, "big")


def _why_unreadable(path, error):
    try:
        stat = os.stat(path)
    except FileNotFoundError:
        link = "is a link to nowhere" if os.path.islink(path) else "no such file"
        return f"{link}; restore it or remove the row"
    except OSError as denied:
        return f"cannot be reached ({denied.strerror}); check its folder"
    if not os.access(path, os.R_OK):
        return "may not be read; check its permissions"
    if S_ISDIR(stat.st_mode):
        return "is a folder; name an audio file"
    if not stat.st_size:
        return "is empty; make it anew"
    reason = " ".join(str(error).rpartition(": ")[2].split()).rstrip(".")
    return f"is not readable audio ({reason}); make it anew"


def check_samples(root, files):
    """Compares a mixture with the sum of its layers.

    Arguments
    ---------
    root : str
        The corpus folder.
    files : tuple of str
        As in :func:`check_row`; all are readable and of one length.

    Returns
    -------
    limited : int
        Samples that differ from the sum because a limiter was at work: the
        mixture, or the two speakers together, reach ±0.999.
    problems : list of (str, str)
        File and reason.

    Source: the PolSESS generator of Kleć, Szklanny, Wieczorkowska 2024, for
    where it limits.
    """
    signals, tolerance, problems = {}, 0.0, []
    for layer, file in zip(LAYERS, files, strict=False):
        if not file:
            continue
        try:
            signals[layer], step = _read(f"{root}/{file}")
        except _UNREADABLE as error:
            problems.append((file, _why_unreadable(f"{root}/{file}", error)))
            continue
        # Rounding is off by half a step, but not all writers round: soundfile
        # cuts floats off, each layer in the same direction.
        tolerance += step
        reason = _fault_of(layer, signals[layer])
        if reason:
            problems.append((file, reason))
    if problems:
        return 0, problems
    limited, worst = compare_with_sum(signals, tolerance)
    if worst:
        reason = f"differs from the sum of its layers by {worst:.2g}; make it anew"
        problems.append((files[0], reason))
    return limited, problems


def _read(path):
    with soundfile.SoundFile(path) as audio:
        samples = audio.read(dtype="float64")
        if len(samples) < audio.frames:
            raise ValueError(f"ends after {len(samples)} of {audio.frames} samples")
        return samples, _STEP.get(audio.subtype, _FINE_STEP)


def _fault_of(layer, samples):
    if not np.isfinite(samples).all():
        return "has NaN or infinite samples; make it anew"
    if layer in ("s1", "s2") and np.abs(samples).max() < SILENCE:
        return "the speaker is silent; choose another segment"
    return None


def compare_with_sum(signals, tolerance):
    """How a mixture differs from the sum of its layers.

    Arguments
    ---------
    signals : dict of str to numpy.ndarray
        ``mix`` and its layers, each ``[time]``, full scale being 1.
    tolerance : float
        Differences up to this are quantisation.

    Returns
    -------
    limited : int
        Samples with a larger difference, explained by a limiter.
    worst : float
        The largest difference that nothing explains, or 0.

    Example
    -------
    >>> import numpy as np
    >>> half = np.full(3, 0.5)
    >>> compare_with_sum({"mix": 2 * half, "s1": half, "s2": half}, 1e-4)
    (0, 0.0)
    >>> compare_with_sum({"mix": half, "s1": half, "s2": half / 2}, 1e-4)
    (0, 0.25)
    """
    mix = signals["mix"]
    layers = [signal for name, signal in signals.items() if name != "mix"]
    difference = np.abs(mix - np.sum(layers, axis=0))
    loudest = np.maximum(np.abs(mix), np.abs(signals["s1"] + signals["s2"]))
    differs = difference > tolerance
    excused = differs & (loudest >= LIMIT - tolerance)
    worst = difference[differs & ~excused].max(initial=0.0)
    return int(excused.sum()), float(worst)


def check_rows(root, level, rows):
    """:func:`check_row` for a few rows, as one piece of work for a process."""
    return [check_row(root, files, level) for files in rows]


# A progress bar for less than this is only flicker.
_PATIENCE_SECONDS = 2


def survey_audio(tables, root, check, workers):
    """Looks at the audio of every row.

    Arguments
    ---------
    tables : list of Table
        Changed in place: their rows get the columns of
        :class:`~custom_modules.manifest.checks.Facts`, their problems grow.
    root : str
        The corpus folder.
    check : str
        One of :data:`~custom_modules.manifest.checks.LEVELS`.
    workers : int
        Number of processes.

    Returns
    -------
    int
        The corpus' sample rate in Hz: that of most mixtures.
    """
    files = [files for table in tables for files in _layer_files(table.rows)]
    work = functools.partial(check_rows, root, check)
    bar = functools.partial(
        tqdm,
        total=len(files),
        unit=" rows",
        desc="checking",
        delay=_PATIENCE_SECONDS,
        leave=False,
        disable=None,  # not into a log file
    )
    # Closing ends the workers, also on Ctrl-C.
    with closing(map_pieces(work, files, workers)) as facts, bar(facts) as shown:
        facts = iter(shown)
        for table in tables:
            _take_in(table, list(islice(facts, len(table.rows))))
    return _agree_on_rate(tables)


def _layer_files(rows):
    """The files of each row, as ``check_row`` takes them."""
    return zip(*(rows[layer].tolist() for layer in LAYERS), strict=True)


def _take_in(table, facts):
    for row, fact in zip(table.rows.index, facts, strict=True):
        for file, reason in fact.problems:
            table.report(row, file, reason)
    for name, values in zip(Facts._fields, zip(*facts, strict=True), strict=True):
        if name != "problems":
            table.rows[name] = values


def _agree_on_rate(tables):
    """The commonest rate; rows of another one become bad ones."""
    rates = Counter()
    for table in tables:
        rates.update(table.rows["sample_rate"].tolist())
    del rates[0]  # of mixtures that cannot be read
    majority = max(rates, key=rates.get, default=0)
    for table in tables:
        others = table.rows[~table.rows["sample_rate"].isin([0, majority])]
        cells = zip(others.index, others["mix"], others["sample_rate"], strict=True)
        for row, file, rate in cells:
            table.report(row, file, f"{rate} Hz, the corpus {majority} Hz; resample it")
    return majority
