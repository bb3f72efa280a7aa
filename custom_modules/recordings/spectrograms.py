"""Pictures of what was separated into what."""

from pathlib import Path

import matplotlib
import numpy as np
import soundfile as sf
from matplotlib.figure import Figure
from PIL import Image
from scipy.signal import stft

from custom_modules.files import atomic_path

_FRAME_SECONDS = 0.032
#: Columns of a picture: frames are averaged into as many.
_COLUMNS = 1200
_RANGE_DB = 70


def plot_spectrograms(
    mixture: Path, sources: list[Path], picture: Path, highest: float, comment: str = ""
) -> None:
    """Draws spectrograms of a recording and what was made of it above each other.

    As a PNG that carries the ``comment``; above ``highest``, in Hz, is nothing to see.
    """
    paths = [mixture, *sources]
    spectrograms = [spectrogram(path) for path in paths]
    peak = max(levels.max() for levels, _, _ in spectrograms)
    figure = Figure(figsize=(11, 1 + 2.1 * len(paths)), layout="constrained")
    all_axes = figure.subplots(len(paths), sharex=True, sharey=True, squeeze=False)
    for axes, path, drawn in zip(all_axes[:, 0], paths, spectrograms, strict=True):
        levels, seconds, nyquist = drawn
        image = axes.imshow(
            levels,
            origin="lower",
            aspect="auto",
            extent=(0, seconds, 0, nyquist / 1000),
            cmap="magma",
            vmin=peak - _RANGE_DB,
            vmax=peak,
            interpolation="nearest",
        )
        axes.set_title(path.name, loc="left", fontsize=10)
    all_axes[0, 0].set_ylim(0, min(highest * 1.1, nyquist) / 1000)
    all_axes[-1, 0].set_xlabel("time (s)")
    figure.supylabel("frequency (kHz)", fontsize=10)
    figure.colorbar(image, ax=list(all_axes[:, 0]), label="level (dB)", aspect=40)
    with atomic_path(picture) as partial, matplotlib.rc_context({"savefig.dpi": 130}):
        figure.savefig(partial, format="png", metadata={"Comment": comment})


def comment_of_picture(path: Path) -> str:
    """What a PNG says of itself; nothing if it is none."""
    try:
        with Image.open(path) as picture:
            return picture.info.get("Comment", "")
    except (OSError, ValueError, SyntaxError):  # Pillow's ways to say that it is none
        return ""


def spectrogram(path: Path) -> tuple[np.ndarray, float, float]:
    """A file's spectrogram, averaged in time to the width of a picture.

    Levels in dB, ``[frequencies, columns]``; its length in s; its highest frequency in
    Hz. Channels are averaged.
    """
    with sf.SoundFile(path) as audio:
        frame = max(2, round(_FRAME_SECONDS * audio.samplerate))
        hop = max(frame // 2, audio.frames // _COLUMNS)
        columns = []
        # A block for each column: one frame, or where columns are longer, several.
        for block in audio.blocks(
            max(hop, frame),
            overlap=max(0, frame - hop),
            dtype="float32",
            always_2d=True,
            fill_value=0,
        ):
            signal = block.mean(1)
            _, _, bins = stft(signal, nperseg=frame, boundary=None, padded=False)
            columns.append((np.abs(bins) ** 2).mean(1))
        seconds = audio.frames / audio.samplerate
        power = np.stack(columns, axis=1)
        return 10 * np.log10(power + 1e-12), seconds, audio.samplerate / 2
