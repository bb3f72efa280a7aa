"""Separating recordings: which files, into which, and one of them.

Start reading at :func:`separate_recording`.
"""

import glob
import os
import re
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import soundfile as sf
import torch

from custom_modules.errors import InputError
from custom_modules.files import PARTIAL_SUFFIX, atomic_path
from custom_modules.inference import open_audio, read_blocks
from custom_modules.longform import resample_blocks

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
CHANNELS = ("mix", "each", "left", "right")
#: Where a wav file's four-byte sizes end; beyond, the format is RF64.
_WAV_LIMIT = 2**32 - 2**16


@dataclass
class Recording:
    """A file to separate.

    Arguments
    ---------
    path : pathlib.Path
    stem : pathlib.Path
        Of its outputs, to which ``_s1.wav`` and the like are appended.
    """

    path: Path
    stem: Path

    def outputs(self, sources, channels=None):
        """The files to write, by channel and source.

        Arguments
        ---------
        sources : int
        channels : int
            If each channel is separated on its own, how many there are.

        Returns
        -------
        list of pathlib.Path
        """
        parts = [""] if channels is None else [f"_ch{c + 1}" for c in range(channels)]
        return [
            self.stem.with_name(f"{self.stem.name}{part}_s{source + 1}.wav")
            for part in parts
            for source in range(sources)
        ]


def find_recordings(inputs, folder):
    """Lists the files to separate, and where each goes.

    Arguments
    ---------
    inputs : list of str
        Files, folders, which are searched through, and patterns.
    folder : str or pathlib.Path
        For the outputs. What lies in a folder of an input folder goes into a folder
        of that name. Names that would collide keep their suffix.

    Returns
    -------
    list of Recording
        Sorted, each file once.

    Raises
    ------
    InputError
        If an input is no file, or nothing is found in it; or names collide.

    Example
    -------
    >>> root = getfixture("tmp_path")
    >>> for name in ("a.wav", "a.mp3", "b.flac", "notes.txt"):
    ...     (root / name).touch()
    >>> [r.stem.name for r in find_recordings([str(root)], "out")]
    ['a.mp3', 'a.wav', 'b']
    """
    found = {}
    for item in inputs:
        for path, base in _expand(item):
            found.setdefault(path.resolve(), (path, path.relative_to(base)))
    stems = {}
    for path, name in sorted(found.values(), key=lambda pair: pair[1]):
        stems.setdefault(name.with_suffix(""), []).append((path, name))
    recordings = []
    for stem, same in stems.items():
        names = [name for _, name in same] if len(same) > 1 else [stem]
        if len(set(names)) < len(names):
            raise InputError(
                f"{same[0][0]} and {same[1][0]}: both would be written as {stem}; "
                "separate them into different folders"
            )
        recordings += [
            Recording(path, Path(folder) / name)
            for (path, _), name in zip(same, names, strict=True)
        ]
    return recordings


def _expand(item):
    """Files of an input, each with the folder that its name is relative to."""
    path = Path(item)
    if path.is_dir():
        files = [p for p in sorted(path.rglob("*")) if _is_audio(p)]
        found = [(p, path) for p in files]
    elif path.exists():
        found = [(path, path.parent)]
    else:
        files = [Path(p) for p in sorted(glob.glob(item, recursive=True))]
        found = [(p, p.parent) for p in files if _is_audio(p)]
        if not found and not glob.has_magic(item):
            raise InputError(f"{item}: no such file or folder")
    if not found:
        raise InputError(f"{item}: no {', '.join(SUFFIXES)} in it")
    return found


def _is_audio(path):
    return path.suffix.lower() in SUFFIXES and path.is_file()


def shard(recordings, index, count):
    """Every ``count``-th recording, for one of several processes.

    Arguments
    ---------
    recordings : list
    index : int
        From 0.
    count : int

    Returns
    -------
    list
    """
    return recordings[index::count]


def is_finished(recording, sources, channels):
    """Whether all outputs of a recording are there, and newer than it.

    Arguments
    ---------
    recording : Recording
    sources : int
    channels : str
        One of :data:`CHANNELS`.

    Returns
    -------
    bool
    """
    count = None
    if channels == "each":
        with open_audio(recording.path) as audio:
            count = audio.channels
    outputs = recording.outputs(sources, count)
    changed = recording.path.stat().st_mtime
    return all(p.exists() and p.stat().st_mtime >= changed for p in outputs)


def separate_recording(
    model, recording, channels="mix", normalize="mixture", tick=None
):
    """Separates a file into wav files of its length, rate and subtype, as streams.

    Arguments
    ---------
    model : custom_modules.inference.PolSESSSeparation
    recording : Recording
    channels : str
        ``"mix"`` averages channels, ``"left"`` and ``"right"`` take one, ``"each"``
        separates each on its own into ``_ch1_s1`` and so on.
    normalize : str
        As for ``PolSESSSeparation.separate_file``.
    tick : callable
        Called with the number of samples that were read since the last call.

    Returns
    -------
    outputs : list of pathlib.Path
    notes : list of str
        What the user should know of them.

    Raises
    ------
    InputError
        If the file cannot be read, or an output cannot be written. Nothing is
        left of it then.
    """
    with open_audio(recording.path) as audio:
        reader = _Reader(audio, channels, tick)
        count = audio.channels if channels == "each" else None
        outputs = recording.outputs(model.hparams.num_spks, count)
        _remove_partial(outputs)
        subtype = audio.subtype if _fits_wav(audio.subtype) else "PCM_16"
        with ExitStack() as stack:
            partial = [stack.enter_context(atomic_path(path)) for path in outputs]
            peaks, clipped = _separate_into(model, reader, partial, subtype, normalize)
            if normalize == "peak":
                for path, peak in zip(partial, peaks, strict=True):
                    _scale_file(path, 1 / peak if peak else 1, subtype)
        return outputs, _notes(audio, clipped)


def _notes(audio, clipped):
    """What was unusual about a file."""
    notes = []
    # libsndfile reads what there is of a file that was cut short, and logs it.
    if re.search(r"^data : \d+ \(should be \d+\)", audio.extra_info, re.MULTILINE):
        notes.append("shorter than its header says; what there is was separated")
    if clipped:
        notes.append(
            f"{clipped} samples of its sources are beyond full scale and were cut; "
            "--normalize peak avoids it"
        )
    return notes


class _Reader:
    """Blocks of the wanted channels; counts what was read."""

    def __init__(self, audio, channels, tick):
        self.audio, self.channels, self.tick = audio, channels, tick
        self.frames = 0
        if channels == "right" and audio.channels < 2:
            raise InputError(f"{audio.name}: has no right channel; it is mono")

    def __iter__(self):
        for block in read_blocks(self.audio):
            self.frames += block.shape[1]
            yield self._choose(block)
            if self.tick:
                self.tick(block.shape[1])
        if not self.frames:
            raise InputError(f"{self.audio.name}: holds no samples")

    def _choose(self, block):
        if self.channels == "mix":
            return block.mean(0, keepdim=True)
        if self.channels == "each":
            return block
        row = 0 if self.channels == "left" else 1
        return block[row : row + 1]


def _separate_into(model, reader, paths, subtype, normalize):
    """Writes the sources; returns their peaks and how many samples were clipped."""
    rate, model_rate = reader.audio.samplerate, model.hparams.sample_rate
    mixtures = resample_blocks(reader, rate, model_rate)
    # Signals and sources become the rows of one stream of many signals.
    sources = (
        part.transpose(1, 2).flatten(0, 1) for part in model.stream(mixtures, normalize)
    )
    written, clipped, peaks = 0, 0, torch.zeros(len(paths))
    # A second pass scales to the peak: what is written first must not be cut.
    subtype = "FLOAT" if normalize == "peak" else subtype
    with ExitStack() as stack:
        files = [
            stack.enter_context(_open_wav(path, rate, subtype, reader.audio.frames))
            for path in paths
        ]
        for part in resample_blocks(sources, model_rate, rate):
            part = part[:, : reader.frames - written]  # resampling rounds up
            written += part.shape[1]
            if part.shape[1]:
                peaks = torch.maximum(peaks, part.abs().amax(1))
            if subtype not in ("FLOAT", "DOUBLE"):
                clipped += int((part.abs() > 1).sum())
            for file, samples in zip(files, part, strict=True):
                _write(file, samples)
    for path in paths:
        _check_length(path, reader.frames)
    return peaks.tolist(), clipped


def _open_wav(path, rate, subtype, frames):
    # Of the formats that soundfile writes, RF64 alone is a wav of any size.
    size = frames * 8  # bytes of a sample, at most
    return sf.SoundFile(
        path, "w", rate, 1, subtype, format="RF64" if size > _WAV_LIMIT else "WAV"
    )


def _write(file, samples):
    try:
        file.write(samples.contiguous().numpy())
    except AssertionError:  # soundfile's, if the disk took less than it was given
        raise OSError("no space left on device") from None


def _check_length(path, frames):
    """Closing a file flushes it, which libsndfile does not report on."""
    with sf.SoundFile(path) as file:
        if file.frames != frames:
            raise OSError(f"only {file.frames} of {frames} samples were written")


def _scale_file(path, gain, subtype):
    """Replaces a file by itself at another level."""
    scaled = path.with_name(f"{path.name}{PARTIAL_SUFFIX}")
    try:
        with sf.SoundFile(path) as source:
            frames = source.frames
            with _open_wav(scaled, source.samplerate, subtype, frames) as target:
                for block in read_blocks(source):
                    _write(target, block[0] * gain)
        _check_length(scaled, frames)
        os.replace(scaled, path)
    finally:
        scaled.unlink(missing_ok=True)


def _fits_wav(subtype):
    return sf.check_format("WAV", subtype) and subtype in (
        *("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"),
        *("ULAW", "ALAW"),
    )


def _remove_partial(outputs):
    """What a killed process left behind."""
    for path in outputs:
        pattern = f"{glob.escape(path.name)}.*{PARTIAL_SUFFIX}"
        for partial in path.parent.glob(pattern):
            partial.unlink(missing_ok=True)
