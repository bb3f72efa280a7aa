"""Whisper (Radford et al. 2022) by faster-whisper, from CTranslate2's files."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from custom_modules.processes import available_cores
from custom_modules.recognition.interface import Options, Recogniser, Source, Word, loading
from custom_modules.recognition.packages import imported

_COMPUTE_TYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "int8": "int8"}
_BEAM_SIZE = 5  # faster-whisper's own default
#: A text that zlib makes so much shorter repeats itself; also the tool's own threshold.
_REPETITIVE = 2.4
_NO_LOOP = {"no_repeat_ngram_size": 3}  # tokens


class WhisperRecogniser(Recogniser):
    """Transcribes without voice activity filter and without what was said before.

    A batch are so many signals side by side. Nothing is sampled, so that the same signal has
    the same text: where the tool would try again with sampled words because a text repeats
    itself, as of noise, this tries again without anything that is said twice.
    """

    sample_rate, gives_times = 16_000, True

    def __init__(self, source: Source, options: Options) -> None:
        tool = imported("faster_whisper")
        device, _, index = options.device.partition(":")
        with loading(source, "faster_whisper", "huggingface_hub", "ctranslate2", "tokenizers"):
            self.model = tool.WhisperModel(
                source.place,
                device=device,
                device_index=int(index or 0),
                compute_type=_COMPUTE_TYPES.get(options.precision or "", "default"),
                cpu_threads=max(1, available_cores() // options.rows),
                num_workers=options.rows,
                local_files_only=source.folder is not None,
            )
        self.decoding: dict[str, Any] = {
            "language": options.language if self.model.model.is_multilingual else "en",
            "beam_size": options.beam_size or _BEAM_SIZE,
            "condition_on_previous_text": False,
            "temperature": 0.0,
        }
        self.version = f"faster-whisper {tool.__version__}"
        settings = {"of_loops": _NO_LOOP, "compute_type": self.model.model.compute_type}
        self.options = self.decoding | settings

    def _texts(self, signals: list[np.ndarray]) -> list[str]:
        parts = ([s.text.strip() for s in segments] for segments in self._segments(signals))
        return [" ".join(filter(None, texts)) for texts in parts]

    def _words(self, signals: list[np.ndarray]) -> list[list[Word]]:
        return [
            [Word(w.word.strip(), float(w.start), float(w.end)) for s in segments for w in s.words]
            for segments in self._segments(signals, word_timestamps=True)
        ]

    def _segments(self, signals: list[np.ndarray], **more: Any) -> list[list[Any]]:
        def segments_of(signal: np.ndarray, **avoiding: int) -> list[Any]:
            return list(self.model.transcribe(signal, **self.decoding, **more, **avoiding)[0])

        def without_loops(signal: np.ndarray) -> list[Any]:
            segments = segments_of(signal)
            loops = any(segment.compression_ratio > _REPETITIVE for segment in segments)
            return segments_of(signal, **_NO_LOOP) if loops else segments

        if len(signals) == 1:
            return [without_loops(signals[0])]
        with ThreadPoolExecutor(len(signals)) as threads:
            return list(threads.map(without_loops, signals))
