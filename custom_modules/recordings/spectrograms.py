"""Pictures of what was separated into what."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scipy.signal import stft

from custom_modules.audio import fit, open_audio, read_blocks
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
        axes.set_title(path.name, loc="left", fontsize=10, parse_math=False)
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
    with open_audio(path) as audio:
        frame = max(2, round(_FRAME_SECONDS * audio.samplerate))
        hop = max(frame // 2, audio.frames // _COLUMNS)
        # A block for each column: one frame, or where columns are longer, several.
        size, columns, held = max(hop, frame), [], np.zeros(0, "float32")
        for block in read_blocks(audio):
            held = np.concatenate([held, block.mean(0)])
            while len(held) >= size:
                columns.append(_mean_power(held[:size], frame))
                held = held[hop:]
        if len(held) > size - hop or not columns:
            columns.append(_mean_power(fit(held, size), frame))
        power = np.stack(columns, axis=1)
        return 10 * np.log10(power + 1e-12), audio.tell() / audio.samplerate, audio.samplerate / 2


def _mean_power(signal: np.ndarray, frame: int) -> np.ndarray:
    _, _, bins = stft(signal, nperseg=frame, boundary=None, padded=False)
    return (np.abs(bins) ** 2).mean(1)
