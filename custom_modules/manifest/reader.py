"""Reading a manifest without holding it as Python objects."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from speechbrain.dataio.dataio import _recursive_format

from custom_modules.errors import InputError

_ENTRY = re.compile(rb'\s*("(?:[^"\\]|\\.)*")\s*:\s*(\{.*\})\s*,?\s*')


class Manifest(Mapping):
    """A JSON manifest whose entries are parsed when they are asked for.

    A manifest of 128,000 mixtures takes over a gigabyte as Python objects, and
    again as much in every worker, as counting references copies memory pages.
    As bytes it takes what the file takes, once.

    Arguments
    ---------
    path : str or pathlib.Path
        A manifest as ``polsess_prepare.py`` writes it, or any JSON of the shape
        that SpeechBrain's ``load_data_json`` reads.
    replacements : dict
        Such as ``{"data_root": "/corpora/PolSESS"}``.

    Raises
    ------
    InputError
        If the file cannot be read, is no manifest, or is empty.

    Example
    -------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "train.json"
    >>> _ = path.write_text('{"a": {"mix": "{data_root}/a.wav"}}')
    >>> Manifest(path, {"data_root": "/corpus"})["a"]
    {'mix': '/corpus/a.wav'}
    """

    def __init__(self, path, replacements):
        self.path = Path(path)
        self.replacements = dict(replacements)
        self._bytes, self._spans = self._index(self._read())
        if not self._spans:
            raise InputError(f"{path}: holds no mixtures; run polsess_prepare.py again")

    def __getitem__(self, mixture_id):
        start, end = self._spans[mixture_id]
        entry = json.loads(self._bytes[start:end])
        _recursive_format(entry, self.replacements)
        return entry

    def __iter__(self):
        return iter(self._spans)

    def __len__(self):
        return len(self._spans)

    def _read(self):
        try:
            return self.path.read_bytes()
        except OSError as error:
            raise InputError(
                f"{self.path}: cannot be read ({error.strerror}); "
                "run polsess_prepare.py first"
            ) from error

    def _index(self, content):
        """Where each entry lies: one a line if it can be, else parsed and laid so."""
        spans = _line_spans(content)
        if spans is None:
            try:
                entries = json.loads(content)
                lines = [
                    f"{json.dumps(k)}: {json.dumps(v)}" for k, v in entries.items()
                ]
            except (ValueError, AttributeError) as error:
                raise InputError(
                    f"{self.path}: no manifest ({error}); run polsess_prepare.py again"
                ) from error
            content = ("{\n" + ",\n".join(lines) + "\n}\n").encode()
            spans = _line_spans(content)
        return content, spans


def _line_spans(content):
    """id → (start, end) of its entry, or None if the entries are laid otherwise."""
    spans, position = {}, 0
    for line in content.splitlines(keepends=True):
        entry = _ENTRY.fullmatch(line)
        if entry:
            spans[json.loads(entry[1])] = tuple(position + i for i in entry.span(2))
        elif line.strip() not in (b"{", b"}", b""):
            return None
        position += len(line)
    return spans
