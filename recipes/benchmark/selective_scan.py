"""Speed and peak memory of the selective scan's backends, side by side.

    python recipes/benchmark/selective_scan.py --threads 1
    python recipes/benchmark/selective_scan.py --page

``torch``, which Numba compiles on a CPU, and its ``eager`` half, for where Numba is
missing, are compared with the published loop (``reference``, whose backward pass is
quadratic in time) and with a plain loop over unbound time steps; on a GPU, see gpu.py.
"""

import argparse
import importlib.util
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from recipes.benchmark.measuring import Work, add_cpu_options, describe, measure

import torch  # isort: skip  (after what sets up the process)
import torch.nn.functional as F
from torch import Tensor

from custom_modules.errors import OptionParser, exit_cleanly
from custom_modules.markdown import number
from custom_modules.selective_scan import selective_scan
from recipes.benchmark import kept_figures as kept

#: Sequences × time × channels: SPMamba's own, along frequency and along time, for
#: a mixture of 4 s at 8 kHz; and one that the published loop survives.
SHAPES = "501x126x256,126x498x256,64x126x256"
STATE = 16
#: Its backward pass takes 16 s at 64 sequences already.
REFERENCE_SEQUENCES = 64


def unbound_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    z: Tensor,
    delta_bias: Tensor,
    delta_softplus: bool = True,
) -> Tensor:
    """A loop as one writes it for autograd, over time steps unbound beforehand."""
    delta = F.softplus(delta + delta_bias[:, None])
    state = torch.zeros(*u.shape[:2], A.shape[1], device=u.device)
    outputs = []
    steps = zip(*(x.unbind(2) for x in (delta, delta * u, B, C)), strict=True)
    for step, drive, b, c in steps:
        decay = torch.exp(step.unsqueeze(2) * A)
        state = decay * state + drive.unsqueeze(2) * b.unsqueeze(1)
        outputs.append((state * c.unsqueeze(1)).sum(2))
    return (torch.stack(outputs, 2) + u * D[:, None]) * F.silu(z)


def make_scan(way: str, shape: tuple[int, int, int], dtype: str, device: str) -> Work:
    """A scan of sequences × time × channels by a backend or ``unbound``, both ways."""
    batch, time, dim = shape
    generator = torch.Generator().manual_seed(0)

    def normal(channels: int) -> Tensor:  # channels innermost, as the model has them
        x = torch.randn(batch, time, channels, generator=generator)
        return x.to(device, getattr(torch, dtype)).transpose(1, 2).requires_grad_()

    def parameter(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device)

    A = -torch.exp(parameter(dim, STATE)).requires_grad_()
    D, delta_bias = parameter(dim).requires_grad_(), parameter(dim) - 4
    inputs = [normal(dim), normal(dim), A, normal(STATE), normal(STATE), D, normal(dim)]
    inputs.append(delta_bias.requires_grad_())

    scan: Callable[..., Any] = unbound_scan
    if way != "unbound":
        scan = partial(selective_scan, delta_softplus=True, backend=way)
    grad = torch.ones_like(inputs[0])

    @torch.no_grad()
    def forward() -> None:
        scan(*inputs)

    def both() -> None:
        torch.autograd.grad(scan(*inputs), inputs, grad)

    return {"forward": forward, "both": both}


def has_numba() -> bool:
    """Without it ``torch`` is ``eager``."""
    return importlib.util.find_spec("numba") is not None


def rows_of(shape: tuple[int, int, int], threads: int, repeats: int) -> Iterator[list[str]]:
    """Of the table; in brackets times as much as the first way."""
    ways = ["torch", *["eager"] * has_numba(), "unbound"]
    ways += ["reference"] * (shape[0] <= REFERENCE_SEQUENCES)
    first: dict[str, float] = {}
    for way in ways:
        times = 1 if way == "reference" else repeats
        figures = measure(make_scan, (way, shape, "float32", "cpu"), threads, times)
        first = first or figures
        cells = ["×".join(map(str, shape)), way, "float32"]
        for name, decimals in (("forward", 3), ("both", 3), ("MiB", 0)):
            ratio = number(figures[name] / first[name], 2)
            cells.append(f"{number(figures[name], decimals)} ({ratio} ×)")
        yield cells


def rows(shapes: str, threads: int, repeats: int) -> Iterator[list[str]]:
    """All of the table."""
    yield ["shape", "way", "dtype", "forward, s", "both ways, s", "peak MiB"]
    for text in shapes.split(","):
        batch, time, dim = map(int, text.split("x"))
        yield from rows_of((batch, time, dim), threads, repeats)


def measure_all(options: argparse.Namespace) -> None:
    """Each way beside the others."""
    shown = options.shapes, options.threads, options.repeats
    shapes = options.shapes.replace("x", "×").replace(",", ", ")
    on = f"{describe()}, threads: {options.threads}, {shapes}"
    kept.keep_table(options.output, "scan", on, rows, *shown)


def main() -> None:
    """Measures, or writes the page."""
    parser = OptionParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--shapes", default=SHAPES, help="sequences x time x channels")
    add_cpu_options(parser, threads=1)
    kept.run(parser, "scan", measure_all)


if __name__ == "__main__":
    with exit_cleanly():
        main()
