"""Speed and peak memory of the selective scan's backends, side by side.

    python recipes/benchmark/selective_scan.py --threads 1

On a CPU ``torch``, which Numba compiles there, and its ``eager`` half, for where
Numba is missing, are compared with the published loop (``reference``, whose backward
pass is quadratic in time) and with a plain loop over unbound time steps; on CUDA
the backends that work there are compared, in float32 and bfloat16.
"""

import argparse

from recipes.benchmark.measuring import describe, measure

import torch  # isort: skip  (after what sets up the process)
import torch.nn.functional as F

from custom_modules.selective_scan import selective_scan

#: Sequences × time × channels: SPMamba's own, along frequency and along time, for
#: a mixture of 4 s at 8 kHz; and one that the published loop survives.
SHAPES = "501x126x256,126x498x256,64x126x256"
STATE = 16
#: Its backward pass takes 16 s at 64 sequences already.
REFERENCE_SEQUENCES = 64


def unbound_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus):
    """A loop as one writes it for autograd, over time steps unbound beforehand.

    Arguments and output are those of :func:`selective_scan`.
    """
    delta = F.softplus(delta + delta_bias[:, None])
    state = torch.zeros(*u.shape[:2], A.shape[1], device=u.device)
    outputs = []
    steps = zip(*(x.unbind(2) for x in (delta, delta * u, B, C)), strict=True)
    for step, drive, b, c in steps:
        decay = torch.exp(step.unsqueeze(2) * A)
        state = decay * state + drive.unsqueeze(2) * b.unsqueeze(1)
        outputs.append((state * c.unsqueeze(1)).sum(2))
    return (torch.stack(outputs, 2) + u * D[:, None]) * F.silu(z)


def make_scan(way, shape, dtype, device):
    """Work for :func:`.measure`: one way to scan, forward and both ways.

    Arguments
    ---------
    way : str
        A backend, or ``unbound``.
    shape : tuple of int
        Sequences, time, channels.
    dtype, device : str
    """
    batch, time, dim = shape
    dtype = getattr(torch, dtype)
    generator = torch.Generator().manual_seed(0)

    def normal(channels):  # channels innermost, as the model has them
        x = torch.randn(batch, time, channels, generator=generator)
        return x.to(device, dtype).transpose(1, 2).requires_grad_()

    def parameter(*shape):
        return torch.randn(shape, generator=generator).to(device)

    A = -torch.exp(parameter(dim, STATE)).requires_grad_()
    D, delta_bias = parameter(dim).requires_grad_(), parameter(dim) - 4
    inputs = [normal(dim), normal(dim), A, normal(STATE), normal(STATE), D, normal(dim)]
    inputs.append(delta_bias.requires_grad_())

    def scan():
        if way == "unbound":
            return unbound_scan(*inputs, delta_softplus=True)
        return selective_scan(*inputs, delta_softplus=True, backend=way)

    grad = torch.ones_like(inputs[0])

    @torch.no_grad()
    def forward():
        scan()

    def both():
        torch.autograd.grad(scan(), inputs, grad)

    return {"forward": forward, "both": both}


def ways_for(shape, device):
    """Pairs of a way to scan and a dtype, the slowest last."""
    if device == "cpu":
        eager = ["eager"] if usable("numba", device) else []  # else torch is that
        ways = [(way, "float32") for way in ("torch", *eager, "unbound")]
        is_small = shape[0] <= REFERENCE_SEQUENCES
        return ways + ([("reference", "float32")] if is_small else [])
    backends = ("triton", "mamba_ssm", "torch")
    backends = [name for name in backends if usable(name, device)]
    return [(name, dtype) for name in backends for dtype in ("float32", "bfloat16")]


def usable(backend, device):
    """Whether a backend works on a device."""
    u, A = torch.ones(1, 4, 8, device=device), -torch.ones(4, 2, device=device)
    B = torch.ones(1, 2, 8, device=device)
    try:
        selective_scan(u, u, A, B, B, backend=backend)
    except (RuntimeError, ValueError):
        return False
    return True


def show(shape, figures):
    """Lines of a Markdown table; times as often as the first way's."""
    first = next(iter(figures.values()))
    for (way, dtype), found in figures.items():
        cells = ["×".join(map(str, shape)), way, dtype]
        for name in ("forward", "both", "MiB"):
            number = f"{found[name]:.0f}" if name == "MiB" else f"{found[name]:.3f} s"
            cells.append(f"{number} ({found[name] / first[name]:.2f} ×)")
        print("|", " | ".join(cells), "|", flush=True)


def main():
    """Prints a table, one line for each shape and way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", default=SHAPES, help="sequences x time x channels")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(f"{describe()}, {options.threads} threads\n")
    print("| shape | way | dtype | forward | forward + backward | peak MiB |")
    print("|---|---|---|---|---|---|")
    for text in options.shapes.split(","):
        shape = tuple(int(size) for size in text.split("x"))
        figures = {}
        for way, dtype in ways_for(shape, device):
            repeats = 1 if way == "reference" else options.repeats
            arguments = (way, shape, dtype, device)
            figures[way, dtype] = measure(
                make_scan, arguments, options.threads, repeats
            )
        show(shape, figures)


if __name__ == "__main__":
    main()
