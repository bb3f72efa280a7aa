"""Reading the JSON manifests that the preparation writes."""

import itertools
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from speechbrain.dataio.dataio import _recursive_format

from custom_modules.errors import InputError
from custom_modules.files import regular_file
from custom_modules.layout import (
    MOST_SECONDS,
    NAME,
    RATES,
    SOURCE_KEYS,
    SPEAKER_KEYS,
    corpora,
    path_below,
    talkers_of,
)
from custom_modules.mmipc import CANCELLED_LAYERS, variants_of

_BEFORE_ID, _BEFORE_ENTRY = re.compile(r'\s*[{,]\s*(?=")'), re.compile(r"\s*:\s*(?={)")
# Of paths, a line for each, what needs no closer look.
_USUAL = re.compile(r"(\{data_root\}/[^/\\\0{}\n][^\\\0{}\n]*\n)+")
_parse = json.JSONDecoder().raw_decode  # from a position: the value and its end


class Manifest(Mapping):
    """A JSON manifest whose entries are parsed when they are asked for.

    128,000 mixtures take over a gigabyte as Python objects, and again as much in every
    worker, as counting references copies memory pages; as text, what the file takes,
    once. Any JSON will do that SpeechBrain's ``load_data_json`` reads and whose entries
    are as ``manifest.entries.manifest_entry`` makes them, which is checked.
    """

    def __init__(self, path: str | Path, replacements: Mapping[str, str]) -> None:
        self.path, self.replacements = Path(path), dict(replacements)
        self.paths, self.roots = [self.path], [self.replacements.get("data_root", "")]
        try:
            self._text = regular_file(path).read_text(encoding="utf-8-sig")
            self._starts = self._checked_starts()
        except (InputError, OSError, ValueError, RecursionError) as error:
            reason = getattr(error, "strerror", None) or str(error).removeprefix(f"{path}: ")
            raise InputError(f"{path}: {reason}; make it by polsess_prepare.py") from error

    def _checked_starts(self) -> dict[str, int]:
        """id → where its entry begins; each is parsed, and not kept."""
        starts: dict[str, int] = {}
        rates: set[int] = set()
        for mixture_id, start, entry in _entries(self._text):
            fault = "occurs twice" if mixture_id in starts else ""
            fault = fault or _fault(mixture_id, entry, self.replacements)
            if not fault and len(rates := {*rates, entry["sample_rate"]}) > 1:
                fault = "has another sample_rate than those before"
            if fault:
                raise ValueError(f"{mixture_id!r} {fault}")
            starts[mixture_id] = start
        return starts

    @property
    def sample_rate(self) -> int:
        """Of all mixtures, Hz."""
        return int(self[next(iter(self))]["sample_rate"])

    def __getitem__(self, mixture_id: str) -> dict:
        entry, _ = _parse(self._text, self._starts[mixture_id])
        _recursive_format(entry, self.replacements)
        return entry

    def __iter__(self) -> Iterator[str]:
        return iter(self._starts)

    def __len__(self) -> int:
        return len(self._starts)


class JoinedManifest(Mapping):
    """Manifests of several corpora as one; ids begin with the corpus, which entries name."""

    def __init__(self, manifests: Mapping[str, Manifest]) -> None:
        self.paths = [path for manifest in manifests.values() for path in manifest.paths]
        self.roots = [root for manifest in manifests.values() for root in manifest.roots]
        self.path = ", ".join(map(str, self.paths))
        rates = {manifest.sample_rate for manifest in manifests.values()}
        if len(rates) > 1:
            known = ", ".join(map(str, sorted(rates)))
            raise InputError(f"{self.path}: are of rates {known} Hz; train on one of them")
        self.sample_rate = rates.pop()
        self._manifests = dict(manifests)
        self._places = {f"{label}-{x}": (label, x) for label, m in manifests.items() for x in m}
        if len(self._places) < sum(map(len, manifests.values())):
            raise InputError(f"{self.path}: ids meet; rename one of the corpora's folders")

    def __getitem__(self, mixture_id: str) -> dict:
        label, name = self._places[mixture_id]
        return self._manifests[label][name] | {"corpus": label}

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def voices_elsewhere(manifests: Mapping[str, Mapping]) -> dict[str, list[str]]:
    """Set → names of its voices that another corpus's ``train`` has, too; without the others."""
    if not isinstance(manifests["train"], JoinedManifest):
        return {}
    voices = {split: _corpora_of_voices(manifest) for split, manifest in manifests.items()}
    learnt = voices.pop("train")
    shared = {
        split: sorted(x for x in heard.keys() & learnt if len(heard[x] | learnt[x]) > 1)
        for split, heard in voices.items()
    }
    return {split: names for split, names in shared.items() if names}


def _corpora_of_voices(manifest: Mapping) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for entry in manifest.values():
        for name in filter(None, talkers_of({**entry, "corpus": ""})):
            found.setdefault(name, set()).add(entry["corpus"])
    return found


def open_manifest(path: str | Path, data_folder: str | list[str]) -> Manifest | JoinedManifest:
    """The manifest of a corpus, or those of several, each in a folder named after it."""
    if isinstance(data_folder, str):
        return Manifest(path, {"data_root": data_folder})
    path = Path(path)
    return JoinedManifest(
        {
            label: Manifest(path.parent / label / path.name, {"data_root": folder})
            for label, folder in corpora(data_folder).items()
        }
    )


def _entries(text: str) -> Iterator[tuple[str, int, dict]]:
    """Each id, where its entry begins, and the entry."""
    end = 0
    while before := _BEFORE_ID.match(text, end):
        mixture_id, end = _parse(text, before.end())
        if not (between := _BEFORE_ENTRY.match(text, end)):
            raise ValueError(f"{mixture_id!r} has no entry")
        entry, end = _parse(text, between.end())
        yield mixture_id, between.end(), entry
    if not end or text[end:].strip() != "}":
        raise ValueError("not the JSON of mixtures")


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


_LABELS = (*SPEAKER_KEYS, *SOURCE_KEYS, "scene_class", "event_class")
#: What an entry must have, and the check of its value; what it may lack, or have as null.
_REQUIRED: dict[str, Callable[[Any], bool]] = {
    "duration": lambda x: type(x) in (int, float) and 0 < x <= MOST_SECONDS,
    "sample_rate": lambda x: type(x) is int and RATES[0] <= x <= RATES[1],
    "environment": lambda x: _is_text(x) and x in CANCELLED_LAYERS,
    **dict.fromkeys(("mix", "s1", "s2"), _is_text),
    "s2_layers": _are_texts,
    "variants": lambda x: isinstance(x, dict) and all(map(_are_texts, x.values())),
}
_OPTIONAL: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(_LABELS, _is_text),
    **dict.fromkeys(("text1", "text2"), _is_text),
    **dict.fromkeys(("ssr_db", "scene_db"), lambda x: type(x) in (int, float) and math.isfinite(x)),
}
_KNOWN = {*_REQUIRED, *_OPTIONAL}


def _fault(mixture_id: str, entry: dict, replacements: Mapping[str, str]) -> str:
    """What is wrong with an entry, or nothing. Its id becomes the name of files."""
    if not NAME.fullmatch(mixture_id):
        return "cannot be a file's name"
    for key, is_right in (*_REQUIRED.items(), *_OPTIONAL.items()):
        value = entry.get(key)
        if (value is not None or key in _REQUIRED) and not is_right(value):
            return f"has {json.dumps(value)[:60]} as its {key}" if key in entry else f"has no {key}"
    if missing := set(variants_of(entry["environment"])) - set(entry["variants"]):
        return f"lacks the variants {', '.join(sorted(missing))}"
    layers = (entry["s2_layers"], *entry["variants"].values())
    paths = {entry["mix"], entry["s1"], entry["s2"], *itertools.chain(*layers)}
    lines = "\n".join([*paths, ""])
    labels = "".join(filter(None, map(entry.get, (*_LABELS, "text1", "text2"))))
    plain = entry.keys() <= _KNOWN and not {*labels} & {*"{}"}  # which would be formatted
    if plain and ".." not in lines and _USUAL.fullmatch(lines):
        return ""
    try:
        _recursive_format(entry, replacements)
        root = str(replacements.get("data_root"))
        for path in (path.format_map(replacements) for path in paths):
            below = path.removeprefix(f"{root}/")
            path_below(root, below)
            if below == path:  # then it starts at the disk's root, or where the command runs
                path_below(root, os.path.abspath(path))
    except (LookupError, ValueError, AttributeError) as error:  # of what is in braces
        return f"has a path that cannot be used: {error}"
    return ""
