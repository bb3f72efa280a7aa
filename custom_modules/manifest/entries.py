"""Manifest entries, and the JSON file that they make up."""

import json
import math

from custom_modules.layout import LAYERS, OPTIONAL_COLUMNS
from custom_modules.manifest.csv_tables import mixture_id
from custom_modules.mmipc import CANCELLED_LAYERS, variants_of

#: environment → pairs of a variant and the layers that it cancels
_VARIANTS = {
    environment: [(variant, layers[variant]) for variant in variants_of(environment)]
    for environment, layers in CANCELLED_LAYERS.items()
}

#: In an entry only if the corpus has a list of speakers.
SPEAKER_KEYS = ("speaker1", "gender1", "speaker2", "gender2")


def escape_braces(text):
    """Protects literal braces from SpeechBrain's replacement of ``{data_root}``.

    Arguments
    ---------
    text : str
        What a reader of the manifest should get.

    Returns
    -------
    str

    Example
    -------
    >>> escape_braces("take{2}.wav")
    'take{{2}}.wav'
    >>> escape_braces("take{2}.wav").format_map({})
    'take{2}.wav'
    """
    return text.replace("{", "{{").replace("}", "}}")


def manifest_entry(row):
    """What the manifest says about one mixture.

    Arguments
    ---------
    row : dict
        A path for each of :data:`~custom_modules.layout.LAYERS`
        (relative to the corpus folder, ``""`` if there is none),
        ``sample_rate`` (Hz), ``frames``, and the optional columns.

    Returns
    -------
    dict
        Ready for JSON. Paths begin with ``{data_root}``; unknown values are
        None, so that all entries of a manifest have the same keys.

    Source: the variants are those of Kleć, Szklanny, Wieczorkowska 2024.

    Example
    -------
    >>> row = dict.fromkeys(LAYERS, "") | {"sample_rate": 8000, "frames": 32000}
    >>> row |= {"mix": "val/mix/a.wav", "s1": "1.wav", "s2": "2.wav"}
    >>> row |= {"scene": "scene.wav", "event": "event.wav"}
    >>> entry = manifest_entry(row)
    >>> entry["mix"], entry["duration"], entry["environment"]
    ('{data_root}/val/mix/a.wav', 4.0, 'outdoor')
    >>> entry["variants"]["S"]
    ['{data_root}/event.wav']
    """
    environment = "indoor" if row["s1_reverb"] else "outdoor"
    paths = {
        layer: "{data_root}/" + escape_braces(row[layer])
        for layer in LAYERS
        if row[layer]
    }
    entry = {
        "duration": row["frames"] / row["sample_rate"],
        "sample_rate": row["sample_rate"],
        "environment": environment,
        "mix": paths["mix"],
        "s1": paths["s1"],
        "s2": paths["s2"],
        "s2_layers": [paths[x] for x in ("s2", "s2_reverb") if x in paths],
        "variants": {
            variant: [paths[layer] for layer in layers]
            for variant, layers in _VARIANTS[environment]
        },
    }
    entry.update((name, _value(row.get(name))) for name in OPTIONAL_COLUMNS)
    entry.update((name, _value(row[name])) for name in SPEAKER_KEYS if name in row)
    return entry


def _value(value):
    """A cell as JSON has it: text, a number, or None if it is missing."""
    if isinstance(value, str):
        return escape_braces(value) or None
    if value is None or not math.isfinite(value):
        return None
    return int(value) if value == int(value) else value


def write_entries(path, rows):
    """Writes a manifest, one line per mixture, so that it can be streamed.

    Arguments
    ---------
    path : pathlib.Path
        The file to write.
    rows : pandas.DataFrame
        As in :class:`~custom_modules.manifest.csv_tables.Table`, with
        ``sample_rate`` and ``frames``.
    """
    names = [*LAYERS, "sample_rate", "frames", *OPTIONAL_COLUMNS, *SPEAKER_KEYS]
    names = [name for name in names if name in rows]
    columns = [rows[name].tolist() for name in names]
    rows = (
        dict(zip(names, cells, strict=True)) for cells in zip(*columns, strict=True)
    )
    write_lines(path, ((mixture_id(row["mix"]), manifest_entry(row)) for row in rows))


def write_lines(path, entries):
    """Writes entries as JSON, each on a line of its own.

    Arguments
    ---------
    path : pathlib.Path
        The file to write.
    entries : iterable of (str, dict)
        Mixture id and entry; at least one.
    """
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        separator = "{\n"
        for name, entry in entries:
            key, value = (json.dumps(x, ensure_ascii=False) for x in (name, entry))
            file.write(f"{separator}{key}: {value}")
            separator = ",\n"
        file.write("\n}\n")
