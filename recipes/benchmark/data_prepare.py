"""How fast the prepare step is, beside a bare loop over the same headers.

    python recipes/benchmark/data_prepare.py --rows 20000

``data.py`` runs it together with the other measurements.
"""

import argparse
import csv
import logging
import os
import resource
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from custom_modules.layout import LAYERS, OPTIONAL_COLUMNS, SEGMENT_COLUMNS
from custom_modules.processes import available_cores
from polsess_prepare import prepare_polsess
from recipes.benchmark.side_by_side import Row, show, speeds, time_alternately

RATE = 8000  # Hz
SECONDS = 4
MIXTURES = 8  # real ones, of which all others are hard links
INDOOR_SHARE = 0.8  # as in PolSESS


def benchmark_prepare(work_folder: str | Path, rows: int = 20_000) -> list[Row]:
    """Times the prepare step against a bare loop that reads the same headers.

    Both read the same files, warm, in alternating order, from a corpus of hard links
    that is made in ``work_folder`` and removed again.
    """
    Path(work_folder).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=work_folder) as folder:
        corpus, cores = Path(folder, "Links"), available_cores()
        files = make_linked_corpus(corpus, rows)
        ways = {
            "bare soundfile loop": lambda: _bare_loop(files),
            "prepare, 1 process": lambda: _prepare(corpus, folder, workers=1),
            f"prepare, {cores} processes": lambda: _prepare(corpus, folder, cores),
        }
        return speeds(time_alternately(ways), rows, "rows")


def make_linked_corpus(root: Path, rows: int) -> list[str]:
    """Makes a training subset of hard links to a few mixtures; returns audio files."""
    subset = root / "train"
    for _, folder in LAYERS.values():
        (subset / folder).mkdir(parents=True, exist_ok=True)
    originals = [_write_mixture(root, number) for number in range(MIXTURES)]
    columns = [*SEGMENT_COLUMNS.values(), *OPTIONAL_COLUMNS.values()]
    columns += [column for column, _ in LAYERS.values()]
    files = []
    table = subset / f"corpus_{root.name}_train_final.csv"
    with open(table, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for number in range(rows):
            row, links = _link_mixture(subset, number, originals[number % MIXTURES])
            writer.writerow(row)
            files += links
    return files


def _write_mixture(root: Path, number: int) -> dict[str, Path]:
    """Writes layers of noise and their sum; returns layer → file."""
    random = np.random.default_rng(number)
    indoor = number < INDOOR_SHARE * MIXTURES
    layers = list(LAYERS)[1:] if indoor else list(LAYERS)[1:5]
    signals = random.integers(-2000, 2000, (len(layers), RATE * SECONDS))
    paths = {}
    for layer, samples in zip(
        ["mix", *layers], [signals.sum(axis=0), *signals], strict=True
    ):
        paths[layer] = root / f"original_{number}_{layer}.wav"
        soundfile.write(paths[layer], samples.astype(np.int16), RATE)
    return paths


def _link_mixture(
    subset: Path, number: int, original: dict[str, Path]
) -> tuple[dict[str, str | int], list[str]]:
    """Links a mixture's files under names of its own; returns CSV row and links."""
    row: dict[str, str | int] = {
        "SSR": number % 11 - 5,
        "sceneClass": "bus",
        "eventClass": "bell",
    }
    for speaker in (1, 2):
        row[f"speech{speaker}OryginalPath"] = f"speaker_{number % 97}/{number}.wav"
        row[f"speech{speaker}Start"] = 5 * speaker
        row[f"speech{speaker}End"] = 5 * speaker + SECONDS
    links = []
    for layer, path in original.items():
        column, folder = LAYERS[layer]
        name = f"{layer}_of_the_mixture_number_{number:06}.wav"
        row[column] = name
        links.append(str(subset / folder / name))
        os.link(path, links[-1])
    return row, links


def _bare_loop(files: Sequence[str]) -> None:
    for file in files:
        soundfile.info(file)


def _prepare(corpus: Path, folder: str, workers: int) -> None:
    save_folder = Path(folder, "manifests")
    prepare_polsess(corpus, save_folder, subsets=["train"], workers=workers)
    shutil.rmtree(save_folder)  # or the next repetition would skip


def main() -> None:
    """Prints the figures and the memory that it took."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--work_folder", default=tempfile.gettempdir())
    options = parser.parse_args()
    # It is made of copies, and each run would say so.
    logging.disable(logging.WARNING)
    rows = benchmark_prepare(options.work_folder, options.rows)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(show([*rows, Row("peak memory", f"{peak:.0f} MiB")]))


if __name__ == "__main__":
    main()
