"""What torch.compile brings: training steps of each architecture, with and without.

    python recipes/benchmark/torch_compile.py --models convtasnet,dprnn --seconds 1

Steps of one mixture with the sizes of the hparams files, in float32; ``first`` is the
step that compiles. On a GPU, see gpu.py.
"""

import argparse
import time
from pathlib import Path

from recipes.benchmark.measuring import Work, measure, options_on_cpu

from custom_modules.markdown import DASH, number, table  # isort: skip  (after torch)
from recipes.benchmark.campaign.costs import make_work
from recipes.benchmark.campaign.runs import models_in

HPARAMS = Path("hparams")


def make_step(model: str, seconds: float, compiled: bool) -> Work:
    """A training step."""
    sizes = ("--batch_size=1", f"--segment_seconds={seconds}", "--precision=fp32")
    work = make_work(f"{HPARAMS}/{model}.yaml", sizes, training=True, compiled=compiled)
    start = time.perf_counter()
    work["seconds"]()
    print(f"{model}, compiled {compiled}: first {time.perf_counter() - start:.0f} s")
    return work


def row(model: str, length: float, threads: int, repeats: int) -> list[str]:
    seconds = []
    for compiled in (False, True):
        try:
            figures = measure(make_step, (model, length, compiled), threads, repeats)
        except Exception as error:  # whatever a compiler may raise
            return [f"{model} fails: {str(error).splitlines()[0]}", DASH, DASH, DASH]
        seconds.append(figures["seconds"])
    ratio = f"{number(seconds[0] / seconds[1], 2)} ×"
    return [model, *(number(x, 2) for x in seconds), ratio]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=",".join(models_in(HPARAMS)))
    parser.add_argument("--seconds", type=float, default=1.0)
    options = options_on_cpu(parser, threads=1)
    settings = options.seconds, options.threads, options.repeats
    rows = [row(model, *settings) for model in options.models.split(",")]
    print(table([["model", "step, s", "compiled, s", "speed"], *rows]))


if __name__ == "__main__":
    main()
