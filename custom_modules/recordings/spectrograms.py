"""Pictures of what was separated into what."""

from pathlib import Path

import numpy as np
import soundfile as sf
from matplotlib.figure import Figure
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
    drawn = {path: spectrogram(path) for path in (mixture, *sources)}
    peak = max(levels.max() for levels, _, _ in drawn.values())
    figure = Figure(figsize=(11, 1 + 2.1 * len(drawn)), layout="constrained")
    rows = figure.subplots(len(drawn), sharex=True, sharey=True)
    for axes, path in zip(rows, drawn, strict=True):
        levels, seconds, nyquist = drawn[path]
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
    rows[0].set_ylim(0, min(highest * 1.1, nyquist) / 1000)
    rows[-1].set_xlabel("time (s)")
    figure.supylabel("frequency (kHz)", fontsize=10)
    figure.colorbar(image, ax=list(rows), label="level (dB)", aspect=40)
    with atomic_path(picture) as partial:
        figure.savefig(partial, format="png", dpi=130, metadata={"Comment": comment})


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
        size, overlap = max(hop, frame), max(0, frame - hop)
        blocks = audio.blocks(size, overlap, dtype="float32", always_2d=True, fill_value=0)
        for block in blocks:
            signal = block.mean(1)
            _, _, bins = stft(signal, nperseg=frame, boundary=None, padded=False)
            columns.append((np.abs(bins) ** 2).mean(1))
        seconds = audio.frames / audio.samplerate
        power = np.stack(columns, axis=1)
        return 10 * np.log10(power + 1e-12), seconds, audio.samplerate / 2
