"""Who it is that speaks: voice embeddings.

An embedding is a vector of length one for a waveform; a new one is an entry of
:data:`EMBEDDINGS`.
"""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from custom_modules.audio import resample
from custom_modules.conversation.packaged import packaged_file
from custom_modules.errors import InputError
from custom_modules.recognition.interface import Source, loading

_RATE = 16000


class Embedding(Protocol):
    """Says whose voice it is."""

    #: Cosine distance between the means of two halves of a recording above which two speak.
    threshold: float

    def __call__(self, waveform: np.ndarray, rate: int) -> np.ndarray:
        """``[time]`` at any rate, any level → ``[features]`` of length one."""


class Resemblyzer(nn.Module):
    """The speaker encoder of Wan et al. (2018) with the weights of the package Resemblyzer.

    Three LSTMs over mel power spectra; the mean over windows of 1.6 s, half overlapping. The
    package's own code, which needs librosa and webrtcvad, is not imported.
    """

    threshold = 0.1
    _WINDOW, _STEP = 160, 77  # frames of 10 ms; 1.3 windows a second, as there
    _LEVEL = 10 ** (-30 / 20)  # there, only what is quieter is brought to this

    def __init__(self) -> None:
        super().__init__()
        from torchaudio.functional import melscale_fbanks

        self.lstm = nn.LSTM(40, 256, 3, batch_first=True)
        self.linear = nn.Linear(256, 256)
        mel = melscale_fbanks(201, 0, _RATE / 2, 40, _RATE, norm="slaney", mel_scale="slaney")
        self.register_buffer("mel", mel, persistent=False)
        remedy = "pip install --no-deps Resemblyzer"
        path = packaged_file("resemblyzer", "pretrained.pt", remedy)
        state = torch.load(path, map_location="cpu", weights_only=True)["model_state"]
        own = self.state_dict().keys()
        self.load_state_dict({key: value for key, value in state.items() if key in own})
        self.eval()

    @torch.no_grad()
    def forward(self, waveform: np.ndarray, rate: int) -> np.ndarray:
        """``[time]`` → ``[256]``."""
        frames = self._frames(torch.from_numpy(_at_16k(waveform, rate)))
        starts = range(0, max(1, len(frames) - self._WINDOW + self._STEP), self._STEP)
        windows = [frames[start : start + self._WINDOW] for start in starts]
        if len(windows) > 1 and len(windows[-1]) < 0.75 * self._WINDOW:
            windows.pop()
        padded = nn.utils.rnn.pad_sequence(windows, batch_first=True)
        padded = nn.functional.pad(padded, (0, 0, 0, self._WINDOW - padded.shape[1]))
        _, (hidden, _) = self.lstm(padded)
        parts = nn.functional.normalize(self.linear(hidden[-1]).relu(), dim=1)
        vector: np.ndarray = nn.functional.normalize(parts.mean(0), dim=0).numpy()
        return vector

    def _frames(self, waveform: Tensor) -> Tensor:
        """Mel power ``[frames, 40]``, of the waveform at -30 dB of full scale."""
        level = waveform.square().mean().sqrt().clamp(min=1e-9)
        waveform = waveform * (self._LEVEL / level)
        window = torch.hann_window(400)
        spectra = torch.stft(
            waveform, 400, 160, window=window, pad_mode="constant", return_complex=True
        )
        mel: Tensor = self.mel  # type: ignore[assignment]
        return spectra.abs().square().T @ mel


class Ecapa:
    """An ECAPA-TDNN (Desplanques et al. 2020), from a local folder of SpeechBrain's."""

    threshold = 0.35

    def __init__(self, folder: str) -> None:
        from speechbrain.inference.classifiers import EncoderClassifier

        if not Path(folder, "hyperparams.yaml").is_file():
            raise InputError(f"{folder}: is not a SpeechBrain folder with a hyperparams.yaml")
        source = Source(f"ecapa:{folder}", folder, Path(folder))
        with TemporaryDirectory() as links, loading(source, "speechbrain", "hyperpyyaml", "torch"):
            self.model = EncoderClassifier.from_hparams(
                source=folder, savedir=links, overrides={"pretrained_path": folder}
            )

    @torch.no_grad()
    def __call__(self, waveform: np.ndarray, rate: int) -> np.ndarray:
        batch = torch.from_numpy(_at_16k(waveform, rate))[None]
        vector = self.model.encode_batch(batch).flatten()
        normal: np.ndarray = nn.functional.normalize(vector, dim=0).cpu().numpy()
        return normal


def _at_16k(waveform: np.ndarray, rate: int) -> np.ndarray:
    return resample(waveform, rate, _RATE).astype("float32")


#: What ``--embedding`` may be; ``ecapa:FOLDER`` names its folder.
EMBEDDINGS: dict[str, Callable[..., Embedding]] = {"resemblyzer": Resemblyzer, "ecapa": Ecapa}


def load_embedding(name: str) -> Embedding:
    """An embedding by its name, with what follows a colon for it."""
    kind, colon, argument = name.partition(":")
    if kind not in EMBEDDINGS:
        known = ", ".join(EMBEDDINGS)
        raise InputError(f"--embedding={name}: is unknown; there are {known} (ecapa:FOLDER)")
    if (kind == "ecapa") != bool(colon and argument):
        raise InputError(f"--embedding={name}: must be resemblyzer or ecapa:FOLDER")
    return EMBEDDINGS[kind](*([argument] if colon else []))
