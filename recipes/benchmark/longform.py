#!/usr/bin/env python3
"""Speed and memory on long recordings, beside SpeechBrain's own class.

    python recipes/benchmark/longform.py [EXPORTED_MODEL] --minutes 1 5 20
    python recipes/benchmark/longform.py [EXPORTED_MODEL] --flat 5 60

The first compares ``separate_file`` of both on the same exported folder, by default an
untrained DPRNN of the published size; the second measures separate.py's way from file
to files. Each measurement has a process of its own, on a CPU with one thread; seconds
are its process time, memory is its peak in all, the libraries included. --page writes the
tables into README.md beside this file.
"""

import argparse
import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from recipes.benchmark.measuring import MIB, describe, host_peak, in_fresh_process, limit_memory

import soundfile as sf  # isort: skip  (after what sets up the process)
import torch
from speechbrain.inference.separation import SepformerSeparation

from custom_modules.distributed import is_out_of_memory
from custom_modules.errors import OptionParser, exit_cleanly
from custom_modules.hub.card import CardFacts
from custom_modules.hub.folder import write_folder
from custom_modules.hub.recipe import ModelRecipe
from custom_modules.inference import PolSESSSeparation
from custom_modules.markdown import number
from custom_modules.recordings.jobs import Recording
from custom_modules.recordings.streams import separate_recording
from recipes.benchmark import kept_figures as kept

RATE = 8000
HPARAMS = Path(__file__).parents[2] / "hparams" / "dprnn.yaml"


def separate_once(
    kind: type[SepformerSeparation], to_files: bool, model: str, path: str, limit: float
) -> tuple[float, float] | None:
    """Process seconds and peak MiB; None if ``limit`` GiB more are too few.

    With ``to_files`` the recording goes to files, as separate.py does it.
    """
    torch.set_num_threads(1)
    loaded = kind.from_hparams(model, run_opts={"device": "cpu"})
    limit_memory(limit)
    start = time.process_time()
    try:
        if to_files:
            recording = Recording(Path(path), Path(path).with_suffix(""))
            outputs = recording.outputs(loaded.hparams.num_spks)
            separate_recording(loaded, recording.path, outputs)
        else:
            loaded.separate_file(path)
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            return None
        raise
    return time.process_time() - start, host_peak() / MIB


def export_untrained(folder: Path) -> str:
    """A DPRNN of the published size."""
    recipe = ModelRecipe(str(HPARAMS), {"data_folder": "none"})
    facts = CardFacts(training={}, source="dprnn")
    write_folder(folder, recipe, recipe.make_separator(), facts)
    return str(folder)


def compare(flat: bool, model: str, minutes: Sequence[float], limit: float) -> Iterator[list[str]]:
    """A table of ways and lengths; memory beside the first way's, or first length's."""
    ways = {"SpeechBrain": SepformerSeparation, "PolSESSSeparation": PolSESSSeparation}
    if flat:
        ways = {"separate.py": PolSESSSeparation}
    yield ["minutes", "of", "audio s per s", "peak MiB", "of the first one's memory"]
    first: float | None = None
    for length in minutes:
        with tempfile.TemporaryDirectory() as folder:
            path = f"{folder}/{length}.wav"  # of noise: what is in it does not matter
            sf.write(path, 0.1 * torch.randn(round(length * 60) * RATE).numpy(), RATE)
            for name, kind in ways.items():
                figures = in_fresh_process(separate_once, kind, flat, model, path, limit)
                seconds, mib = figures or (math.nan, math.nan)  # did not fit into the limit
                first = first or (mib if figures else 1024 * limit)
                values = (length * 60 / seconds, 1), (mib, 0), (mib / first, 3)
                yield [f"{length:g}", name, *(number(*value) for value in values)]
        first = first if flat else None


def measure(options: argparse.Namespace) -> None:
    """One of the two tables."""
    part = "from file to files" if options.flat else "separate_file"
    name = Path(options.model).name if options.model else "an untrained DPRNN"
    on = f"{describe()}, 1 thread; {name}; a dash: does not fit into {options.limit_gib:g} GiB"
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or export_untrained(Path(folder) / "dprnn")
        shown = bool(options.flat), model, options.flat or options.minutes, options.limit_gib
        kept.keep_table(options.output, part, on, compare, *shown)


def main() -> None:
    """Measures, or writes the page."""
    parser = OptionParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", nargs="?", help="a folder; default: untrained DPRNN")
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 5, 20])
    parser.add_argument("--flat", type=float, nargs="+", help="instead, file to files")
    parser.add_argument("--limit_gib", type=float, default=8, help="of memory")
    kept.run(parser, "longform", measure)


if __name__ == "__main__":
    with exit_cleanly():
        main()
