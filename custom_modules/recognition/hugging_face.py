"""Models of transformers: CTC, such as wav2vec 2.0, and encoders with a decoder."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from custom_modules.recognition.interface import Options, Recogniser, Source, Word, loading
from custom_modules.recognition.packages import imported

_PACKAGES = ("transformers", "huggingface_hub", "tokenizers", "safetensors", "json", "httpx")
#: What Whisper takes in one piece, s.
_WINDOW_SECONDS = 30.0


class TransformersRecogniser(Recogniser):
    """Greedy, unless the model's own settings or ``beam_size`` say otherwise."""

    def __init__(self, source: Source, options: Options) -> None:
        tool = imported("transformers")
        tool.utils.logging.disable_progress_bar()
        files: dict[str, Any] = {"local_files_only": source.folder is not None}
        with loading(source, *_PACKAGES):
            config = tool.AutoConfig.from_pretrained(source.place, **files)
            names = config.architectures or []
            self.is_ctc = any(name.endswith("ForCTC") for name in names)
            kind = tool.AutoModelForCTC if self.is_ctc else tool.AutoModelForSpeechSeq2Seq
            model = kind.from_pretrained(source.place, dtype=torch.float32, **files)
            self.extractor = tool.AutoFeatureExtractor.from_pretrained(source.place, **files)
            self.tokenizer = tool.AutoTokenizer.from_pretrained(source.place, **files)
        self.model, self.dtype = model.to(options.device).eval(), options.dtype
        self.sample_rate = self.extractor.sampling_rate
        self.gives_times = self.is_ctc and hasattr(config, "inputs_to_logits_ratio")
        self.decoding = {} if self.is_ctc else self._decoding(options)
        self.version = f"transformers {tool.__version__}"
        self.options = {"precision": options.precision or "fp32", **self.decoding}

    def _decoding(self, options: Options) -> dict[str, Any]:
        """What ``generate`` is told; language and task only where the model knows of them."""
        settings = self.model.generation_config
        decoding: dict[str, Any] = {"num_beams": options.beam_size or settings.num_beams or 1}
        if getattr(settings, "is_multilingual", False):
            decoding |= {"language": options.language, "task": "transcribe"}
        return decoding

    def _texts(self, signals: list[np.ndarray]) -> list[str]:
        ids = self._best_path(signals) if self.is_ctc else self._generated(signals)
        return [t.strip() for t in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]

    def _words(self, signals: list[np.ndarray]) -> list[list[Word]]:
        seconds = self.model.config.inputs_to_logits_ratio / self.extractor.sampling_rate
        wanted = {"output_word_offsets": True, "skip_special_tokens": True}
        decoded = self.tokenizer.batch_decode(self._best_path(signals), **wanted)

        def word(said: dict[str, Any]) -> Word:
            start, end = (float(said[f"{x}_offset"]) * seconds for x in ("start", "end"))
            return Word(said["word"], start, end)

        return [[word(said) for said in words] for words in decoded.word_offsets]

    def _best_path(self, signals: list[np.ndarray]) -> Tensor:
        """The likeliest token of each frame, ``[batch, frames]``."""
        with torch.inference_mode(), self._autocast():
            logits: Tensor = self.model(**self._inputs(signals)).logits
        return logits.argmax(-1).cpu()

    def _generated(self, signals: list[np.ndarray]) -> Tensor:
        whole = self.model.config.model_type == "whisper"
        is_long = whole and len(signals[0]) > _WINDOW_SECONDS * self.extractor.sampling_rate
        more: dict[str, Any] = {}
        if is_long:  # piece by piece, as Whisper's authors do
            more = {"truncation": False, "padding": "longest", "return_attention_mask": True}
        times = {"return_timestamps": True} if is_long else {}
        with torch.inference_mode(), self._autocast():
            inputs = self._inputs(signals, **more)
            ids: Tensor = self.model.generate(**inputs, **self.decoding, **times)
        return ids.cpu()

    def _inputs(self, signals: list[np.ndarray], **more: Any) -> dict[str, Tensor]:
        rate = self.extractor.sampling_rate
        features = self.extractor(signals, sampling_rate=rate, return_tensors="pt", **more)
        return {name: tensor.to(self.model.device) for name, tensor in features.items()}

    def _autocast(self) -> torch.autocast:
        enabled = self.dtype != torch.float32
        return torch.autocast(self.model.device.type, self.dtype, enabled=enabled)
