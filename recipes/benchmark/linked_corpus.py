"""Large corpora for benchmarks: a few mixtures of noise under many names."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import soundfile

from custom_modules.layout import DRY_LAYERS, LAYERS

RATE = 8000  # Hz
SECONDS = 4
MIXTURES = 8  # real ones, of which all others are hard links
INDOOR_SHARE = 0.8  # as in PolSESS


def make_linked_corpus(root: Path, rows: int) -> list[str]:
    """Makes a training subset of hard links to a few mixtures; returns audio files."""
    subset = root / "train"
    for _, folder in LAYERS.values():
        (subset / folder).mkdir(parents=True, exist_ok=True)
    originals = [_write_mixture(root, number) for number in range(MIXTURES)]
    table, files = [], []
    for number in range(rows):
        row: dict[str, Any] = {"SSR": number % 11 - 5}
        row |= {"sceneClass": "bus", "eventClass": "bell"}
        for speaker in (1, 2):
            row[f"speech{speaker}OryginalPath"] = f"speaker_{number % 97}/{number}.wav"
            row[f"speech{speaker}Start"] = 5 * speaker
            row[f"speech{speaker}End"] = 5 * speaker + SECONDS
        for layer, original in originals[number % MIXTURES].items():
            column, folder = LAYERS[layer]
            row[column] = f"train_{number:06}_{layer}.wav"
            files.append(str(subset / folder / row[column]))
            os.link(original, files[-1])
        table.append(row)
    path = subset / f"corpus_{root.name}_train_final.csv"
    pd.DataFrame(table).to_csv(path, index=False)
    return files


def _write_mixture(root: Path, number: int) -> dict[str, Path]:
    """Writes layers of noise and their sum; returns layer → file."""
    indoor = number < INDOOR_SHARE * MIXTURES
    _, *layers = LAYERS if indoor else DRY_LAYERS
    random = np.random.default_rng(number)
    signals = random.integers(-2000, 2000, (len(layers), RATE * SECONDS))
    paths = {}
    signals = np.vstack([signals.sum(0), signals])
    for layer, samples in zip(["mix", *layers], signals, strict=True):
        paths[layer] = root / f"original_{number}_{layer}.wav"
        soundfile.write(paths[layer], samples.astype(np.int16), RATE)
    return paths


def repeat_manifest(manifest: Path, rows: int, target: Path) -> None:
    """A manifest of so many rows: those of a linked corpus, again under other names."""
    entries = manifest.read_text(encoding="utf-8").splitlines()[1:-1]
    few = len(entries)
    lines = (
        entries[n % few].rstrip(",").replace(f"train_{n % few:06}", f"train_{n:06}")
        for n in range(rows)
    )
    target.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
