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
from typing import Any

from recipes.benchmark.measuring import Work, describe, measure, training_step

import torch  # isort: skip  (after what sets up the process)
from selective_scan import unbound_scan, usable

from custom_modules.markdown import number, table
from custom_modules.models import gridnet, mamba
from custom_modules.models.spmamba import SPMamba
from custom_modules.processes import keep_freed_blocks

SAMPLES = 32_000  # 4 s
SIZES: dict[str, dict[str, Any]] = {
    "reduced": {"n_layers": 4, "n_head": 2, "qk_dim": 256},
    "paper": {"n_layers": 6, "n_head": 4, "qk_dim": 512},
}


def make_model(
    size: str, way: str, device: str, checkpoint_blocks: bool = False
) -> SPMamba:
    """A model whose scan goes one way, in a process that makes no other.

    A backend or, as said above, ``published``, ``stock``, ``linear`` or ``unbound``.
    """
    backend = {
        "published": "reference",
        "stock": "reference",
        "linear": "auto",
        "unbound": "auto",
    }.get(way, way)
    if way == "stock":
        keep_freed_blocks(32 << 20)
    if way in ("published", "stock"):
        gridnet.CPU_POINTS = 1 << 62
    elif way == "linear":
        mamba.suits_onednn = lambda x: False
    elif way == "unbound":
        mamba.selective_scan = lambda *inputs, backend, **rest: unbound_scan(
            *inputs, **rest
        )
    model = SPMamba(
        2, **SIZES[size], checkpoint_blocks=checkpoint_blocks, scan_backend=backend
    )
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


def row(name: str, figures: dict[str, float]) -> list[str]:
    seconds = (number(figures[key], 2) for key in ("seconds", "wall seconds"))
    return [name, *seconds, number(figures["MiB"], 0)]


def on_cpu(options: argparse.Namespace) -> list[list[str]]:
    """The forward pass beside the published loop's, and training steps."""
    ways = dict.fromkeys(("torch", "linear"), options.repeats)
    if usable("numba", "cpu"):  # else torch is eager
        ways["eager"] = options.repeats
    if not options.no_reference:
        # The loop takes a minute: once is enough, after the warm-up.
        ways |= dict.fromkeys(("reference", "published", "stock"), 1)
    rows = []
    for way, repeats in ways.items():
        arguments = ("reduced", way, "cpu")
        figures = measure(make_forward, arguments, options.threads, repeats)
        rows.append(row(f"forward, reduced, {way}", figures))
    for size in SIZES:
        step = (size, "torch", "cpu", 1, "float32", True)
        figures = measure(make_step, step, options.threads, repeats=1)
        rows.append(
            row(f"training step, {size}, batch 1, torch, checkpointed", figures)
        )
    return rows


def on_cuda(options: argparse.Namespace) -> list[list[str]]:
    """Training steps of both sizes, with every backend that works."""
    backends = [x for x in ("triton", "mamba_ssm", "torch") if usable(x, "cuda")]
    dtypes = ("float32", "bfloat16")
    cases = [
        *itertools.product(SIZES, (1, 4), backends, dtypes, (False, True)),
        ("reduced", 1, "unbound", "float32", False),
    ]
    rows = []
    for size, batch, way, dtype, checkpointed in cases:
        arguments = (size, way, "cuda", batch, dtype, checkpointed)
        words = [f"training step, {size}, batch {batch}", way, dtype]
        words += ["checkpointed"] if checkpointed else []
        figures = measure(make_step, arguments, repeats=options.repeats)
        rows.append(row(", ".join(words), figures))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--no_reference", action="store_true", help="leave the published loop out"
    )
    options = parser.parse_args()
    print(f"{describe()}, {options.threads} threads\n")
    rows = on_cuda(options) if torch.cuda.is_available() else on_cpu(options)
    print(table([["what", "process s", "clock s", "peak MiB"], *rows]))


if __name__ == "__main__":
    main()
