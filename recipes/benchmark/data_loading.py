"""How fast mixtures come from the loader, beside a bare loop over the same files,
and what memory a large manifest takes. ``data.py`` runs it with the rest.
"""

import json
import multiprocessing
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from speechbrain.dataio.dataloader import make_dataloader

from custom_modules.dataio import Manifest, MixtureDataset, collate
from custom_modules.mmipc import CANCELLED_LAYERS, VARIANTS
from polsess_prepare import prepare_polsess
from recipes.benchmark.data_prepare import make_linked_corpus
from recipes.benchmark.side_by_side import Row, speeds, time_alternately

SEED = 42
LAYERS = ("mix", "s1", "s2", "scene", "event", "event_reverb", "s1_reverb", "s2_reverb")


def benchmark_loading(
    work_folder: str | Path, rows: int = 800, batch_size: int = 8
) -> list[Row]:
    """Times a training epoch's reading against soundfile and numpy alone.

    Both read the same files of the same variants in one process, from a corpus of
    hard links that is made in ``work_folder`` and removed again. The bare loop knows
    beforehand which files; the loader draws variants and makes batches.
    """
    with tempfile.TemporaryDirectory(dir=work_folder) as folder:
        corpus = Path(folder, "Links")
        make_linked_corpus(corpus, rows)
        prepare_polsess(corpus, folder, subsets=["train"], workers=1)
        manifest = Manifest(Path(folder, "train.json"), {"data_root": str(corpus)})
        dataset = MixtureDataset(manifest, VARIANTS, "SB", SEED)
        recipes = [_files_of(dataset, name) for name in dataset.data_ids]
        loader = make_dataloader(dataset, batch_size=batch_size, collate_fn=collate)
        ways = {
            "soundfile and numpy": lambda: [_read_and_add(*files) for files in recipes],
            "loader, 1 process": lambda: [len(batch) for batch in loader],
        }
        return speeds(time_alternately(ways), rows, "mixtures")


def benchmark_memory(work_folder: str | Path, rows: int = 128_000) -> list[Row]:
    """Memory of a training set, measured in a process of its own.

    That is what the process holds once the dataset is made, and what a worker that has
    visited every mixture holds for itself.
    """
    with tempfile.TemporaryDirectory(dir=work_folder) as folder:
        path = Path(folder, "train.json")
        _write_manifest(path, rows)
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, spawn) as pool:
            above_import, worker = pool.submit(_measure_memory, str(path)).result()
    return [
        Row(f"manifest of {rows}, above import", f"{above_import:.0f} MiB"),
        Row("more in a worker that visited all of it", f"{worker:.0f} MiB"),
    ]


def _files_of(dataset: MixtureDataset, name: str) -> tuple[str, list[str], list[str]]:
    entry = dataset.data[name]
    (variant,) = dataset.draw_variants(name, entry["environment"])
    return entry["mix"], [entry["s1"], entry["s2"]], entry["variants"][variant]


def _read_and_add(
    mix: str, sources: list[str], cancelled: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    mixture, _ = soundfile.read(mix, dtype="float32")
    for path in cancelled:
        mixture -= soundfile.read(path, dtype="float32")[0]
    return mixture, np.stack([soundfile.read(p, dtype="float32")[0] for p in sources])


def _write_manifest(path: Path, rows: int) -> None:
    """As ``polsess_prepare`` writes it, with names as long as PolSESS's."""
    with open(path, "w", encoding="utf-8") as file:
        file.write("{\n")
        for number in range(rows):
            comma = "," if number < rows - 1 else ""
            entry = json.dumps(_entry(number))
            file.write(f'"train_{number:06}_mixture": {entry}{comma}\n')
        file.write("}\n")


def _entry(number: int) -> dict[str, Any]:
    environment = "outdoor" if number % 5 == 0 else "indoor"
    paths = {n: f"{{data_root}}/train/{n}/train_{number:06}_{n}.wav" for n in LAYERS}
    return {
        "duration": 4.0,
        "sample_rate": 8000,
        "environment": environment,
        **{name: paths[name] for name in ("mix", "s1", "s2")},
        "s2_layers": [paths["s2"], paths["s2_reverb"]],
        "variants": {
            variant: [paths[layer] for layer in layers]
            for variant, layers in CANCELLED_LAYERS[environment].items()
        },
        "scene_class": "metro_station",
        "event_class": "Domestic_sounds_and_home_sounds",
        "ssr_db": number % 11 - 5,
    }


def _measure_memory(path: str) -> tuple[float, float]:
    """MiB of a dataset here, and in a worker for itself."""
    before = _resident("Rss")
    dataset = MixtureDataset(Manifest(path, {"data_root": "/x"}), VARIANTS, "SB", SEED)
    dataset.set_output_keys(["id", "drawn"])  # all but the audio
    above_import = _resident("Rss") - before
    receiver, sender = multiprocessing.Pipe(duplex=False)
    worker = multiprocessing.get_context("fork").Process(
        target=_visit_all, args=(dataset, sender)
    )
    worker.start()
    in_worker = receiver.recv()
    worker.join()
    return above_import, in_worker


def _visit_all(dataset: MixtureDataset, sender: Connection) -> None:
    before = _resident("Private_Dirty")
    for item in range(len(dataset)):
        dataset[item]
    sender.send(_resident("Private_Dirty") - before)


def _resident(kind: str) -> float:
    """MiB of this process: ``Rss``, or ``Private_Dirty``, shared with nobody."""
    with open("/proc/self/smaps_rollup", encoding="ascii") as file:
        kib = next(int(line.split()[1]) for line in file if line.startswith(f"{kind}:"))
    return kib / 1024
