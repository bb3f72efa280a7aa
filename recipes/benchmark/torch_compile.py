"""What torch.compile brings: training steps of each architecture, with and without.

    python recipes/benchmark/torch_compile.py --models convtasnet,dprnn --seconds 1

Steps of one mixture with the sizes of the hparams files; ``first`` is the step that
compiles. On CUDA in the precision of the hparams file, else in float32.
"""

import argparse
import time

from recipes.benchmark.measuring import Work, describe, measure, training_step

import torch  # isort: skip  (after what sets up the process)

from speechbrain.utils.autocast import AMPConfig

from custom_modules.markdown import DASH, number, table
from recipes.benchmark.campaign.costs import load_model

MODELS = "convtasnet,dprnn,sepformer,spmamba"


def make_step(model: str, samples: int, compiled: bool) -> Work:
    """A training step."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    hparams = load_model(f"hparams/{model}.yaml")
    separator = hparams["separator"].to(device)
    run = torch.compile(separator) if compiled else separator
    optimizer = hparams["opt_class"](separator.parameters())
    targets = torch.randn(1, samples, 2, device=device)
    dtype = AMPConfig.from_name(hparams["precision"]).dtype
    step = training_step(run, optimizer, targets, dtype)
    start = time.perf_counter()
    step()
    print(f"{model}, compiled {compiled}: first {time.perf_counter() - start:.0f} s")
    return {"step": step}


def row(model: str, samples: int, threads: int) -> list[str]:
    seconds = []
    for compiled in (False, True):
        try:
            figures = measure(make_step, (model, samples, compiled), threads)
        except Exception as error:  # whatever a compiler may raise
            return [f"{model} fails: {str(error).splitlines()[0]}", DASH, DASH, DASH]
        seconds.append(figures["step"])
    ratio = f"{number(seconds[0] / seconds[1], 2)} ×"
    return [model, *(number(x, 2) for x in seconds), ratio]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    print(f"{describe()}, {options.threads} threads, {options.seconds} s of sound\n")
    samples = round(8000 * options.seconds)
    rows = [row(model, samples, options.threads) for model in options.models.split(",")]
    print(table([["model", "step, s", "compiled, s", "speed"], *rows]))


if __name__ == "__main__":
    main()
