"""What torch.compile brings: training steps of each architecture, with and without.

    python recipes/benchmark/torch_compile.py --models convtasnet,dprnn --seconds 1
    python recipes/benchmark/torch_compile.py --page

Steps of one mixture with the sizes of the hparams files, in float32; the first one is that
which compiles. Goes on where it was interrupted; --page writes the table into
docs/training.md. On a GPU, see gpu.py.
"""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

from recipes.benchmark.measuring import Work, add_cpu_options, describe, measure

from custom_modules.errors import InputError, OptionParser, exit_cleanly  # isort: skip
from custom_modules.markdown import number  # isort: skip  (after torch)
from recipes.benchmark import kept_figures as kept
from recipes.benchmark.campaign.costs import make_work
from recipes.benchmark.campaign.runs import chosen_models

HPARAMS = Path("hparams")
PART = "steps"
#: Heading → cell.
COLUMNS: dict[str, Callable[[Mapping[str, float]], str]] = {
    "step, s": lambda found: number(found["plain"], 2),
    "compiled, s": lambda found: number(found["compiled"], 2),
    "speed": lambda found: f"{number(found['plain'] / found['compiled'], 2)} ×",
    "first step, s": lambda found: number(found["first"], 0),
}


def make_step(model: str, seconds: float, compiled: bool) -> Work:
    """A training step."""
    sizes = ("--batch_size=1", f"--segment_seconds={seconds}", "--precision=fp32")
    return make_work(f"{HPARAMS}/{model}.yaml", sizes, training=True, compiled=compiled)


def measure_steps(model: str, options: argparse.Namespace) -> dict[str, float]:
    """Seconds of a step as it is and compiled, and of the one that compiles."""
    settings = options.threads, options.repeats
    plain = measure(make_step, (model, options.seconds, False), *settings)
    try:
        compiled = measure(make_step, (model, options.seconds, True), *settings)
    except Exception as error:  # whatever a compiler may raise
        raise InputError(str(error).splitlines()[0]) from error
    names = {"plain": plain["seconds"], "compiled": compiled["seconds"]}
    return names | {"first": compiled["first seconds"]}


def measure_all(options: argparse.Namespace) -> None:
    """All models that are wanted."""
    on = f"{describe()}, threads: {options.threads}, one mixture of {options.seconds:g} s"
    kept.check_setting(options.output, on)
    for model in chosen_models(HPARAMS, options.models):
        kept.measure_missing(options.output, PART, model, measure_steps, model, options)


def render(folder: str | Path) -> str:
    """The table, and below it what does not compile and why."""
    figures = kept.read_figures(folder)
    table = kept.unit_table("model", COLUMNS, kept.units_of(figures, PART))
    return f"{table}\n\n{kept.setting_line(figures)}"


def main() -> None:
    """Measures, or writes the page."""
    parser = OptionParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--models", help="names with commas; default: all")
    parser.add_argument("--seconds", type=float, default=0.5, help="of the mixture")
    add_cpu_options(parser, threads=1)
    kept.run(parser, "compile", measure_all, render, page="docs/training.md")


if __name__ == "__main__":
    with exit_cleanly():
        main()
