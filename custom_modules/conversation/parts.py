"""The chain's parts as options of a command, and the chain that they name."""

import argparse
from typing import Any

from custom_modules.conversation.activity import DETECTORS
from custom_modules.conversation.chain import Chain
from custom_modules.conversation.stretches import ModelSeparator
from custom_modules.errors import check_number
from custom_modules.evaluation.record import fingerprint
from custom_modules.limits import option
from custom_modules.longform.stitching import CHUNK_SECONDS
from custom_modules.recognition.interface import Recogniser
from custom_modules.recognition.recognisers import load_recogniser
from custom_modules.recordings.work import load_model

#: Options that outputs depend on, beside the models.
CHOICES = ("activity", "embedding", "context_seconds", "chunk_seconds", "observation_db")
_OBSERVATION = "adds the recording at that level, dB, where it is separated; -14 say"


def add_options(parser: argparse.ArgumentParser) -> None:
    """What transcribing and testing have in common."""
    add = parser.add_argument
    add("--recogniser", metavar="KIND:FOLDER", help="such as whisper:FOLDER; without, no words")
    add("--enhancer", metavar="MODEL", help="an exported EB model, for where one speaks")
    add("--activity", choices=[*DETECTORS], default="silero", help="finds speech")
    add("--embedding", default="resemblyzer", help="of voices: resemblyzer or ecapa:FOLDER")
    add("--context_seconds", type=float, default=4.0, help="around an overlap (default: 4)")
    add("--chunk_seconds", type=option("chunk_seconds"), default=CHUNK_SECONDS)
    add("--observation_db", type=option("observation_db"), help=_OBSERVATION)
    add("--device", help="cpu, cuda, cuda:1; default: a GPU if there is one")


def load_chain(
    options: argparse.Namespace,
    num_speakers: int | None,
    diarization_is_given: bool = False,
    **more: Any,  # of Chain
) -> tuple[Chain, dict[str, Any]]:
    """The chain, checked, and all that its outputs depend on beside the recordings."""
    check_number("--context_seconds", options.context_seconds, least=0, most=60)
    loading = {"device": options.device, "chunk_seconds": options.chunk_seconds}
    models = [load_model(options.model, **loading)]
    if options.enhancer:
        models.append(load_model(options.enhancer, **loading))
    separators = [ModelSeparator(model) for model in models]
    recogniser = None
    if options.recogniser:
        recogniser = load_recogniser(options.recogniser, options.device or "cpu")
    chain = Chain(
        separators[0],
        recogniser,
        separators[1] if options.enhancer else None,
        num_speakers=num_speakers,
        activity=options.activity,
        embedding=options.embedding,
        context_seconds=options.context_seconds,
        observation_db=options.observation_db,
        **more,
    )
    chain.check(diarization_is_given)
    settings = {key: getattr(options, key) for key in CHOICES}
    settings |= {key: value for key, value in more.items() if isinstance(value, str)}
    settings["models"] = [fingerprint(model.mods) for model in models]
    return chain, settings | {"recogniser": _name_of(recogniser, options.recogniser)}


def _name_of(recogniser: Recogniser | None, spec: str | None) -> str:
    """All that a recogniser's texts depend on."""
    known = (getattr(recogniser, key, "") for key in ("name", "version", "options"))
    return " ".join(map(str, filter(None, known))) or spec or ""
