"""Recognisers by name: ``kind:place``, such as ``whisper:large-v2`` or ``mini:results/x``.

Start reading at :func:`load_recogniser`; a kind is one entry of :data:`KINDS`.
"""

import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from speechbrain.utils.logger import get_logger

from custom_modules.errors import InputError, check_number
from custom_modules.files import digest_of_files
from custom_modules.recognition.interface import Options, Recogniser, Source

logger = get_logger(__name__)

#: In front of a name on a hub, which may also be written without it.
HUB = "hf:"


class Kind(NamedTuple):
    """A tool that recognises."""

    module: str  # in this package, imported where it is asked for
    loader: str  # takes a Source and Options
    place: str  # what its model may be
    files: tuple[str, ...]  # that a folder must hold
    on_hub: Callable[[str], bool]  # whether it may be a name on a hub
    and_others: bool = True  # whether its model may be in other files, too


def _is_id(place: str) -> bool:
    """Whether it may be ``owner/name``: not if ``owner`` is a folder here."""
    owner, _, name = place.partition("/")
    return bool(owner and name) and "/" not in name and not Path(owner).exists()


def _is_size(place: str) -> bool:
    return bool(place) and "/" not in place and not place.startswith(".")


KINDS = {
    "whisper": Kind(
        *("whisper", "WhisperRecogniser", "FOLDER-OR-SIZE", ("model.bin", "tokenizer.json")),
        lambda place: _is_size(place) or _is_id(place),
    ),
    "transformers": Kind(
        "hugging_face", "TransformersRecogniser", "FOLDER-OR-ID", ("config.json",), _is_id
    ),
    "speechbrain": Kind(
        "speechbrain_asr", "SpeechBrainRecogniser", "FOLDER-OR-ID", ("hyperparams.yaml",), _is_id
    ),
    "mini": Kind(
        *("recognisers", "MiniRecognition", "FOLDER", ("recogniser.json", "recogniser.ckpt")),
        on_hub=lambda place: False,
        and_others=False,  # a results folder holds logs beside it
    ),
}

#: What may stand behind a spec, as ``,precision=int8``.
_PRECISIONS = ("fp32", "fp16", "bf16", "int8")


def load_recogniser(spec: str, device: str = "cpu") -> Recogniser:
    """The recogniser that a spec names, on a device.

    ``kind:place`` may be followed by options: ``whisper:large-v2,precision=fp16``,
    ``batch_size=4``, ``beam_size=1``. A local folder never asks a hub; what is none is
    downloaded by the kind's own tool, which is said. InputError if there is no such
    kind, folder or package.
    """
    kind, source, options = parse_spec(spec, device)
    module = importlib.import_module(f"custom_modules.recognition.{kind.module}")
    if source.folder is None:
        logger.warning("%s: is no folder here; its tool downloads it", source.spec)
        return _made(module, kind, source, options)
    with _offline():
        return _made(module, kind, source, options)


def _made(module: Any, kind: Kind, source: Source, options: Options) -> Recogniser:
    recogniser: Recogniser = getattr(module, kind.loader)(source, options)
    tool = source.spec.partition(":")[0]
    recogniser.name = f"{tool}:{source.folder.resolve().name if source.folder else source.place}"
    if source.folder:
        files = (
            source.folder.rglob("*") if kind.and_others else map(source.folder.joinpath, kind.files)
        )
        recogniser.version += f", files {digest_of_files(source.folder, files)}"
    recogniser.batch_size = options.rows
    recogniser.options |= {"batch_size": options.rows, "device": options.device.split(":")[0]}
    return recogniser


def parse_spec(spec: str, device: str = "") -> tuple[Kind, Source, Options]:
    """What a spec asks for; InputError if it cannot be had, on the ``device`` if that is known.

    >>> parse_spec("whisper:large-v2,beam_size=1,precision=int8")[2][1:4]
    ('int8', None, 1)
    """
    forms = ", ".join(f"{name}:{kind.place}" for name, kind in KINDS.items())
    name, _, rest = spec.partition(":")
    place, *pairs = rest.split(",")
    while pairs and "=" not in pairs[0]:  # a comma of the folder's name
        place = f"{place},{pairs.pop(0)}"
    if name not in KINDS or not place.strip():
        raise InputError(f"recogniser {spec!r}: is none of {forms}")
    if lone := [pair for pair in pairs if "=" not in pair]:
        raise InputError(f"recogniser {spec!r}: {lone[0]!r} is no option; write key=value")
    kind, chosen = KINDS[name], dict(pair.split("=", 1) for pair in pairs)
    return kind, _source(spec, kind, place), _options(spec, chosen, device)


def _source(spec: str, kind: Kind, place: str) -> Source:
    folder = Path(os.path.expanduser(place))
    if folder.is_dir():
        for name in kind.files:
            if not (folder / name).is_file():
                raise InputError(f"{spec}: the folder holds no {name}; is it for this kind?")
        return Source(spec, str(folder), folder)
    if folder.exists() or not kind.on_hub(place.removeprefix(HUB)):
        raise InputError(f"{spec}: no such folder; a recogniser is {kind.place}")
    return Source(spec, place.removeprefix(HUB), None)


def _options(spec: str, chosen: dict[str, str], device: str) -> Options:
    values: dict[str, Any] = {"device": device}
    for key, text in chosen.items():
        if key == "precision":
            if text not in _PRECISIONS:
                known = ", ".join(_PRECISIONS)
                raise InputError(f"{spec}: precision={text}: choose one of {known}")
            values[key] = text
        elif key in ("batch_size", "beam_size"):
            number = int(text) if text.isascii() and text.isdigit() else text
            check_number(f"{spec}: {key}", number, least=1, most=4096, whole=True)
            values[key] = number
        else:
            raise InputError(f"{spec}: no option {key}; there are precision, batch_size, beam_size")
    if values.get("precision") == "fp16" and device == "cpu":
        raise InputError(f"{spec}: fp16 needs a GPU; use bf16 or fp32 on a CPU")
    if values.get("precision") == "int8" and not spec.startswith("whisper:"):
        raise InputError(f"{spec}: int8 is for whisper: alone; use bf16 or fp32")
    return Options(**values)


@contextmanager
def _offline() -> Iterator[None]:
    """No hub is asked meanwhile, whatever a model's files name."""
    from huggingface_hub import constants

    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


class MiniRecognition(Recogniser):
    """The small recogniser of Mini-PolSESS's voices, of ``recipes/recognition/``."""

    version = "1"

    def __init__(self, source: Source, options: Options) -> None:
        module = importlib.import_module("custom_modules.recognition.mini")
        precision = options.precision or "fp32"
        self.model = module.MiniRecogniser(source.folder, options.device, precision)
        self.sample_rate = int(getattr(self.model, "sample_rate", 8000))
        self.options = {"precision": precision}

    def _texts(self, signals: list[np.ndarray]) -> list[str]:
        texts: list[str] = self.model.transcribe(signals, self.sample_rate)
        return texts
