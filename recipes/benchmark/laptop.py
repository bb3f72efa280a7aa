#!/usr/bin/env python3
"""Separating a long recording on a laptop: time and memory of PyTorch, ONNX and SpeechBrain.

    python recipes/benchmark/laptop.py
    python recipes/benchmark/laptop.py --models dprnn --sizes small --minutes 1

Each architecture, untrained, of hparams/small/ and hparams/, on noise at its rate: by
``PolSESSSeparation``; by separate_onnx.py, which loads no PyTorch; and, where its parts are
SpeechBrain's, by ``SepformerSeparation`` with the same weights, which takes all of it at once.
Each in a process of its own, within ``--limit_gib``. Goes on where it was interrupted;
``--page`` writes the tables into README.md beside this file.
"""

import argparse
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from recipes.benchmark.measuring import MIB, describe, host_peak, in_fresh_process, limit_memory

import soundfile as sf  # isort: skip  (after what sets up the process)
import torch
from speechbrain.inference.separation import SepformerSeparation

from custom_modules.distributed import is_out_of_memory
from custom_modules.errors import InputError, OptionParser, check_number, exit_cleanly
from custom_modules.hub.card import CardFacts
from custom_modules.hub.folder import SCRIPT, write_folder
from custom_modules.hub.recipe import ModelRecipe
from custom_modules.inference import PolSESSSeparation
from custom_modules.markdown import number, table
from custom_modules.recordings.jobs import Recording
from custom_modules.recordings.streams import separate_recording
from recipes.benchmark import kept_figures as kept
from recipes.benchmark.campaign.runs import FOLDERS, chosen_models, hparams_folder

Figures = tuple[float, float]  # clock seconds and peak MiB


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
    try:
        model.separate_file(path)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        # Its positional encoding ends at 2,500 chunks.
        raise InputError(f"cannot separate so much at once ({error})") from error
    return time.perf_counter() - start, host_peak() / MIB


def by_script(folder: str, path: str) -> Figures:
    """File to files, its start counted as well."""
    line = [sys.executable, f"{folder}/{SCRIPT}", path, "--output_folder", f"{path}.out"]
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", PEAK, *line], check=True, stdout=subprocess.PIPE)
    return time.perf_counter() - start, int(done.stdout.split()[-1]) / 1024


#: Runs a command and prints how many KiB it held at most. Started from here, it would seem to
#: have held as much as this process did.
PEAK = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(done.returncode)
"""

WAYS = {"PyTorch": by_ours, "ONNX": by_script, "SpeechBrain": by_speechbrain}


def separate_once(
    way: str, folder: str, path: str, threads: int, limit_gib: float
) -> dict[str, float]:
    """One way in this process; allocations fail before the machine is out of memory."""
    torch.set_num_threads(threads)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    limit_memory(limit_gib)
    seconds, mib = WAYS[way](folder, path)
    return {"seconds": seconds, "MiB": mib}


def measure_model(size: str, model: str, options: argparse.Namespace) -> None:
    """Records what is not known of a model, each way in a process of its own."""
    hparams, seconds = f"{FOLDERS[size]}/{model}.yaml", 60 * options.minutes
    recipe = ModelRecipe(hparams, {"data_folder": "none"})
    ways = [way for way in WAYS if way != "SpeechBrain" or recipe.is_masking]
    part = part_of(size, options.minutes)
    known = kept.units_of(kept.read_figures(options.output), part)
    if all("figures" in known.get(f"{model} {way}", ()) for way in ways):
        return
    with tempfile.TemporaryDirectory() as place:
        folder, path = f"{place}/exported", f"{place}/noise.wav"
        in_fresh_process(export, hparams, folder, path, seconds)
        for way in ways:
            work = (separate_once, way, folder, path, options.threads, options.limit_gib)
            kept.measure_missing(options.output, part, f"{model} {way}", in_fresh_process, *work)


def part_of(size: str, minutes: float) -> str:
    return f"{size}, {minutes:g} minute{'s' * (minutes != 1)}"


def render(folder: str | Path) -> str:
    """A table of each part, and what it was measured on."""
    figures = kept.read_figures(folder)
    parts = dict.fromkeys(part for part, _ in figures if part != kept.MACHINE)
    tables = [
        f"{part_table(part, kept.units_of(figures, part))}\n\n{kept.setting_line(figures, part)}"
        for part in parts
    ]
    return "\n\n".join(tables)


def part_table(part: str, units: dict[str, dict[str, Any]]) -> str:
    """The table of one size, and below it what could not be measured and why."""
    headings = [f"{way}, {what}" for way in WAYS for what in ("real-time factor", "MiB")]
    lines, seconds = [["architecture", *headings]], 60 * float(part.split()[1])
    for model in sorted({unit.split()[0] for unit in units}):
        found = [units.get(f"{model} {way}", {}).get("figures", {}) for way in WAYS]
        pairs = [(f.get("seconds", math.nan) / seconds, f.get("MiB")) for f in found]
        cells = [cell for rtf, mib in pairs for cell in (number(rtf, 3), number(mib, 0))]
        lines.append([model, *cells])
    return "\n\n".join([f"**{part}**", table(lines), *kept.reasons(units)])


def measure(options: argparse.Namespace) -> None:
    """All sizes and models that are wanted."""
    sizes = options.sizes.split(",")
    check_number("--minutes", options.minutes, above=0)
    chosen = {size: chosen_models(hparams_folder(size), options.models) for size in sizes}
    setting = f"{options.threads} threads, up to {options.limit_gib:g} GiB each"
    for size, models in chosen.items():
        part = part_of(size, options.minutes)
        kept.check_setting(options.output, f"{describe()}, {setting}", part=part)
        for model in models:
            measure_model(size, model, options)


def main() -> None:
    """Measures, or writes the page."""
    parser = OptionParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--models", help="names with commas; default: all")
    parser.add_argument("--sizes", default="small,published")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit_gib", type=float, default=8, help="of memory, each")
    kept.run(parser, "laptop", measure, render)


if __name__ == "__main__":
    with exit_cleanly():
        main()
