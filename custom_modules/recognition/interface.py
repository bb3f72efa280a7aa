"""What every recogniser does, whichever tool is behind it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike
from speechbrain.utils.logger import get_logger

from custom_modules.audio import resample
from custom_modules.errors import InputError, raised_in

logger = get_logger(__name__)

#: Peak of what no recogniser is asked about: −80 dB of full scale.
SILENT_PEAK = 1e-4
#: Shorter signals are padded with silence to this, s: models have a least length.
LEAST_SECONDS = 0.5

T = TypeVar("T")


class Options(NamedTuple):
    """How a recogniser runs; None is the tool's own default."""

    device: str = "cpu"
    precision: str | None = None  # fp32, fp16, bf16; whisper also int8
    batch_size: int | None = None  # signals of one length at once: 1 on a CPU, else 8
    beam_size: int | None = None
    language: str = "pl"

    @property
    def rows(self) -> int:
        """Signals of one length that are transcribed at once."""
        return self.batch_size or (1 if self.device == "cpu" else 8)

    @property
    def dtype(self) -> torch.dtype:
        names = {"fp16": torch.float16, "bf16": torch.bfloat16}
        return names.get(self.precision or "", torch.float32)


class Source(NamedTuple):
    """Where a recogniser's model comes from."""

    spec: str  # as it was asked for
    place: str  # a folder, or a name on a hub
    folder: Path | None  # if it is a folder


class Word(NamedTuple):
    """A word and when it is said, s."""

    text: str
    start: float
    end: float


class Recogniser(ABC):
    """Texts of signals; the model is loaded once.

    ``name``, ``version`` (of the tool, and a digest of a folder's files) and ``options``
    are all that its texts depend on beside the signal.
    """

    name: str
    version: str
    options: dict[str, Any]
    sample_rate: int  # Hz, of the model
    batch_size = 1
    gives_times = False

    def transcribe(self, waveforms: Sequence[ArrayLike], rate: int) -> list[str]:
        """The text of each signal ``[time]``, at ``rate`` Hz and of any length.

        Of silence (see :data:`SILENT_PEAK`), of nothing, and of what holds values that
        are no numbers it is empty, and the model is not asked. Only signals of one length
        share a batch, so that there is no padding to depend on.
        """
        return self._through(self._texts, waveforms, rate, "")

    def transcribe_words(self, waveforms: Sequence[ArrayLike], rate: int) -> list[list[Word]]:
        """As :meth:`transcribe`, the words with their times; InputError without times."""
        if not self.gives_times:
            raise InputError(f"{self.name}: gives no times of words; use whisper: or a CTC model")
        return self._through(self._words, waveforms, rate, [])

    @abstractmethod
    def _texts(self, signals: list[np.ndarray]) -> list[str]:
        """Of signals of one length, at the model's rate."""

    def _words(self, signals: list[np.ndarray]) -> list[list[Word]]:
        raise NotImplementedError

    def _through(
        self,
        function: Callable[[list[np.ndarray]], list[T]],
        waveforms: Sequence[ArrayLike],
        rate: int,
        of_silence: T,
    ) -> list[T]:
        results = [of_silence] * len(waveforms)
        alike: dict[int, list[tuple[int, np.ndarray]]] = {}
        for place, waveform in enumerate(waveforms):
            if (signal := self._prepared(waveform, rate)) is not None:
                alike.setdefault(len(signal), []).append((place, signal))
        for group in alike.values():
            for start in range(0, len(group), self.batch_size):
                places, signals = zip(*group[start : start + self.batch_size], strict=True)
                for place, result in zip(places, function([*signals]), strict=True):
                    results[place] = result
        return results

    def _prepared(self, waveform: ArrayLike, rate: int) -> np.ndarray | None:
        """A signal as the model takes it, or None if there is nothing to hear."""
        signal = np.asarray(waveform, dtype=np.float32)
        if signal.ndim != 1:
            raise ValueError(f"a signal must be [time], not {list(signal.shape)}")
        if not np.isfinite(signal).all():
            logger.warning("a signal holds values that are no numbers; its text is empty")
            return None
        if np.abs(signal).max(initial=0) < SILENT_PEAK:
            return None
        signal = resample(signal, rate, self.sample_rate).astype(np.float32)
        missing = round(LEAST_SECONDS * self.sample_rate) - len(signal)
        return np.pad(signal, (0, max(0, missing)))


@contextmanager
def loading(source: Source, *packages: str) -> Iterator[None]:
    """What these packages refuse of a model's files, or cannot fetch, is one line."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if not raised_in(error, *packages):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".:")
        remedy = "is it whole, and for this kind?" if source.folder else "name a local folder"
        raise InputError(f"{source.spec}: cannot be loaded ({reason}); {remedy}") from error
