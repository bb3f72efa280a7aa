"""Speed and memory of a whole SPMamba on one mixture of 4 s at 8 kHz.

    python recipes/benchmark/spmamba.py --threads 2

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

from recipes.benchmark.measuring import describe, measure, training_step

import torch  # isort: skip  (after what sets up the process)
from selective_scan import unbound_scan, usable

from custom_modules.models import gridnet, mamba
from custom_modules.models.spmamba import SPMamba
from custom_modules.processes import keep_freed_blocks

SAMPLES = 32_000  # 4 s
SIZES = {
    "reduced": {"n_layers": 4, "n_head": 2, "qk_dim": 256},
    "paper": {"n_layers": 6, "n_head": 4, "qk_dim": 512},
}


def make_model(size, way, device, **options):
    """A model whose scan goes one way, in a process that makes no other.

    Arguments
    ---------
    size : str
        Of ``SIZES``.
    way : str
        A backend; ``published``, the reference with all sequences at once; ``stock``,
        that in glibc's own settings; ``linear``, the fastest scan with PyTorch's
        linear layers; or ``unbound``, a plain autograd loop.
    device : str
    **options
        As for :class:`SPMamba`.
    """
    backend = way
    if way == "stock":
        keep_freed_blocks(32 << 20)
    if way in ("published", "stock"):
        backend = "reference"
        gridnet.CPU_POINTS = 1 << 62
    elif way == "linear":
        backend = "auto"
        mamba.suits_onednn = lambda x: False
    elif way == "unbound":
        backend = "auto"
        mamba.selective_scan = lambda *inputs, backend, **rest: unbound_scan(
            *inputs, **rest
        )
    return SPMamba(2, **SIZES[size], scan_backend=backend, **options).to(device)


def make_forward(size, way, device):
    """A forward pass without gradients, for :func:`.measure`."""
    model = make_model(size, way, device).eval()
    mixture = torch.randn(1, SAMPLES, device=device)

    @torch.no_grad()
    def forward():
        model(mixture)

    return {"seconds": forward}


def make_step(size, way, device, batch, dtype, checkpoint_blocks):
    """A training step, for :func:`.measure`."""
    model = make_model(size, way, device, checkpoint_blocks=checkpoint_blocks)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    targets = torch.randn(batch, SAMPLES, 2, device=device)
    step = training_step(model, optimizer, targets, getattr(torch, dtype))
    return {"seconds": step}


def show(name, found):
    """One line of a Markdown table."""
    figures = f"{found['seconds']:.2f} | {found['wall seconds']:.2f}"
    print(f"| {name} | {figures} | {found['MiB']:.0f} |", flush=True)


def on_cpu(options):
    """The forward pass beside the published loop's, and training steps."""
    ways = {"torch": options.repeats, "linear": options.repeats}
    if usable("numba", "cpu"):  # else torch is eager
        ways["eager"] = options.repeats
    if not options.no_reference:
        # The loop takes a minute: once is enough, after the warm-up.
        ways |= {"reference": 1, "published": 1, "stock": 1}
    found = {}
    for way, repeats in ways.items():
        arguments = ("reduced", way, "cpu")
        found[way] = measure(make_forward, arguments, options.threads, repeats)
        show(f"forward, reduced, {way}", found[way])
    for size in SIZES:
        arguments = (size, "torch", "cpu", 1, "float32", True)
        step = measure(make_step, arguments, options.threads, repeats=1)
        show(f"training step, {size}, batch 1, torch, checkpointed", step)
    print()
    for way in (way for way in ways if way != "torch"):
        process, clock = (
            found[way][name] / found["torch"][name]
            for name in ("seconds", "wall seconds")
        )
        print(
            f"forward, torch: {clock:.1f} × as fast as {way}"
            f" ({process:.1f} × by process time)"
        )


def on_cuda(options):
    """Training steps of both sizes, with every backend that works."""
    backends = ("triton", "mamba_ssm", "torch")
    backends = [name for name in backends if usable(name, "cuda")]
    cases = [
        *itertools.product(
            SIZES, (1, 4), backends, ("float32", "bfloat16"), (False, True)
        ),
        ("reduced", 1, "unbound", "float32", False),
    ]
    for size, batch, way, dtype, checkpointed in cases:
        arguments = (size, way, "cuda", batch, dtype, checkpointed)
        words = [f"training step, {size}, batch {batch}", way, dtype]
        words += ["checkpointed"] if checkpointed else []
        show(", ".join(words), measure(make_step, arguments, repeats=options.repeats))


def main():
    """Prints a table of seconds and memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--no_reference", action="store_true", help="leave the published loop out"
    )
    options = parser.parse_args()
    print(f"{describe()}, {options.threads} threads\n")
    print("| what | process s | clock s | peak MiB |")
    print("|---|---|---|---|")
    if torch.cuda.is_available():
        on_cuda(options)
    else:
        on_cpu(options)


if __name__ == "__main__":
    main()
