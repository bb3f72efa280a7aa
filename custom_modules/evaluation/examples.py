"""Separated mixtures as wav files, to listen to."""

from pathlib import Path

import soundfile as sf
import torch

from custom_modules.files import atomic_path

#: Of what is tested, these are written as audio: clean speech and the full mix.
HEARD_VARIANTS = ("C", "SER", "SE")


def example_path(folder, mixture_id, variant, signal="mixture"):
    """Where a signal of an example is written.

    Arguments
    ---------
    folder : str or pathlib.Path
    mixture_id, variant : str
    signal : str
        ``"mixture"``, ``"s1"``, ``"s1_target"`` and so on.

    Returns
    -------
    pathlib.Path

    Example
    -------
    >>> example_path("audio", "test_1", "SER", "s2").name
    'test_1_SER_s2.wav'
    """
    return Path(folder, f"{mixture_id}_{variant}_{signal}.wav")


def write_example(folder, mixture_id, variant, mixture, estimates, targets, rate):
    """Writes a mixture, its estimates and its targets.

    SI-SDR leaves the scale of an estimate open, so each is given the level of
    its target.

    Arguments
    ---------
    folder : str or pathlib.Path
        Made if missing.
    mixture_id, variant : str
        Begin the names of the files, see :func:`example_path`.
    mixture : torch.Tensor
        ``[time]``.
    estimates : torch.Tensor
        ``[time, sources]``, in the order of the targets.
    targets : torch.Tensor
        ``[time, sources]``.
    rate : int
        Hz.
    """
    estimates = estimates.float().nan_to_num(0.0)
    levels = targets.square().mean(0).sqrt()
    estimates = estimates * levels / estimates.square().mean(0).sqrt().clamp_min(1e-8)
    signals = {"mixture": mixture}
    sources = range(targets.shape[1])
    signals |= {f"s{i + 1}": estimates[:, i] for i in sources}
    signals |= {f"s{i + 1}_target": targets[:, i] for i in sources}
    for name, signal in signals.items():
        with atomic_path(example_path(folder, mixture_id, variant, name)) as path:
            samples = torch.clamp(signal, -1, 1).cpu().numpy()
            sf.write(path, samples, rate, subtype="PCM_16", format="WAV")
