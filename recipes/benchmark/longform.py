#!/usr/bin/env python3
"""Speed and memory on long recordings, beside SpeechBrain's own class.

    python recipes/benchmark/longform.py [EXPORTED_MODEL] --minutes 1 5 20
    python recipes/benchmark/longform.py [EXPORTED_MODEL] --flat 5 60

The first compares ``separate_file`` of both on the same exported folder, by default an
untrained DPRNN of the published size; the second measures separate.py's way from file
to files. Each measurement has a process of its own, on a CPU with one thread; seconds
are its process time, memory is its peak in all, the libraries included.
"""

import argparse
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

from side_by_side import verdict

from recipes.benchmark.measuring import MIB, describe

import soundfile as sf  # isort: skip  (after what sets up the process)
import torch
from speechbrain.inference.separation import SepformerSeparation

from custom_modules.hub.folder import write_folder
from custom_modules.hub.recipe import ModelRecipe
from custom_modules.inference import PolSESSSeparation
from custom_modules.recordings.jobs import Recording
from custom_modules.recordings.streams import separate_recording

RATE = 8000
HPARAMS = Path(__file__).parents[2] / "hparams" / "dprnn.yaml"
MEMORY_GOAL, FLAT_GOAL = 0.25, 1.15
#: Shorter recordings take little beside the libraries.
MEMORY_GOAL_MINUTES = 5


def measure(way, *arguments):
    """Runs a way in a fresh process.

    Returns
    -------
    dict
        ``seconds`` and ``MiB``; None if the memory did not suffice.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure, (way, *arguments))


def _measure(way, model, path, limit):
    torch.set_num_threads(1)
    work = way(model)
    _limit_memory(limit)
    start = time.process_time()
    try:
        work(path)
    except (MemoryError, RuntimeError) as error:
        if "allocate memory" not in str(error) and not isinstance(error, MemoryError):
            raise
        return None
    seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MIB
    return {"seconds": seconds, "MiB": peak}


def _limit_memory(gib):
    """Has allocations fail before the machine is out of memory."""
    with open("/proc/self/statm") as stream:
        mapped = int(stream.read().split()[0]) * resource.getpagesize()
    limit = mapped + round(gib * (1 << 30))
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def stock(model):
    """SpeechBrain's class."""
    loaded = SepformerSeparation.from_hparams(model, run_opts={"device": "cpu"})
    return loaded.separate_file


def ours(model):
    """This project's class."""
    loaded = PolSESSSeparation.from_hparams(model, run_opts={"device": "cpu"})
    return loaded.separate_file


def file_to_files(model):
    """As separate.py does it."""
    loaded = PolSESSSeparation.from_hparams(model, run_opts={"device": "cpu"})

    def separate(path):
        separate_recording(loaded, Recording(Path(path), Path(path).with_suffix("")))

    return separate


def write_recording(folder, minutes):
    """Noise of that length; what is in it does not matter here."""
    path = Path(folder) / f"{minutes}.wav"
    with sf.SoundFile(path, "w", RATE, 1, "PCM_16") as file:
        for _ in range(round(minutes * 60)):
            file.write(0.1 * torch.randn(RATE).numpy())
    return str(path)


def export_untrained(folder):
    """A DPRNN of the published size."""
    recipe = ModelRecipe(str(HPARAMS), {"data_folder": "none"})
    write_folder(folder, recipe, recipe.make_separator(), training={}, source="dprnn")
    return str(folder)


def compare(model, folder, minutes, limit):
    """A table of both, and whether the goals were reached."""
    print("| minutes | of | audio s per s | peak MiB |\n|--:|---|--:|--:|")
    for length in minutes:
        path = write_recording(folder, length)
        found = {way: measure(way, model, path, limit) for way in (ours, stock)}
        for way, figures in found.items():
            name = "SpeechBrain" if way is stock else "PolSESSSeparation"
            cells = f"does not fit into {limit:g} GiB | - |"
            if figures:
                speed = length * 60 / figures["seconds"]
                cells = f"{speed:.1f} | {figures['MiB']:.0f} |"
            print(f"| {length} | {name} | {cells}", flush=True)
        if found[stock] is None:
            most = found[ours]["MiB"] / (1024 * limit)
            print(
                f"\n{length} min: less than {most:.2f} of the memory "
                f"({verdict(most, MEMORY_GOAL, lower=True)})\n",
                flush=True,
            )
        else:
            speed = found[stock]["seconds"] / found[ours]["seconds"]
            memory = found[ours]["MiB"] / found[stock]["MiB"]
            judged = verdict(memory, MEMORY_GOAL, lower=True)
            judged = f" ({judged})" if length >= MEMORY_GOAL_MINUTES else ""
            print(
                f"\n{length} min: {speed:.2f} times as fast ({verdict(speed, 1)}), "
                f"{memory:.2f} of the memory{judged}\n",
                flush=True,
            )


def show_flat(model, folder, minutes, limit):
    """Peaks from file to files, and how the last compares with the first."""
    peaks = []
    for length in minutes:
        path = write_recording(folder, length)
        figures = measure(file_to_files, model, path, limit)
        peaks.append(figures["MiB"])
        speed = length * 60 / figures["seconds"]
        print(f"{length} min: {speed:.1f} audio s per s, peak {peaks[-1]:.0f} MiB")
    ratio = peaks[-1] / peaks[0]
    print(f"{ratio:.3f} of the memory ({verdict(ratio, FLAT_GOAL, lower=True)})")


def main():
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", help="a folder; default: untrained DPRNN")
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 5, 20])
    parser.add_argument("--flat", type=float, nargs="+", help="instead, file to files")
    parser.add_argument("--limit_gib", type=float, default=8, help="of memory")
    options = parser.parse_args()
    print(f"{describe()}, 1 thread\n")
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or export_untrained(Path(folder) / "dprnn")
        if options.flat:
            show_flat(model, folder, options.flat, options.limit_gib)
        else:
            compare(model, folder, options.minutes, options.limit_gib)


if __name__ == "__main__":
    main()
