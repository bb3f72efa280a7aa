"""Manifest entries, and the JSON file that they make up."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from custom_modules.layout import LAYERS, OPTIONAL_COLUMNS, SPEAKER_KEYS, TEXT_COLUMNS
from custom_modules.manifest.csv_tables import mixture_id
from custom_modules.mmipc import CANCELLED_LAYERS, variants_of


def escape_braces(text: str) -> str:
    """Protects literal braces from SpeechBrain's replacement of ``{data_root}``.

    >>> escape_braces("take{2}.wav")
    'take{{2}}.wav'
    """
    return text.replace("{", "{{").replace("}", "}}")


def manifest_entry(row: Mapping) -> dict:
    """What the manifest says about one mixture, ready for JSON.

    ``row`` has a path for each of :data:`~custom_modules.layout.LAYERS` (relative to
    the corpus folder, ``""`` if there is none), ``sample_rate``, ``frames``, and the
    optional columns. Without an ``environment``, a mixture is indoors if it has
    reverberation. Unknown values are None, so that all entries of a manifest have the
    same keys.

    >>> row = dict.fromkeys(LAYERS, "") | {"sample_rate": 8000, "frames": 32000}
    >>> row |= {"mix": "val/mix/a.wav", "s1": "1.wav", "s2": "2.wav"}
    >>> row |= {"scene": "3.wav", "event": "4.wav"}
    >>> entry = manifest_entry(row)
    >>> entry["mix"], entry["duration"], entry["environment"]
    ('{data_root}/val/mix/a.wav', 4.0, 'outdoor')
    """
    environment = row.get("environment") or ("indoor" if row["s1_reverb"] else "outdoor")
    paths = {x: "{data_root}/" + escape_braces(row[x]) for x in LAYERS if row[x]}
    cancelled = CANCELLED_LAYERS[environment]
    entry = {
        "duration": row["frames"] / row["sample_rate"],
        "sample_rate": row["sample_rate"],
        "environment": environment,
        **{layer: paths[layer] for layer in ("mix", "s1", "s2")},
        "s2_layers": [paths[x] for x in ("s2", "s2_reverb") if x in paths],
        "variants": {
            name: [paths[layer] for layer in cancelled[name]] for name in variants_of(environment)
        },
    }
    entry.update((name, _value(row.get(name))) for name in OPTIONAL_COLUMNS)
    keys = (*SPEAKER_KEYS, *TEXT_COLUMNS)
    entry.update((name, _value(row[name])) for name in keys if name in row)
    return entry


def _value(value: str | float | None) -> str | float | None:
    """A cell as JSON has it: text, a number, or None if it is missing."""
    if isinstance(value, str):
        return escape_braces(value) or None
    if value is None or not math.isfinite(value):
        return None
    return int(value) if value == int(value) else value


def write_entries(path: str | Path, rows: pd.DataFrame) -> None:
    """Writes the manifest of surveyed rows, an entry per line."""
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        separator = "{\n"
        for cells in rows.itertuples(index=False, name=None):
            row = dict(zip(rows, cells, strict=True))
            key, entry = mixture_id(row["mix"]), manifest_entry(row)
            line = ": ".join(json.dumps(x, ensure_ascii=False) for x in (key, entry))
            file.write(separator + line)
            separator = ",\n"
        file.write("\n}\n")
