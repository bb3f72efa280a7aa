"""One recording into wav files, as streams.

Start reading at :func:`separate_recording`.
"""

import glob
import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from custom_modules import audio
from custom_modules.errors import InputError
from custom_modules.files import PARTIAL_SUFFIX, atomic_path
from custom_modules.inference import PolSESSSeparation

CHANNELS = ("mix", "each", "left", "right")


def separate_recording(
    model: PolSESSSeparation,
    path: Path,
    outputs: list[Path],
    channels: str = "mix",
    normalize: str = "mixture",
    comment: str = "",
    show_progress: bool = False,
    watch: Callable[[np.ndarray], None] | None = None,
) -> list[str]:
    """Separates a file into wav files of its length, rate and subtype, as streams.

    ``channels="mix"`` averages them, ``"left"`` and ``"right"`` take one, ``"each"``
    separates each on its own: there is an output for each channel and source, in that
    order. ``normalize`` is as for ``PolSESSSeparation.separate_file``; the files carry
    the ``comment``. ``watch`` sees each part, ``[outputs, time]``, before it is written,
    at the level that ``"peak"`` has not scaled yet. Returns what the user should know of
    them. If it raises InputError, an output is as it was before.
    """
    with audio.open_audio(path) as recording, ExitStack() as stack:
        if channels == "right" and recording.channels < 2:
            raise InputError(f"{path}: has no right channel; it is mono")
        for output in outputs:  # what a killed process left behind
            pattern = f"{glob.escape(output.name)}.*{PARTIAL_SUFFIX}"
            for left in output.parent.glob(pattern):
                left.unlink(missing_ok=True)
        partial = [stack.enter_context(atomic_path(output)) for output in outputs]
        blocks = _read(recording, channels, show_progress)
        sources = _separate(model, recording.samplerate, blocks, normalize)
        subtype = recording.subtype
        subtype = subtype if subtype in audio.WAV_BYTES else "PCM_16"
        # A second pass scales to the peak: what is written first must not be cut.
        first = "FLOAT" if normalize == "peak" else subtype
        heard = _watched(sources, watch) if watch else sources
        peaks, clipped = _write_sources(recording, heard, partial, first, comment)
        if normalize == "peak":
            for written, peak in zip(partial, peaks, strict=True):
                _scale_file(written, 1 / peak if peak else 1, subtype, comment)
        return _notes(recording, clipped, model.observation_db is None)


def _notes(recording: audio.Decoder, clipped: int, peaks_help: bool) -> list[str]:
    """What was unusual about a file."""
    notes = []
    # libsndfile reads what there is of a file that was cut short, and logs it.
    if re.search(r"(?m)^data : \d+ \(should be \d+\)", recording.extra_info):
        notes.append("shorter than its header says; what there is was separated")
    if clipped:
        remedy = "; --normalize peak avoids it" * peaks_help
        notes.append(f"{clipped} of its sources' samples beyond full scale, cut off{remedy}")
    return notes


def _read(recording: audio.Decoder, channels: str, show_progress: bool) -> Iterator[np.ndarray]:
    """Blocks of the wanted channels, ``[channels, time]``."""
    rows = {"left": slice(0, 1), "right": slice(1, 2)}.get(channels, slice(None))
    with tqdm(
        total=recording.frames,
        desc=Path(recording.name).name,
        unit="s",
        unit_scale=1 / recording.samplerate,
        leave=False,
        # None: not in a log, where moving between two bars leaves "[A" behind.
        disable=None if show_progress else True,
    ) as bar:
        for block in audio.read_blocks(recording):
            yield block.mean(0, keepdims=True) if channels == "mix" else block[rows]
            bar.update(block.shape[1])
    if not recording.tell():
        raise InputError(f"{recording.name}: holds no samples")


def _separate(
    model: PolSESSSeparation, rate: int, blocks: Iterator[np.ndarray], normalize: str
) -> Iterator[np.ndarray]:
    """The sources at the recording's rate, ``[channels * sources, time]``."""
    model_rate = model.hparams.sample_rate
    mixtures = map(torch.from_numpy, audio.resample_blocks(blocks, rate, model_rate))
    # Signals and sources become the rows of one stream of many signals.
    sources = (
        part.transpose(1, 2).flatten(0, 1).numpy() for part in model.stream(mixtures, normalize)
    )
    return audio.resample_blocks(sources, model_rate, rate)


def _watched(
    parts: Iterator[np.ndarray], watch: Callable[[np.ndarray], None]
) -> Iterator[np.ndarray]:
    for part in parts:
        watch(part)
        yield part


def _write_sources(
    recording: audio.Decoder,
    sources: Iterator[np.ndarray],
    paths: list[Path],
    subtype: str,
    comment: str,
) -> tuple[list[float], int]:
    """Writes the sources; returns their peaks and how many samples were clipped."""
    written, clipped, peaks = 0, 0, np.zeros(len(paths), "float32")
    form = (recording.samplerate, subtype, recording.frames, comment)
    with ExitStack() as stack:
        writers = [stack.enter_context(audio.create_wav(p, *form)) for p in paths]
        for part in sources:
            part = part[:, : recording.tell() - written]  # resampling rounds up
            written += part.shape[1]
            peaks = np.maximum(peaks, np.abs(part).max(axis=1, initial=0))
            if subtype not in ("FLOAT", "DOUBLE"):
                clipped += int((np.abs(part) > 1).sum())
            for write, samples in zip(writers, part, strict=True):
                write(samples)
    return peaks.tolist(), clipped


def _scale_file(path: Path, gain: float, subtype: str, comment: str) -> None:
    """Replaces a file by itself at another level."""
    scaled = path.with_name(f"{path.name}{PARTIAL_SUFFIX}")
    try:
        with audio.open_audio(path) as source:
            form = (source.samplerate, subtype, source.frames, comment)
            with audio.create_wav(scaled, *form) as write:
                for block in audio.read_blocks(source):
                    write(block[0] * gain)
        os.replace(scaled, path)
    finally:
        scaled.unlink(missing_ok=True)
