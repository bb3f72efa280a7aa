"""A small recogniser of a synthesiser's voices: it spells, and knows which words there are.

Start reading at :class:`MiniRecogniser`. What it was trained on is all that it understands:
the words of Mini-PolSESS's matrix sentences, in espeak-ng's voices.
"""

import json
import unicodedata
from collections.abc import Collection, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from speechbrain.decoders.ctc import ctc_greedy_decode
from speechbrain.processing.features import STFT, Filterbank, spectral_magnitude
from torch import Tensor, nn

from custom_modules import audio
from custom_modules.errors import InputError
from custom_modules.files import atomic_path, regular_file
from custom_modules.recognition.interface import SILENT_PEAK
from custom_modules.weights import load_exactly, read_weights

#: In a results folder: all that a recogniser is loaded from.
DESCRIPTION_FILE, WEIGHTS_FILE = "recogniser.json", "recogniser.ckpt"
#: What it spells with; the blank of CTC comes before them.
ALPHABET = " aąbcćdeęfghijklłmnńoópqrsśtuvwxyzźż"
BLANK = 0
#: Features reach so far below the loudest frames.
RANGE_DB = 40.0
LOUDEST_FRAMES = 10
#: Left on both sides of what is heard, s.
MARGIN = 0.1
_LEAST_SECONDS = 0.1
_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def letters_of(text: str) -> str:
    """What is spelt of a text: lower case, letters and single spaces.

    >>> letters_of("Ślicznie — Hanna kupuje:  „sześć” OKIEN!")
    'ślicznie hanna kupuje sześć okien'
    """
    text = unicodedata.normalize("NFC", text).lower()
    return " ".join("".join(x if x in ALPHABET else " " for x in text).split())


def codes_of(text: str) -> list[int]:
    """The classes of CTC that spell a text."""
    return [ALPHABET.index(letter) + 1 for letter in letters_of(text)]


def spelt(codes: Iterable[int]) -> str:
    """The text of classes without blanks; letters alone make words."""
    return " ".join("".join(ALPHABET[code - 1] for code in codes).split())


def distance(one: str, other: str) -> int:
    """Levenshtein's: letters to insert, delete or replace.

    >>> distance("okien", "okienów"), distance("tona", "hanna")
    (2, 3)
    """
    row = list(range(len(other) + 1))
    for place, letter in enumerate(one, start=1):
        before, row[0] = row[0], place
        for n, another in enumerate(other, start=1):
            least = min(row[n] + 1, row[n - 1] + 1, before + (letter != another))
            before, row[n] = row[n], least
    return row[-1]


class NearestWords:
    """Replaces each word by the nearest of a lexicon; of two as near, the first by name."""

    def __init__(self, lexicon: Collection[str]) -> None:
        words = sorted(lexicon)
        self._of = cache(lambda word: min(words, key=lambda known: distance(word, known)))

    def __call__(self, text: str) -> str:
        return " ".join(map(self._of, text.split()))


def heard_span(signal: np.ndarray, rate: int, margin: float = MARGIN) -> tuple[int, int]:
    """First sample, and the one after the last, of what is within 40 dB of the loudest.

    Widened by a margin in s; all of a signal of silence.
    """
    active = np.flatnonzero(audio.active_frames(signal, rate))
    if not len(active):
        return 0, len(signal)
    size, beyond = max(1, round(audio.FRAME_SECONDS * rate)), round(margin * rate)
    end = len(signal) if active[-1] == len(signal) // size - 1 else (active[-1] + 1) * size
    return max(0, int(active[0]) * size - beyond), min(len(signal), int(end) + beyond)


class LogMel(nn.Module):
    """Log-mel features relative to the loudest frames: 1 there, 0 from 40 dB below on.

    ``[batch, time]`` → ``[batch, frames, mels]``, 100 frames a second. A signal's level does
    not matter, which SI-SDR leaves open; nor does silence behind it.
    """

    def __init__(self, sample_rate: int, n_mels: int = 40) -> None:
        super().__init__()
        n_fft = 2 ** int(np.ceil(np.log2(0.025 * sample_rate)))
        self.stft = STFT(sample_rate, win_length=25, hop_length=10, n_fft=n_fft)
        self.filters = Filterbank(
            n_mels, log_mel=False, f_max=sample_rate // 2, n_fft=n_fft, sample_rate=sample_rate
        )

    def forward(self, signals: Tensor) -> Tensor:
        power = self.filters(spectral_magnitude(self.stft(signals.float())))
        decibels = 10 * power.clamp_min(1e-20).log10()
        levels = decibels.amax(2)
        number = min(LOUDEST_FRAMES, levels.shape[1])
        loudest = levels.topk(number, dim=1).values.mean(1)
        return ((decibels - loudest[:, None, None]) / RANGE_DB + 1).clamp(0, 2)


class SpellingNet(nn.Module):
    """Convolutions that spell what they hear, for CTC.

    Features ``[batch, frames, mels]`` → log-probabilities ``[batch, frames / stride, letters]``.
    Ordinary convolutions: with depthwise ones nothing was learnt in three minutes.
    """

    def __init__(
        self,
        n_mels: int = 40,
        hidden: int = 160,
        blocks: int = 4,
        stride: int = 2,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.first = _convolution(n_mels, hidden, 2 * stride + 1, stride, dropout=dropout)
        self.blocks = nn.ModuleList(
            _convolution(hidden, hidden, 7, stride=1, dropout=dropout) for _ in range(blocks)
        )
        self.letters = nn.Conv1d(hidden, len(ALPHABET) + 1, 1)

    def forward(self, features: Tensor) -> Tensor:
        x = self.first(features.transpose(1, 2))
        for block in self.blocks:
            x = x + block(x)
        return self.letters(x).transpose(1, 2).log_softmax(2)


def _convolution(before: int, after: int, kernel: int, stride: int, dropout: float) -> nn.Module:
    convolution = nn.Conv1d(before, after, kernel, stride, padding=kernel // 2)
    return nn.Sequential(convolution, nn.BatchNorm1d(after), nn.ReLU(), nn.Dropout(dropout))


class MiniRecogniser:
    """The recogniser of a results folder that ``recipes/recognition/train.py`` wrote.

    ``nearest`` replaces each word by the nearest of the training's: a lexicon, and not a
    grammar, which could neither insert nor delete.
    """

    def __init__(
        self, folder: str | Path, device: str = "cpu", precision: str = "fp32", nearest: bool = True
    ) -> None:
        self.folder, self.device = Path(folder), torch.device(device)
        self.dtype = _DTYPES[precision]
        self.description = _read_description(self.folder / DESCRIPTION_FILE)
        self.sample_rate: int = self.description["sample_rate"]
        self.features = LogMel(self.sample_rate, self.description["sizes"]["n_mels"])
        self.net = SpellingNet(**self.description["sizes"])
        weights = self.folder / WEIGHTS_FILE
        load_exactly(self.net, read_weights(weights), weights)
        self.features.to(device)
        self.net.to(device).eval()
        self.words = NearestWords(self.description["lexicon"]) if nearest else str

    def transcribe(self, waveforms: Iterable[ArrayLike], rate: int) -> list[str]:
        """The text of each signal ``[time]`` at ``rate`` Hz; of silence, an empty one.

        One by one, so that none depends on the others.
        """
        return [self._text(np.asarray(waveform, dtype=np.float32), rate) for waveform in waveforms]

    @torch.no_grad()
    def _text(self, signal: np.ndarray, rate: int) -> str:
        if signal.ndim != 1:
            raise ValueError(f"a signal must be [time], not {list(signal.shape)}")
        if not np.isfinite(signal).all() or np.abs(signal).max(initial=0) < SILENT_PEAK:
            return ""
        signal = audio.resample(signal, rate, self.sample_rate)
        start, end = heard_span(signal, self.sample_rate)
        least = round(_LEAST_SECONDS * self.sample_rate)
        heard = audio.fit(signal[start:end], max(end - start, least)).astype(np.float32)
        batch = torch.from_numpy(heard)[None].to(self.device)
        features = self.features(batch)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            log_probs = self.net(features)
        (codes,) = ctc_greedy_decode(log_probs, torch.ones(1), BLANK)
        return self.words(spelt(codes))


def write_recogniser(folder: str | Path, net: SpellingNet, description: dict[str, Any]) -> None:
    """Writes what :class:`MiniRecogniser` reads, the weights first."""
    with atomic_path(Path(folder, WEIGHTS_FILE)) as path:
        torch.save({name: value.cpu() for name, value in net.state_dict().items()}, path)
    with atomic_path(Path(folder, DESCRIPTION_FILE)) as path:
        path.write_text(json.dumps(description, ensure_ascii=False, indent=1), encoding="utf-8")


_NEEDED = {"sample_rate": int, "sizes": dict, "lexicon": list, "alphabet": str}


def _read_description(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise InputError(
            f"{path.parent}: has no {path.name}; name a results folder of "
            "recipes/recognition/train.py that has finished"
        )
    try:
        content = json.loads(regular_file(path).read_text(encoding="utf-8"))
        if any(not isinstance(content[key], kind) for key, kind in _NEEDED.items()):
            raise ValueError("a value of another kind")
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: is damaged ({error}); train again") from error
    if content["alphabet"] != ALPHABET or not content["lexicon"]:
        raise InputError(f"{path}: spells with other letters, or knows no word; train again")
    return content
