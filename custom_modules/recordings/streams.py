"""One recording into wav files, as streams.

Start reading at :func:`separate_recording`.
"""

import glob
import os
import re
from contextlib import ExitStack

import soundfile as sf
import torch

from custom_modules.errors import InputError
from custom_modules.files import PARTIAL_SUFFIX, atomic_path
from custom_modules.inference import open_audio, read_blocks
from custom_modules.longform import resample_blocks

CHANNELS = ("mix", "each", "left", "right")
#: Sample formats that a wav file keeps, in bytes; others become PCM_16.
_WAV_BYTES = {
    **{"PCM_U8": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4},
    **{"ULAW": 1, "ALAW": 1, "FLOAT": 4, "DOUBLE": 8},
}
#: Where a wav file's four-byte sizes end.
_WAV_LIMIT = 2**32 - 2**16


def separate_recording(
    model, recording, channels="mix", normalize="mixture", tick=None, comment=""
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
    comment : str
        Kept in the files' own comments.

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
        subtype = audio.subtype if audio.subtype in _WAV_BYTES else "PCM_16"
        with ExitStack() as stack:
            partial = [stack.enter_context(atomic_path(path)) for path in outputs]
            peaks, clipped = _separate_into(
                model, reader, partial, subtype, normalize, comment
            )
            if normalize == "peak":
                for path, peak in zip(partial, peaks, strict=True):
                    _scale_file(path, 1 / peak if peak else 1, subtype, comment)
        return outputs, _notes(audio, clipped)


def _notes(audio, clipped):
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


def _separate_into(model, reader, paths, subtype, normalize, comment):
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
        frames = reader.audio.frames
        files = [
            stack.enter_context(_open_wav(path, rate, subtype, frames, comment))
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


def _open_wav(path, rate, subtype, frames, comment):
    # Of the formats that soundfile writes, RF64 alone is a wav of any size.
    is_large = frames * _WAV_BYTES[subtype] > _WAV_LIMIT
    file = sf.SoundFile(
        path, "w", rate, 1, subtype, format="RF64" if is_large else "WAV"
    )
    if comment:
        file.comment = comment
    return file


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


def _scale_file(path, gain, subtype, comment):
    """Replaces a file by itself at another level."""
    scaled = path.with_name(f"{path.name}{PARTIAL_SUFFIX}")
    try:
        with sf.SoundFile(path) as source:
            rate, frames = source.samplerate, source.frames
            with _open_wav(scaled, rate, subtype, frames, comment) as target:
                for block in read_blocks(source):
                    _write(target, block[0] * gain)
        _check_length(scaled, frames)
        os.replace(scaled, path)
    finally:
        scaled.unlink(missing_ok=True)


def _remove_partial(outputs):
    """What a killed process left behind."""
    for path in outputs:
        pattern = f"{glob.escape(path.name)}.*{PARTIAL_SUFFIX}"
        for partial in path.parent.glob(pattern):
            partial.unlink(missing_ok=True)
