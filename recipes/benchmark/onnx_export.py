#!/usr/bin/env python3
"""Which architectures export to ONNX, how exactly, and what eight bits change.

    python recipes/benchmark/onnx_export.py
    python recipes/benchmark/onnx_export.py --models dprnn,tiger --output none

Takes each file of hparams/small/, untrained, compares its graph with it on 1, 999, 32000
and 320001 samples of noise, and times both on 10 s, on one thread. The table goes between
the marks of README.md beside this file. A model that is done is not measured again: figures
are kept in results/onnx_export.json.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from recipes.benchmark.measuring import describe, in_fresh_process

import torch  # isort: skip  (after what sets up the process)

from custom_modules.errors import InputError, exit_cleanly
from custom_modules.hub.recipe import ModelRecipe
from custom_modules.markdown import DASH, number, table
from custom_modules.onnx.graphs import difference, quantise, write_graph
from custom_modules.onnx.runtimes import OnnxSeparator
from recipes.benchmark.campaign.runs import models_in
from recipes.benchmark.marked import Kept, replace_marked

SMALL = Path("hparams/small")
LENGTHS = ((1, 1), (1, 999), (1, 32_000), (1, 320_001))
TIMED_SECONDS = 10
HEADINGS = {
    "difference": "largest difference",
    "mb": "size, MB",
    "int8_mb": "int8, MB",
    "int8_db": "int8 to float32, dB",
    "torch": "PyTorch, s",
    "onnx": "ONNX, s",
    "int8": "int8, s",
}


def export_one(model: str) -> dict[str, float]:
    """Figures of one architecture, by the keys of the headings."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    recipe = ModelRecipe(str(SMALL / f"{model}.yaml"), {"data_folder": "none"})
    separator = recipe.make_separator().eval()
    mixture = 0.1 * torch.randn(1, TIMED_SECONDS * recipe.keys["sample_rate"])
    facts = {**recipe.keys, "num_spks": recipe.num_sources}
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path, int8 = Path(folder, "model.onnx"), Path(folder, "int8.onnx")
        write_graph(separator, path, facts, recipe.architecture)
        quantise(path, int8)
        ways = {"torch": separator, "onnx": OnnxSeparator(path), "int8": OnnxSeparator(int8)}
        error = ways["int8"](mixture) - ways["onnx"](mixture)
        ratio = separator(mixture).square().sum() / error.square().sum()
        return {
            "difference": difference(separator, path, model, LENGTHS),
            "mb": path.stat().st_size / 1e6,
            "int8_mb": int8.stat().st_size / 1e6,
            "int8_db": float(10 * ratio.log10()),
            **{name: least_seconds(lambda way=way: way(mixture)) for name, way in ways.items()},
        }


def least_seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """Process seconds, which other processes lengthen little."""
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return min(seconds)


def show(figures: dict[str, dict[str, float]], reasons: dict[str, str]) -> str:
    """The table, and below it what does not export and why."""
    lines = [["architecture", *HEADINGS.values()]]
    for model in sorted(figures | reasons):
        found = figures.get(model)
        cells = [number(found[key], 2) for key in HEADINGS] if found else [DASH] * len(HEADINGS)
        if found:
            cells[0] = f"{found['difference']:.0e}"
            cells[3] = number(found["int8_db"], 1)
        lines.append([model, *cells])
    told = [f"{model}: {reason}" for model, reason in sorted(reasons.items())]
    return "\n\n".join([table(lines), *told, f"<sub>{describe()}, 1 thread</sub>"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--models", default="", help="names with commas; default: all")
    parser.add_argument("--output", default="recipes/benchmark/README.md", help="none: only print")
    parser.add_argument("--kept", default="results/onnx_export.json", help="figures so far")
    options = parser.parse_args()
    found = models_in(SMALL)
    chosen = options.models.split(",") if options.models else found
    if unknown := set(chosen) - set(found):
        raise InputError(f"--models: no {SMALL}/{sorted(unknown)[0]}.yaml")
    kept, reasons = Kept(options.kept), {}
    for model in chosen:
        print(f"{model} …", file=sys.stderr, flush=True)
        try:
            kept.measure(model, in_fresh_process, export_one, model)
        except InputError as error:
            reasons[model] = str(error)
    text = show({model: kept.figures[model] for model in chosen if model not in reasons}, reasons)
    print(text)
    if options.output != "none":
        replace_marked(Path(options.output), "onnx", text)


if __name__ == "__main__":
    with exit_cleanly():
        main()
