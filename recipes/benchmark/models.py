"""What each architecture costs on a CPU: size, arithmetic, time and memory.

    python recipes/benchmark/models.py
    python recipes/benchmark/models.py --models dprnn,tiger --sizes small --repeats 3

Takes every architecture of hparams/ (published size) and of hparams/small/ on mixtures
of 4 s, one at a time, in float32, untrained. Each runs in processes of its own: one for
inference, one for training steps, one to count. Prints Markdown.
"""

import argparse
import sys
from pathlib import Path

from recipes.benchmark.measuring import describe, options_on_cpu

from custom_modules.markdown import DASH, number, table  # isort: skip  (after torch)
from recipes.benchmark.campaign.costs import measure_costs
from recipes.benchmark.campaign.page import COST_COLUMNS
from recipes.benchmark.campaign.runs import models_in

#: Where the hparams files of a size are.
FOLDERS = {"published": "hparams", "small": "hparams/small"}
#: Alike for all, whatever their hparams files train with.
ALIKE = ("--batch_size=1", "--segment_seconds=null", "--precision=fp32")
#: What is measured → heading, divisor, decimals.
COLUMNS = {
    key: COST_COLUMNS[key]
    for key in ("parameters", "macs_per_second", "real_time_factor", "inference_mib")
} | {"step_seconds": ("training step, s", 1, 2), "step_mib": COST_COLUMNS["step_mib"]}


def size_table(size: str, models: list[str], threads: int, repeats: int) -> str:
    """The table of one size, and below it what could not be measured and why."""
    lines, reasons = [["architecture", *(heading for heading, *_ in COLUMNS.values())]], []
    for model in models:
        print(f"{size} {model} …", file=sys.stderr, flush=True)
        cells = [DASH] * len(COLUMNS)
        try:
            costs = measure_costs(f"{FOLDERS[size]}/{model}.yaml", ALIKE, threads, repeats)
            cells = [number(costs[key] / div, n) for key, (_, div, n) in COLUMNS.items()]
        except Exception as error:  # one model's fault, or its memory; the others go on
            reasons.append(f"{model}: {(str(error) or repr(error)).splitlines()[0]}")
        lines.append([model, *cells])
    return "\n\n".join([f"**{size}**", table(lines), *reasons])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="", help="names with commas; default: all")
    parser.add_argument("--sizes", default=",".join(FOLDERS))
    options = options_on_cpu(parser, threads=1)
    for size in options.sizes.split(","):
        if size not in FOLDERS:
            parser.error(f"--sizes={size}: choose from {', '.join(FOLDERS)}")
        found = models_in(Path(FOLDERS[size]))
        chosen = options.models.split(",") if options.models else found
        if unknown := set(chosen) - set(found):
            parser.error(f"--models: no {FOLDERS[size]}/{sorted(unknown)[0]}.yaml")
        print(size_table(size, chosen, options.threads, options.repeats), end="\n\n", flush=True)
    print(f"<sub>{describe()}; threads: {options.threads}; mixtures of 4 s</sub>")


if __name__ == "__main__":
    main()
