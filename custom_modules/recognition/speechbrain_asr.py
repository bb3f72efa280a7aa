"""SpeechBrain's own recognisers: an encoder with CTC, or with a decoder behind it."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import snapshot_download
from speechbrain.utils.fetching import FetchConfig
from torch import nn

from custom_modules.recognition.interface import Options, Recogniser, Source, loading
from custom_modules.weights import load_exactly, read_weights
from custom_modules.yaml_trees import read_yaml

_PACKAGES = ("speechbrain", "hyperpyyaml", "ruamel", "yaml", "huggingface_hub", "torch")


class SpeechBrainRecogniser(Recogniser):
    """EncoderASR if the folder names a ``decoding_function``, else EncoderDecoderASR.

    Its YAML is run as code.
    """

    def __init__(self, source: Source, options: Options) -> None:
        tool = importlib.import_module("speechbrain.inference.ASR")
        with loading(source, *_PACKAGES):
            folder = source.folder or Path(snapshot_download(source.place))
            tree = read_yaml(folder / "hyperparams.yaml")
            kind = tool.EncoderASR if "decoding_function" in tree else tool.EncoderDecoderASR
            self.model = kind.from_hparams(
                source=str(folder),
                run_opts={"device": options.device},
                fetch_config=FetchConfig(allow_network=source.folder is None),
            )
        self._check_weights()
        if hasattr(self.model.tokenizer, "ignore_len"):  # it would warn of each size that it has
            self.model.tokenizer.ignore_len()
        self.dtype = options.dtype
        self.sample_rate = int(getattr(self.model.hparams, "sample_rate", 16_000))
        self.version = f"speechbrain {importlib.import_module('speechbrain').__version__}"
        self.options = {"class": kind.__name__, "precision": options.precision or "fp32"}

    def _check_weights(self) -> None:
        """SpeechBrain only logs what does not fit, and leaves it as it was drawn."""
        pretrainer: Any = self.model.hparams.pretrainer
        for name, module in pretrainer.loadables.items():
            path = pretrainer.paths.get(name)
            is_plain = isinstance(module, nn.Module) and not hasattr(module, "_speechbrain_loader")
            if is_plain and path and Path(path).is_file():
                load_exactly(module, read_weights(Path(path)), Path(path))

    def _texts(self, signals: list[np.ndarray]) -> list[str]:
        batch = torch.from_numpy(np.stack(signals))
        enabled = self.dtype != torch.float32
        with (
            torch.inference_mode(),
            torch.autocast(torch.device(self.model.device).type, self.dtype, enabled=enabled),
        ):
            texts, _ = self.model.transcribe_batch(batch, torch.ones(len(signals)))
        return [str(text).strip() for text in texts]
