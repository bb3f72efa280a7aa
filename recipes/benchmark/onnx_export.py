#!/usr/bin/env python3
"""Which architectures export to ONNX, how exactly, and what eight bits change.

    python recipes/benchmark/onnx_export.py
    python recipes/benchmark/onnx_export.py --models dprnn,tiger

Takes each file of hparams/small/, untrained, compares its graph with it on 1, 999, 32000
and 320001 samples of noise, and times both on 10 s, on one thread. Goes on where it was
interrupted; --page writes the table into README.md beside this file.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from recipes.benchmark.measuring import describe, in_fresh_process

import torch  # isort: skip  (after what sets up the process)

from custom_modules.errors import OptionParser, exit_cleanly
from custom_modules.hub.recipe import ModelRecipe
from custom_modules.onnx.graphs import difference, quantise, write_graph
from custom_modules.onnx.runtimes import OnnxSeparator
from recipes.benchmark import kept_figures as kept
from recipes.benchmark.campaign.runs import FOLDERS, chosen_models

SMALL = Path(FOLDERS["small"])
LENGTHS = ((1, 1), (1, 999), (1, 32_000), (1, 320_001))
TIMED_SECONDS = 10
PART = "small"


def _column(key: str, form: str) -> Callable[[Mapping[str, float]], str]:
    return lambda found: format(found[key], form)


#: Heading → cell.
COLUMNS = {
    "largest difference": _column("difference", ".0e"),
    "size, MB": _column("mb", ".2f"),
    "int8, MB": _column("int8_mb", ".2f"),
    "int8 to float32, dB": _column("int8_db", ".1f"),
    "PyTorch, s": _column("torch", ".2f"),
    "ONNX, s": _column("onnx", ".2f"),
    "int8, s": _column("int8", ".2f"),
}


def export_one(model: str) -> dict[str, float]:
    """Figures of one architecture."""
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


def render(folder: str | Path) -> str:
    """The table, and below it what does not export and why."""
    figures = kept.read_figures(folder)
    table = kept.unit_table("architecture", COLUMNS, kept.units_of(figures, PART))
    return f"{table}\n\n{kept.setting_line(figures)}"


def measure(options: argparse.Namespace) -> None:
    """All models that are wanted."""
    chosen = chosen_models(SMALL, options.models)
    kept.check_setting(options.output, f"{describe()}, 1 thread")
    for model in chosen:
        work = (in_fresh_process, export_one, model)
        kept.measure_missing(options.output, PART, model, *work)


def main() -> None:
    """Measures, or writes the page."""
    parser = OptionParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--models", help="names with commas; default: all")
    kept.run(parser, "onnx", measure, render)


if __name__ == "__main__":
    with exit_cleanly():
        main()
