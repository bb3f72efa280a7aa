"""Speed and memory of a whole SPMamba on one mixture of 4 s at 8 kHz.

    python recipes/benchmark/spmamba_speed.py --threads 2

On a CPU the forward pass of the reduced model is compared with the published one,
whose loop over time takes all sequences at once: with this project's allocator
settings (``published``) and with glibc's own, as one would meet it (``stock``). In
slices, as this model takes sequences, the loop is ``reference``. ``linear`` is the
model with PyTorch's linear layers in place of its projections. Training steps with
``checkpoint_blocks`` are measured for the reduced and the paper's size. On CUDA it
is training steps: both sizes, batch 1 and 4, float32 and bfloat16, every backend
that works there, and at batch 1 a plain autograd loop over time (``unbound``).
"""

import argparse
import itertools
from collections.abc import Callable, Iterator
from typing import Any

from recipes.benchmark.measuring import Work, describe, measure, training_step

import torch  # isort: skip  (after what sets up the process)

from custom_modules.markdown import number, table
from custom_modules.models import gridnet, mamba
from custom_modules.models.spmamba import SPMamba
from custom_modules.startup import keep_freed_blocks
from recipes.benchmark.selective_scan import unbound_scan, usable

SAMPLES = 32_000  # 4 s
SIZES: dict[str, dict[str, Any]] = {
    "reduced": {"n_layers": 4, "n_head": 2, "qk_dim": 256},
    "paper": {"n_layers": 6, "n_head": 4, "qk_dim": 512},
}
#: A name, what makes the work, its arguments and how often to repeat it.
Case = tuple[str, Callable[..., Work], tuple, int]


def make_model(size: str, way: str, device: str, checkpoint_blocks: bool = False) -> SPMamba:
    """A model whose scan goes one way, in a process that makes no other.

    A backend or, as said above, ``published``, ``stock``, ``linear`` or ``unbound``.
    """
    backend = {"linear": "auto", "unbound": "auto"}.get(way, way)
    if way == "stock":
        keep_freed_blocks(32 << 20)
    if way in ("published", "stock"):
        backend, gridnet.CPU_POINTS = "reference", 1 << 62
    elif way == "linear":
        mamba.suits_onednn = lambda x: False
    elif way == "unbound":
        mamba.selective_scan = lambda *x, backend, **rest: unbound_scan(*x, **rest)
    model = SPMamba(2, **SIZES[size], checkpoint_blocks=checkpoint_blocks, scan_backend=backend)
    return model.to(device)


def make_forward(size: str, way: str, device: str) -> Work:
    """A forward pass without gradients."""
    model = make_model(size, way, device).eval()
    mixture = torch.randn(1, SAMPLES, device=device)

    @torch.no_grad()
    def forward() -> None:
        model(mixture)

    return {"seconds": forward}


def make_step(
    size: str, way: str, device: str, batch: int, dtype: str, checkpoint_blocks: bool
) -> Work:
    """A training step."""
    model = make_model(size, way, device, checkpoint_blocks)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    targets = torch.randn(batch, SAMPLES, 2, device=device)
    step = training_step(model, optimizer, targets, getattr(torch, dtype))
    return {"seconds": step}


def on_cpu(options: argparse.Namespace) -> Iterator[Case]:
    """The forward pass beside the published loop's, and training steps."""
    ways = dict.fromkeys(("torch", "linear"), options.repeats)
    if usable("numba", "cpu"):  # else torch is eager
        ways["eager"] = options.repeats
    if not options.no_reference:
        # The loop takes a minute: once is enough, after the warm-up.
        ways |= dict.fromkeys(("reference", "published", "stock"), 1)
    for way, repeats in ways.items():
        yield f"forward, reduced, {way}", make_forward, ("reduced", way, "cpu"), repeats
    for size in SIZES:
        name = f"training step, {size}, batch 1, torch, checkpointed"
        yield name, make_step, (size, "torch", "cpu", 1, "float32", True), 1


def on_cuda(options: argparse.Namespace) -> Iterator[Case]:
    """Training steps of both sizes, with every backend that works."""
    backends = [x for x in ("triton", "mamba_ssm", "torch") if usable(x, "cuda")]
    dtypes = ("float32", "bfloat16")
    cases = [
        *itertools.product(SIZES, (1, 4), backends, dtypes, (False, True)),
        ("reduced", 1, "unbound", "float32", False),
    ]
    for size, batch, way, dtype, checkpointed in cases:
        arguments = (size, way, "cuda", batch, dtype, checkpointed)
        name = f"training step, {size}, batch {batch}, {way}, {dtype}"
        name += ", checkpointed" if checkpointed else ""
        yield name, make_step, arguments, options.repeats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no_reference", action="store_true", help="leave the published loop out")
    options = parser.parse_args()
    print(f"{describe()}, {options.threads} threads\n")
    lines = [["what", "process s", "clock s", "peak MiB"]]
    cases = on_cuda(options) if torch.cuda.is_available() else on_cpu(options)
    for name, make, arguments, repeats in cases:
        figures = measure(make, arguments, options.threads, repeats)
        seconds = (number(figures[key], 2) for key in ("seconds", "wall seconds"))
        lines.append([name, *seconds, number(figures["MiB"], 0)])
    print(table(lines))


if __name__ == "__main__":
    main()
