"""YAML as ruamel reads and writes it: tags and comments kept, nothing constructed."""

import io
import math
import re
from collections.abc import Iterable
from itertools import accumulate
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML, YAMLError
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.representer import RoundTripRepresenter

from custom_modules.errors import InputError
from custom_modules.files import regular_file

#: What is read of an hparams file, in bytes, and how many values it may stand for.
_MOST_BYTES, _MOST_VALUES, _MOST_NESTED = 1_000_000, 100_000, 200

#: Where files made by earlier versions look for what has moved since.
RENAMED_PATHS = {
    "custom_modules.training.stopping.StoppingEpochCounter": (
        "custom_modules.steps.StoppingEpochCounter"
    ),
    "custom_modules.corpus.speech_folder.SpeechFolder": (
        "custom_modules.corpus.folders.SpeechFolder"
    ),
}


class _Representer(RoundTripRepresenter):
    """Writes 1e-05 as 1.0e-05, or readers of YAML 1.1 would take it for text."""

    def represent_scalar(self, tag: Any, value: str, *args: Any, **kwargs: Any) -> ScalarNode:
        match = re.fullmatch(r"([+-]?\d+)(\.\d*)?e([+-]?)(\d+)", value.lower())
        if match and str(tag).endswith(":float"):
            value = f"{match[1]}{match[2] or '.0'}e{match[3] or '+'}{match[4]}"
        return super().represent_scalar(tag, value, *args, **kwargs)


def read_yaml(hparams_file: str | Path) -> dict[str, Any]:
    """The top level of an hparams file, nothing in it constructed."""
    try:
        text = regular_file(hparams_file, _MOST_BYTES).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise InputError(f"{hparams_file}: cannot be read ({reason})") from error
    for old, new in RENAMED_PATHS.items():
        text = re.sub(rf"(?<=:){re.escape(old)}\b", new, text)
    try:
        tree = parse_yaml(text)
    except ValueError as error:
        raise InputError(f"{hparams_file}: not valid YAML ({error})") from error
    if not isinstance(tree, dict) or not all(isinstance(key, str) for key in tree):
        raise InputError(f"{hparams_file}: holds no keys; is it an hparams file?")
    return tree


def parse_yaml(text: str) -> Any:
    """YAML 1.2 with what its tags say; ValueError, of a line, for what cannot be read.

    Nested aliases in a few lines can stand for more values than a memory holds.
    """
    depths = accumulate(
        text, lambda depth, char: depth + (char in "[{") - (char in "]}"), initial=0
    )
    if max(depths) > _MOST_NESTED:  # takes its square of time
        raise ValueError("too many brackets in brackets")
    try:
        tree = YAML().load(text)
        size = _values_in(tree, {})
    except (YAMLError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())) from error
    if size > _MOST_VALUES:
        raise ValueError(f"its aliases stand for {size:.3g} values")
    return tree


def _values_in(node: Any, known: dict[int, float]) -> float:
    """How many values a tree has, what aliases stand for included; maybe infinite."""
    if id(node) not in known:
        known[id(node)] = math.inf  # if it is found in itself
        known[id(node)] = 1 + sum(_values_in(value, known) for value in below(node))
    return known[id(node)]


def below(node: Any) -> Iterable[Any]:
    """What a node of a tree holds."""
    return node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()


def tag_of(value: object) -> str:
    """HyperPyYAML's tag of a node, such as ``!ref``; an empty string if it has none."""
    return getattr(getattr(value, "tag", None), "value", None) or ""


def plain(node: Any) -> Any:
    """A tree as JSON has it, without comments: a tag is a key, a scalar is text.

    >>> plain(parse_yaml("lr: 1.0e-3  # low\\nloss: !name:a.b\\nsizes: !new:c [1, 2]"))
    {'lr': '0.001', 'loss': {'!name:a.b': ''}, 'sizes': {'!new:c': ['1', '2']}}
    """
    found: Any = str(getattr(node, "value", node))
    if isinstance(node, dict):
        found = {str(key): plain(value) for key, value in node.items()}
    elif isinstance(node, list):
        found = [plain(value) for value in node]
    return {tag: found} if (tag := tag_of(node)) else found


def yaml_stream(path: str, tree: dict[str, Any]) -> io.StringIO:
    """The text of a tree, as of a file."""
    stream = io.StringIO()
    round_trip = YAML()
    round_trip.Representer = _Representer
    round_trip.width = 4096
    round_trip.dump(tree, stream)
    stream.seek(0)
    stream.name = path  # type: ignore[misc]  # HyperPyYAML includes files beside it
    return stream
