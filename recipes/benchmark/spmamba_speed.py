"""Speed and memory of a whole SPMamba on one mixture of 4 s at 8 kHz.

    python recipes/benchmark/spmamba_speed.py --threads 2
    python recipes/benchmark/spmamba_speed.py --page

The forward pass of the reduced model is compared with the published one, whose loop
over time takes all sequences at once: with this project's allocator settings
(``published``) and with glibc's own, as one would meet it (``stock``). In slices, as
this model takes sequences, the loop is ``reference``. ``linear`` is the model with
PyTorch's linear layers in place of its projections. Training steps with
``checkpoint_blocks`` are measured for both sizes. On a GPU, see gpu.py.
"""

import argparse
from collections.abc import Callable, Iterator
from typing import Any

from recipes.benchmark.measuring import Work, add_cpu_options, describe, measure, training_step

import torch  # isort: skip  (after what sets up the process)

from custom_modules.errors import OptionParser, exit_cleanly
from custom_modules.markdown import number
from custom_modules.models import gridnet, mamba
from custom_modules.models.spmamba import SPMamba
from custom_modules.startup import keep_freed_blocks
from recipes.benchmark import kept_figures as kept
from recipes.benchmark.selective_scan import has_numba

SAMPLES = 32_000  # 4 s
SIZES: dict[str, dict[str, Any]] = {
    "reduced": {"n_layers": 4, "n_head": 2, "qk_dim": 256},
    "paper": {"n_layers": 6, "n_head": 4, "qk_dim": 512},
}
#: A name, what makes the work, its arguments and how often to repeat it.
Case = tuple[str, Callable[..., Work], tuple, int]


def make_forward(size: str, way: str) -> Work:
    """A forward pass without gradients, in a process that makes no other.

    The scan goes by a backend or, as said above, ``published``, ``stock``, ``linear``.
    """
    backend = "auto" if way == "linear" else way
    if way == "stock":
        keep_freed_blocks(32 << 20)
    if way in ("published", "stock"):
        backend, gridnet.CPU_POINTS = "reference", 1 << 62
    elif way == "linear":
        mamba.suits_onednn = lambda x: False
    model = SPMamba(2, **SIZES[size], scan_backend=backend).eval()
    mixture = torch.randn(1, SAMPLES)
    return {"seconds": torch.no_grad()(lambda: model(mixture))}


def make_step(size: str) -> Work:
    """A training step."""
    model = SPMamba(2, **SIZES[size], checkpoint_blocks=True, scan_backend="torch")
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    return {"seconds": training_step(model, optimizer, torch.randn(1, SAMPLES, 2))}


def cases(options: argparse.Namespace) -> Iterator[Case]:
    """The forward pass beside the published loop's, and training steps."""
    ways = dict.fromkeys(("torch", "linear", *["eager"] * has_numba()), options.repeats)
    if not options.no_reference:
        # The loop takes a minute: once is enough, after the warm-up.
        ways |= dict.fromkeys(("reference", "published", "stock"), 1)
    for way, repeats in ways.items():
        yield f"forward, reduced, {way}", make_forward, ("reduced", way), repeats
    for size in SIZES:
        yield f"training step, {size}, batch 1, torch, checkpointed", make_step, (size,), 1


def rows(options: argparse.Namespace) -> Iterator[list[str]]:
    """All of the table."""
    yield ["what", "process s", "clock s", "peak MiB"]
    for name, make, arguments, repeats in cases(options):
        figures = measure(make, arguments, options.threads, repeats)
        seconds = (number(figures[key], 2) for key in ("seconds", "wall seconds"))
        yield [name, *seconds, number(figures["MiB"], 0)]


def measure_all(options: argparse.Namespace) -> None:
    """Each case beside the others."""
    without = ", without the published loop" * options.no_reference
    on = f"{describe()}, threads: {options.threads}{without}"
    kept.keep_table(options.output, "spmamba", on, rows, options)


def main() -> None:
    """Measures, or writes the page."""
    parser = OptionParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--no_reference", action="store_true", help="leave the published loop out")
    add_cpu_options(parser, threads=2)
    kept.run(parser, "spmamba", measure_all)


if __name__ == "__main__":
    with exit_cleanly():
        main()
