"""What each architecture costs on a CPU: size, arithmetic, time and memory.

    python recipes/benchmark/models.py
    python recipes/benchmark/models.py --models dprnn,tiger --sizes small --repeats 3

Takes every architecture of hparams/ (published size) and of hparams/small/ on mixtures
of 4 s, one at a time, in float32, untrained. Each runs in processes of its own: one for
inference, one for training steps, one to count. Goes on where it was interrupted; --page
writes the tables into README.md beside this file.
"""

import argparse
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from recipes.benchmark.measuring import describe

from custom_modules.errors import OptionParser, exit_cleanly  # isort: skip  (after torch)
from custom_modules.markdown import number
from recipes.benchmark import kept_figures as kept
from recipes.benchmark.campaign.costs import measure_costs
from recipes.benchmark.campaign.page import COST_COLUMNS
from recipes.benchmark.campaign.runs import FOLDERS, chosen_models, hparams_folder

#: Alike for all, whatever their hparams files train with.
ALIKE = ("--batch_size=1", "--segment_seconds=null", "--precision=fp32")


def _column(key: str, divisor: float, decimals: int) -> Callable[[Mapping[str, float]], str]:
    return lambda costs: number(costs[key] / divisor, decimals)


_SHOWN = ("parameters", "macs_per_second", "real_time_factor", "inference_mib")
_FACTS = {key: COST_COLUMNS[key] for key in _SHOWN}
_FACTS |= {"step_seconds": ("training step, s", 1, 2), "step_mib": COST_COLUMNS["step_mib"]}
#: Heading → cell.
COLUMNS = {heading: _column(key, *how) for key, (heading, *how) in _FACTS.items()}


def render(folder: str | Path) -> str:
    """A table of each size, and what they were measured on."""
    figures = kept.read_figures(folder)
    by_size = {size: kept.units_of(figures, size) for size in FOLDERS}
    tables = [
        f"**{size}**\n\n{kept.unit_table('architecture', COLUMNS, units)}"
        for size, units in by_size.items()
        if units
    ]
    return "\n\n".join([*tables, kept.setting_line(figures)])


def measure(options: argparse.Namespace) -> None:
    """All sizes and models that are wanted."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # gpu.py measures there
    folders = {size: hparams_folder(size) for size in options.sizes.split(",")}
    chosen = {size: chosen_models(path, options.models) for size, path in folders.items()}
    kept.check_setting(options.output, f"{describe()}; threads: {options.threads}; mixtures of 4 s")
    for size, model in [(s, m) for s in chosen for m in chosen[s]]:
        arguments = (f"{folders[size]}/{model}.yaml", ALIKE, options.threads, options.repeats)
        kept.measure_missing(options.output, size, model, measure_costs, *arguments)


def main() -> None:
    """Measures, or writes the page."""
    parser = OptionParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--models", help="names with commas; default: all")
    parser.add_argument("--sizes", default=",".join(FOLDERS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    kept.run(parser, "models", measure, render)


if __name__ == "__main__":
    with exit_cleanly():
        main()
