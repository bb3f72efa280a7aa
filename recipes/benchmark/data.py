#!/usr/bin/env python3
"""Prepare step, loader, loss and memory, each beside what one would use otherwise.

    python recipes/benchmark/data.py
    python recipes/benchmark/data.py --only prepare --rows 100000 --output results/large

The ratios of a table are measured in one run, side by side, on corpora that are made in
--work_folder and removed again: of hard links, but for loading. Goes on where it was
interrupted; --page writes the tables into README.md beside this file. Linux only.
"""

from custom_modules.startup import prepare_process

prepare_process(__name__)

import argparse
import logging
import multiprocessing
import os
import shutil
import tempfile
import warnings
from collections import deque
from collections.abc import Callable
from functools import partial
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import soundfile
import torch
from speechbrain.dataio.dataloader import make_dataloader
from speechbrain.nnet.losses import get_si_snr_with_pitwrapper
from torch import Tensor

from custom_modules.composing import Part
from custom_modules.dataio import Manifest, MixtureDataset, collate
from custom_modules.errors import OptionParser, exit_cleanly
from custom_modules.layout import DRY_LAYERS, LAYERS
from custom_modules.manifest.packing import pack_corpus
from custom_modules.mmipc import VARIANTS
from custom_modules.objectives import pit_si_sdr_loss
from custom_modules.processes import available_cores
from polsess_prepare import prepare_polsess
from recipes.benchmark import kept_figures as kept
from recipes.benchmark import measuring
from recipes.benchmark.measuring import MIB, Row, speeds, time_alternately

SEED = 42
RATE = 8000  # Hz
SECONDS = 4
MIXTURES = 8  # real ones, of which all others are hard links, but where they are loaded
INDOOR_SHARE = 0.8  # as in PolSESS


def benchmark_prepare(folder: Path, rows: int) -> list[Row]:
    """Times the prepare step against a bare loop that reads the same headers, warm."""
    corpus, manifests, cores = folder / "Links", folder / "manifests", available_cores()
    files = make_linked_corpus(corpus, rows)

    def prepare(workers: int) -> None:
        prepare_polsess(corpus, manifests, subsets=["train"], workers=workers)
        shutil.rmtree(manifests)  # or the next repetition would skip

    ways = {
        "bare soundfile loop": lambda: [soundfile.info(file) for file in files],
        "prepare, 1 process": lambda: prepare(1),
        f"prepare, {cores} processes": lambda: prepare(cores),
    }
    table = speeds(time_alternately(ways), rows, "rows")
    return [*table, Row("peak memory so far", f"{measuring.host_peak() / MIB:.0f} MiB")]


def benchmark_loading(folder: Path, rows: int, batch_size: int = 8) -> list[Row]:
    """Times a training epoch's reading, of files and of a pack, against soundfile and numpy alone.

    Of mixtures as they are stored, and remixed. The bare loops know beforehand which files;
    the loader draws variants, donors and batches.
    """
    corpus, packed = folder / "Links", folder / "packed"
    manifest = _prepare_links(folder, rows, rows)  # no links: each file is read once
    pack_corpus(corpus, packed, ["train"])
    options, table = {"batch_size": batch_size, "collate_fn": collate}, []
    for name, remix in (("stored", None), ("remixed", True)):
        datasets = {at.name: _dataset(manifest, at, remix) for at in (corpus, packed)}
        recipes = [_files_of(item, datasets["Links"]) for item in datasets["Links"]]
        loaders = {at: make_dataloader(dataset, **options) for at, dataset in datasets.items()}
        ways: dict[str, Callable[[], object]] = {
            f"{name}: soundfile and numpy": partial(_read_and_add, recipes),
            f"{name}: loader, files": partial(deque, loaders["Links"], maxlen=0),
            f"{name}: loader, packed": partial(deque, loaders["packed"], maxlen=0),
        }
        table += speeds(time_alternately(ways), rows, "mixtures")
    return table


def _prepare_links(folder: Path, rows: int, mixtures: int = MIXTURES) -> Path:
    """The manifest of a corpus of hard links to some mixtures."""
    make_linked_corpus(folder / "Links", rows, mixtures)
    prepare_polsess(folder / "Links", folder, subsets=["train"], workers=1)
    return folder / "train.json"


def _dataset(manifest: Path, corpus: Path, remix: bool | None = None) -> MixtureDataset:
    entries = Manifest(manifest, {"data_root": str(corpus)})
    return MixtureDataset(entries, VARIANTS, "SB", SEED, remixing={"remix": remix})


def _files_of(item: dict[str, Any], dataset: MixtureDataset) -> tuple[list[Part], list[str]]:
    """What a mixture is the sum of, and the targets' files that are not among it."""
    layers = {part.layer for part in item["recipe"]}
    entry = dataset.data[item["id"]]
    return item["recipe"], [entry[name] for name in ("s1", "s2") if name not in layers]


def _read_and_add(recipes: list[tuple[list[Part], list[str]]]) -> None:
    for parts, others in recipes:
        read = [np.float32(x.gain) * soundfile.read(x.path, dtype="float32")[0] for x in parts]
        mixture = np.zeros_like(read[0])
        for samples in read:
            mixture += samples
        others = [soundfile.read(path, dtype="float32")[0] for path in others]
        np.stack((others or read)[:2])


def benchmark_pit(batch: int = 8, time: int = 32_000, repeats: int = 20) -> list[Row]:
    """Forward and backward of the loss, against SpeechBrain's."""
    targets = torch.randn(batch, time, 2)
    estimates = (targets + torch.randn(batch, time, 2)).requires_grad_()

    def repeat(loss: Callable[[], Tensor]) -> None:
        for _ in range(repeats):
            loss().sum().backward()

    ways = {
        # SpeechBrain's changes its first argument in place, so it gets a copy.
        f"PitWrapper, {batch} x {time}": lambda: repeat(
            lambda: get_si_snr_with_pitwrapper(targets.clone(), estimates)
        ),
        f"PIT loss, {batch} x {time}": lambda: repeat(
            lambda: pit_si_sdr_loss(estimates, targets)[0]
        ),
    }
    return speeds(time_alternately(ways), repeats, "batches")


def benchmark_memory(folder: Path, rows: int) -> list[Row]:
    """Memory of a training set, measured in a process of its own."""
    few, large = _prepare_links(folder, MIXTURES), folder / "large.json"
    repeat_manifest(few, rows, large)
    above_import, worker = measuring.in_fresh_process(_measure_memory, large)
    return [
        Row(f"manifest of {rows}, above import", f"{above_import:.0f} MiB"),
        Row("more in a worker that visited all of it", f"{worker:.0f} MiB"),
    ]


def _measure_memory(manifest: Path) -> tuple[float, float]:
    """MiB of a dataset here, and in a worker for itself."""
    before = _resident("Rss")
    dataset = _dataset(manifest, Path("/x"))
    dataset.set_output_keys(["id", "drawn"])  # all but the audio
    above_import = _resident("Rss") - before
    fork = multiprocessing.get_context("fork")
    in_worker = fork.Value("d")
    worker = fork.Process(target=_visit_all, args=(dataset, in_worker))
    worker.start()
    worker.join()
    return above_import, in_worker.value


def _visit_all(dataset: MixtureDataset, mib: "Synchronized[float]") -> None:
    before = _resident("Private_Dirty")
    for item in range(len(dataset)):
        dataset[item]
    mib.value = _resident("Private_Dirty") - before


def _resident(kind: str) -> float:
    """MiB of this process: ``Rss``, or ``Private_Dirty``, shared with nobody."""
    with open("/proc/self/smaps_rollup", encoding="ascii") as file:
        kib = next(int(line.split()[1]) for line in file if line.startswith(f"{kind}:"))
    return kib / 1024


def make_linked_corpus(root: Path, rows: int, mixtures: int = MIXTURES) -> list[str]:
    """Makes a training subset of hard links to a few mixtures; returns audio files."""
    subset = root / "train"
    for _, folder in LAYERS.values():
        (subset / folder).mkdir(parents=True, exist_ok=True)
    originals = [_write_mixture(root, n, n < INDOOR_SHARE * mixtures) for n in range(mixtures)]
    table, files = [], []
    for number in range(rows):
        row: dict[str, Any] = {"SSR": number % 11 - 5}
        row |= {"sceneClass": "bus", "eventClass": "bell"}
        for speaker in (1, 2):
            row[f"speech{speaker}OryginalPath"] = f"speaker_{number % 97}/{number}.wav"
            row[f"speech{speaker}Start"] = 5 * speaker
            row[f"speech{speaker}End"] = 5 * speaker + SECONDS
        for layer, original in originals[number % mixtures].items():
            column, folder = LAYERS[layer]
            row[column] = f"train_{number:06}_{layer}.wav"
            files.append(str(subset / folder / row[column]))
            os.link(original, files[-1])
        table.append(row)
    path = subset / f"corpus_{root.name}_train_final.csv"
    pd.DataFrame(table).to_csv(path, index=False)
    return files


def _write_mixture(root: Path, number: int, indoor: bool) -> dict[str, Path]:
    """Writes layers of noise and their sum; returns layer → file."""
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


def measure(options: argparse.Namespace) -> None:
    """All parts that are wanted, each a table."""
    logging.disable(logging.WARNING)  # hard links are duplicates, and each run says so
    warnings.filterwarnings("ignore", category=UserWarning)
    on = f"{measuring.describe()}, threads: {torch.get_num_threads()}"
    Path(options.work_folder).mkdir(parents=True, exist_ok=True)
    benchmarks: dict[str, Callable[[Path], list[Row]]] = {
        "prepare": lambda folder: benchmark_prepare(folder, options.rows),
        "loading": lambda folder: benchmark_loading(folder, options.mixtures),
        "loss": lambda folder: benchmark_pit(),
        "memory": lambda folder: benchmark_memory(folder, options.manifest_rows),
    }
    sizes = {
        "prepare": f", {options.rows} rows",
        "loading": f", {options.mixtures} mixtures",
        "memory": f", {options.manifest_rows} rows",
    }
    for part in options.only:
        work = benchmarks[part], options.work_folder
        kept.keep_table(options.output, part, on + sizes.get(part, ""), rows_of, *work)


def rows_of(make: Callable[[Path], list[Row]], work_folder: str) -> list[list[str]]:
    """A benchmark's, in a folder of its own."""
    with tempfile.TemporaryDirectory(dir=work_folder) as folder:
        return measuring.rows_of(make(Path(folder)))


def main() -> None:
    """Measures, or writes the page."""
    parser = OptionParser(description=(__doc__ or "").splitlines()[0])
    parts = ("prepare", "loading", "loss", "memory")
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    parser.add_argument("--rows", type=int, default=20_000, help="to prepare")
    parser.add_argument("--mixtures", type=int, default=800, help="to load")
    parser.add_argument("--manifest_rows", type=int, default=128_000)
    parser.add_argument("--work_folder", default=tempfile.gettempdir())
    kept.run(parser, "data", measure)


if __name__ == "__main__":
    with exit_cleanly():
        main()
