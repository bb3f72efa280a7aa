"""One recording into wav files, as streams.

Start reading at :func:`separate_recording`.
"""

import glob
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import soundfile as sf
import torch

from custom_modules.audio import (
    WAV_BYTES,
    check_length,
    create_wav,
    open_audio,
    read_blocks,
    resample_blocks,
    write_samples,
)
from custom_modules.errors import InputError
from custom_modules.files import PARTIAL_SUFFIX, atomic_path
from custom_modules.inference import PolSESSSeparation, average_channels

CHANNELS = ("mix", "each", "left", "right")


def separate_recording(
    model: PolSESSSeparation,
    path: Path,
    outputs: list[Path],
    channels: str = "mix",
    normalize: str = "mixture",
    tick: Callable[[int], object] | None = None,
    comment: str = "",
) -> list[str]:
    """Separates a file into wav files of its length, rate and subtype, as streams.

    ``channels="mix"`` averages them, ``"left"`` and ``"right"`` take one, ``"each"``
    separates each on its own: there is an output for each channel and source, in that
    order. ``normalize`` is as for ``PolSESSSeparation.separate_file``. ``tick`` is
    called with the number of samples read since the last call; the files carry the
    ``comment``. Returns what the user should know of them. If it raises InputError, an
    output is as it was before.
    """
    with open_audio(path) as audio:
        reader = _Reader(audio, channels, tick)
        _remove_partial(outputs)
        subtype = audio.subtype if audio.subtype in WAV_BYTES else "PCM_16"
        with ExitStack() as stack:
            partial = [stack.enter_context(atomic_path(output)) for output in outputs]
            # A second pass scales to the peak: what is written first must not be cut.
            first = "FLOAT" if normalize == "peak" else subtype
            peaks, clipped = _write_sources(
                reader, _sources(model, reader, normalize), partial, first, comment
            )
            if normalize == "peak":
                for written, peak in zip(partial, peaks, strict=True):
                    _scale_file(written, 1 / peak if peak else 1, subtype, comment)
        return _notes(audio, clipped)


def _notes(audio: sf.SoundFile, clipped: int) -> list[str]:
    """What was unusual about a file."""
    notes = []
    # libsndfile reads what there is of a file that was cut short, and logs it.
    if re.search(r"^data : \d+ \(should be \d+\)", audio.extra_info, re.MULTILINE):
        notes.append("shorter than its header says; what there is was separated")
    if clipped:
        samples = "1 sample" if clipped == 1 else f"{clipped} samples"
        notes.append(
            f"{samples} of its sources beyond full scale, cut off; "
            "--normalize peak avoids it"
        )
    return notes


class _Reader:
    """Blocks of the wanted channels; counts what was read."""

    def __init__(
        self, audio: sf.SoundFile, channels: str, tick: Callable[[int], object] | None
    ) -> None:
        self.audio, self.channels, self.tick = audio, channels, tick
        self.frames = 0
        if channels == "right" and audio.channels < 2:
            raise InputError(f"{audio.name}: has no right channel; it is mono")

    def __iter__(self) -> Iterator[np.ndarray]:
        for block in read_blocks(self.audio):
            self.frames += block.shape[1]
            yield self._choose(block)
            if self.tick:
                self.tick(block.shape[1])
        if not self.frames:
            raise InputError(f"{self.audio.name}: holds no samples")

    def _choose(self, block: np.ndarray) -> np.ndarray:
        if self.channels == "mix":
            return average_channels(block)
        if self.channels == "each":
            return block
        row = 0 if self.channels == "left" else 1
        return block[row : row + 1]


def _sources(
    model: PolSESSSeparation, reader: _Reader, normalize: str
) -> Iterator[np.ndarray]:
    """The sources at the recording's rate, ``[channels * sources, time]``."""
    rate, model_rate = reader.audio.samplerate, model.hparams.sample_rate
    mixtures = map(torch.from_numpy, resample_blocks(reader, rate, model_rate))
    # Signals and sources become the rows of one stream of many signals.
    sources = (
        part.transpose(1, 2).flatten(0, 1).numpy()
        for part in model.stream(mixtures, normalize)
    )
    return resample_blocks(sources, model_rate, rate)


def _write_sources(
    reader: _Reader,
    sources: Iterable[np.ndarray],
    paths: list[Path],
    subtype: str,
    comment: str,
) -> tuple[list[float], int]:
    """Writes the sources; returns their peaks and how many samples were clipped."""
    written, clipped, peaks = 0, 0, np.zeros(len(paths), "float32")
    rate, frames = reader.audio.samplerate, reader.audio.frames
    with ExitStack() as stack:
        files = [
            stack.enter_context(create_wav(path, rate, subtype, frames, comment))
            for path in paths
        ]
        for part in sources:
            part = part[:, : reader.frames - written]  # resampling rounds up
            written += part.shape[1]
            peaks = np.maximum(peaks, np.abs(part).max(axis=1, initial=0))
            if subtype not in ("FLOAT", "DOUBLE"):
                clipped += int((np.abs(part) > 1).sum())
            for file, samples in zip(files, part, strict=True):
                write_samples(file, samples)
    for path in paths:
        check_length(path, reader.frames)
    return peaks.tolist(), clipped


def _scale_file(path: Path, gain: float, subtype: str, comment: str) -> None:
    """Replaces a file by itself at another level."""
    scaled = path.with_name(f"{path.name}{PARTIAL_SUFFIX}")
    try:
        with sf.SoundFile(path) as source:
            rate, frames = source.samplerate, source.frames
            with create_wav(scaled, rate, subtype, frames, comment) as target:
                for block in read_blocks(source):
                    write_samples(target, block[0] * gain)
        check_length(scaled, frames)
        os.replace(scaled, path)
    finally:
        scaled.unlink(missing_ok=True)


def _remove_partial(outputs: list[Path]) -> None:
    """What a killed process left behind."""
    for path in outputs:
        pattern = f"{glob.escape(path.name)}.*{PARTIAL_SUFFIX}"
        for partial in path.parent.glob(pattern):
            partial.unlink(missing_ok=True)
