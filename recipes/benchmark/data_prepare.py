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
from pathlib import Path

import numpy as np
import soundfile
from side_by_side import time_alternately, verdict

from custom_modules.layout import LAYERS, OPTIONAL_COLUMNS, SEGMENT_COLUMNS
from custom_modules.processes import available_cores
from polsess_prepare import prepare_polsess

RATE = 8000  # Hz
SECONDS = 4
MIXTURES = 8  # real ones, of which all others are hard links
INDOOR_SHARE = 0.8  # as in PolSESS
GOAL = 0.7  # of the bare loop's speed, per process


def benchmark_prepare(work_folder, rows=20_000):
    """Times the prepare step against a bare loop that reads the same headers.

    Both read the same files, warm, in alternating order; the medians of a few
    repetitions are compared.

    Arguments
    ---------
    work_folder : str or pathlib.Path
        Where a corpus of hard links is made and removed again.
    rows : int
        How many mixtures it has.

    Returns
    -------
    dict of str to float
        Rows per second: ``bare_loop``, ``one_process``, ``all_cores`` (and how
        many ``cores`` these are); and ``ratio``, of ``one_process`` to
        ``bare_loop``.
    """
    work_folder = Path(work_folder)
    work_folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=work_folder) as folder:
        corpus = Path(folder, "Links")
        files = make_linked_corpus(corpus, rows)
        cores = available_cores()
        ways = {
            "bare_loop": lambda: _bare_loop(files),
            "one_process": lambda: _prepare(corpus, folder, workers=1),
            "all_cores": lambda: _prepare(corpus, folder, workers=cores),
        }
        seconds = time_alternately(ways)
    speeds = {way: rows / spent for way, spent in seconds.items()}
    ratio = speeds["one_process"] / speeds["bare_loop"]
    return {**speeds, "cores": cores, "ratio": ratio}


def make_linked_corpus(root, rows):
    """Makes a training subset of hard links to a handful of mixtures.

    Arguments
    ---------
    root : pathlib.Path
        The corpus folder to make.
    rows : int
        How many mixtures.

    Returns
    -------
    list of str
        All audio files.
    """
    subset = root / "train"
    for _, folder in LAYERS.values():
        (subset / folder).mkdir(parents=True, exist_ok=True)
    originals = [_write_mixture(root, number) for number in range(MIXTURES)]
    names = list(SEGMENT_COLUMNS.values()) + list(OPTIONAL_COLUMNS.values())
    columns = names + [column for column, _ in LAYERS.values()]
    files = []
    table = subset / f"corpus_{root.name}_train_final.csv"
    with open(table, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for number in range(rows):
            row = _link_mixture(subset, number, originals[number % MIXTURES], files)
            writer.writerow(row)
    return files


def _write_mixture(root, number):
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


def _link_mixture(subset, number, original, files):
    """Links a mixture's files under names of its own; returns its CSV row."""
    row = {"SSR": number % 11 - 5, "sceneClass": "bus", "eventClass": "bell"}
    for speaker in (1, 2):
        row[f"speech{speaker}OryginalPath"] = f"speaker_{number % 97}/{number}.wav"
        row[f"speech{speaker}Start"] = 5 * speaker
        row[f"speech{speaker}End"] = 5 * speaker + SECONDS
    for layer, path in original.items():
        column, folder = LAYERS[layer]
        row[column] = f"{layer}_of_the_mixture_number_{number:06}.wav"
        link = str(subset / folder / row[column])
        os.link(path, link)
        files.append(link)
    return row


def _bare_loop(files):
    for file in files:
        soundfile.info(file)


def _prepare(corpus, folder, workers):
    save_folder = Path(folder, "manifests")
    prepare_polsess(corpus, save_folder, subsets=["train"], workers=workers)
    shutil.rmtree(save_folder)  # or the next repetition would skip


def show(figures):
    """The figures as lines to print.

    Arguments
    ---------
    figures : dict
        From :func:`benchmark_prepare`.

    Returns
    -------
    str
    """
    beside = f"{figures['ratio']:.2f} of the loop ({verdict(figures['ratio'], GOAL)})"
    lines = {
        "bare soundfile loop": f"{figures['bare_loop']:6.0f} rows/s",
        "prepare, 1 process": f"{figures['one_process']:6.0f} rows/s, {beside}",
        f"prepare, {figures['cores']} processes": f"{figures['all_cores']:6.0f} rows/s",
    }
    return "\n".join(f"{name:<22}{value}" for name, value in lines.items())


def main():
    """Prints the figures and the memory that it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--work_folder", default=tempfile.gettempdir())
    options = parser.parse_args()
    # It is made of copies, and each run would say so.
    logging.disable(logging.WARNING)
    print(show(benchmark_prepare(options.work_folder, options.rows)))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{'peak memory':<22}{peak:6.0f} MiB")


if __name__ == "__main__":
    main()
