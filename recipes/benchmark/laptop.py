#!/usr/bin/env python3
"""Separating a long recording on a laptop: time and memory of PyTorch, ONNX and SpeechBrain.

    python recipes/benchmark/laptop.py
    python recipes/benchmark/laptop.py --models dprnn --sizes small --minutes 1 --output none

Each architecture, untrained, of hparams/small/ and hparams/, on noise at its rate: by
``PolSESSSeparation``; by separate_onnx.py, which loads no PyTorch; and, where its parts are
SpeechBrain's, by ``SepformerSeparation`` with the same weights, which takes all of it at once
(a dash: not within ``--limit_gib``). Each in a process of its own. The tables go between the
marks of README.md beside this file; what was measured is kept, and not measured again.
"""

import argparse
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from recipes.benchmark.measuring import MIB, describe, host_peak, in_fresh_process

import soundfile as sf  # isort: skip  (after what sets up the process)
import torch
from speechbrain.inference.separation import SepformerSeparation

from custom_modules.distributed import is_out_of_memory
from custom_modules.errors import InputError, exit_cleanly
from custom_modules.hub.card import CardFacts
from custom_modules.hub.folder import SCRIPT, write_folder
from custom_modules.hub.recipe import ModelRecipe
from custom_modules.inference import PolSESSSeparation
from custom_modules.markdown import DASH, number, table
from custom_modules.recordings.jobs import Recording
from custom_modules.recordings.streams import separate_recording
from recipes.benchmark.campaign.runs import models_in
from recipes.benchmark.marked import Kept, replace_marked

FOLDERS = {"small": Path("hparams/small"), "published": Path("hparams")}
#: Clock seconds and peak MiB; None: not within the memory.
Figures = tuple[float, float] | None


def export(hparams: str, folder: str, path: str, seconds: float) -> None:
    """An exported folder with a graph, and a recording of noise at its rate."""
    recipe = ModelRecipe(hparams, {"data_folder": "none"})
    facts = CardFacts({}, source=Path(hparams).stem)
    write_folder(folder, recipe, recipe.make_separator(), facts, graphs=("onnx",))
    rate = recipe.keys["sample_rate"]
    sf.write(path, 0.1 * torch.randn(round(seconds * rate)).numpy(), rate)


def by_ours(folder: str, path: str) -> Figures:
    """File to files, as separate.py does it."""
    model = PolSESSSeparation.from_hparams(folder, run_opts={"device": "cpu"})
    recording = Recording(Path(path), Path(path).with_suffix(""))
    start = time.perf_counter()
    separate_recording(model, recording.path, recording.outputs(model.hparams.num_spks))
    return time.perf_counter() - start, host_peak() / MIB


def by_speechbrain(folder: str, path: str) -> Figures:
    """From a file to one tensor."""
    model = SepformerSeparation.from_hparams(folder, run_opts={"device": "cpu"})
    start = time.perf_counter()
    model.separate_file(path)
    return time.perf_counter() - start, host_peak() / MIB


def by_script(folder: str, path: str) -> Figures:
    """File to files, its start counted as well."""
    line = [sys.executable, f"{folder}/{SCRIPT}", path, "--output_folder", f"{path}.out"]
    start = time.perf_counter()
    subprocess.run(line, check=True)
    seconds = time.perf_counter() - start
    return seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


WAYS = {"PyTorch": by_ours, "ONNX": by_script, "SpeechBrain": by_speechbrain}


def separate_once(way: str, folder: str, path: str, threads: int, limit_gib: float) -> Figures:
    """One way in this process; allocations fail before the machine is out of memory."""
    torch.set_num_threads(threads)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    with open("/proc/self/statm") as stream:
        mapped = int(stream.read().split()[0]) * resource.getpagesize()
    room = mapped + round(limit_gib * (1 << 30))
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    try:
        return WAYS[way](folder, path)
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            return None
        raise


def measure_model(
    size: str, model: str, kept: Kept, options: argparse.Namespace
) -> dict[str, Figures]:
    """Figures of each way that there is for a model."""
    hparams, seconds = str(FOLDERS[size] / f"{model}.yaml"), 60 * options.minutes
    recipe = ModelRecipe(hparams, {"data_folder": "none"})
    ways = [way for way in WAYS if way != "SpeechBrain" or recipe.is_masking]
    setting = f"{options.minutes:g} min, {options.threads} threads, {options.limit_gib:g} GiB"
    keys = {way: f"{setting}, {size} {model}, {way}" for way in ways}
    with tempfile.TemporaryDirectory() as place:
        folder, path = f"{place}/exported", f"{place}/noise.wav"
        if not set(keys.values()) <= kept.figures.keys():
            in_fresh_process(export, hparams, folder, path, seconds)
        limits = (options.threads, options.limit_gib)
        return {
            way: kept.measure(key, in_fresh_process, separate_once, way, folder, path, *limits)
            for way, key in keys.items()
        }


def size_table(size: str, models: list[str], kept: Kept, options: argparse.Namespace) -> str:
    """The table of one size, and below it what could not be measured and why."""
    headings = [f"{way}, {what}" for way in WAYS for what in ("real-time factor", "MiB")]
    lines, reasons = [["architecture", *headings]], []
    for model in models:
        print(f"{size} {model} …", file=sys.stderr, flush=True)
        cells = [DASH] * len(headings)
        try:
            figures = measure_model(size, model, kept, options)
        except InputError as error:  # no graph, say; the others go on
            reasons.append(f"{model}: {error}")
        else:
            found = [figures.get(way) or (math.nan, math.nan) for way in WAYS]
            pairs = ((s / (60 * options.minutes), mib) for s, mib in found)
            cells = [cell for rtf, mib in pairs for cell in (number(rtf, 4), number(mib, 0))]
        lines.append([model, *cells])
    return "\n\n".join([f"**{size}, {options.minutes:g} minutes**", table(lines), *reasons])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--models", default="", help="names with commas; default: all")
    parser.add_argument("--sizes", default=",".join(FOLDERS))
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit_gib", type=float, default=8, help="of memory, each")
    parser.add_argument("--output", default="recipes/benchmark/README.md", help="none: only print")
    parser.add_argument("--kept", default="results/laptop.json", help="figures so far")
    options = parser.parse_args()
    kept, parts = Kept(options.kept), []
    for size in options.sizes.split(","):
        if size not in FOLDERS:
            parser.error(f"--sizes={size}: choose from {', '.join(FOLDERS)}")
        found = models_in(FOLDERS[size])
        chosen = options.models.split(",") if options.models else found
        if unknown := set(chosen) - set(found):
            parser.error(f"--models: no {FOLDERS[size]}/{sorted(unknown)[0]}.yaml")
        parts.append(size_table(size, chosen, kept, options))
    text = "\n\n".join([*parts, f"<sub>{describe()}, {options.threads} threads</sub>"])
    print(text)
    if options.output != "none":
        replace_marked(Path(options.output), "laptop", text)


if __name__ == "__main__":
    with exit_cleanly():
        main()
