"""The parts of gpu.py; as a command, it measures some units of one part.

    python -m recipes.benchmark.gpu_parts \
        '["step", ["convtasnet bf16"], "OUTPUT", "MiniPolSESS", false]'

Start reading at :func:`parts`. Each figure is written as soon as it is there.
"""

import gc
import itertools
import json
import shutil
import statistics
import sys
import time
import timeit
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from recipes.benchmark.measuring import MIB, training_step

import torch  # isort: skip  (after what sets up the process)

import pandas as pd
from speechbrain.utils.autocast import AMPConfig

from custom_modules.brain import Separation
from custom_modules.distributed import is_out_of_memory
from custom_modules.errors import InputError
from custom_modules.hparams import read_yaml
from custom_modules.inference import PolSESSSeparation
from custom_modules.losses import find_loss
from recipes.benchmark.campaign.costs import load_model
from recipes.benchmark.kept_figures import read_figures, record
from recipes.benchmark.selective_scan import make_scan
from recipes.separation import evaluate, train

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
#: What a card of 12 GB leaves to tensors beside its own context.
CARD_BYTES = 11.5 * 2**30
#: Sequences × steps × channels: SPMamba's own along frequency and along time, longer.
SHAPES = "501x126x256 126x498x256 4x4000x256 4x32000x256"
#: What is trained for minutes: the architecture whose kernels are our own.
TRAINED = "spmamba"
TRAINING_SECONDS, TESTING_SECONDS = 300.0, 60.0
NO_TIME = "no time left; the same command goes on here"

Figures = dict[str, float | None]


class Run(NamedTuple):
    """What the units of a run have in common."""

    output: Path
    data_folder: str
    tiny: bool
    seconds: float = inf  #: until this process is stopped


class Part(NamedTuple):
    """What is measured together, and shown in a table; its title is the docstring."""

    units: list[str]
    measure: Callable[[str, Run], Figures]
    seconds: float  #: after which a unit is given up
    headings: str = "architecture"  #: of the words of a unit


def parts(tiny: bool) -> dict[str, Part]:
    """All parts, the most valuable first."""
    names = list(architectures())
    steps = [f"{name} {how}" for name in names for how in ("fp32", "bf16", "fp16")]
    scans = scan_units("3x20x32 2x70x32" if tiny else SHAPES)
    return {
        "scan": Part(scans, measure_scan, 40, "shape backend dtype"),
        "step": Part(steps, measure_step, 60, "architecture precision"),
        "epoch": Part(names, measure_epoch, 75),
        "longform": Part(names, measure_longform, 40),
        "train": Part([TRAINED], measure_train, 420),
        "compile": Part(names, measure_compile, 90),
    }


def architectures() -> Iterator[str]:
    """The hparams files that have a separator of their own."""
    for path in sorted(Path("hparams").glob("*.yaml")):
        if "separator" in read_yaml(path):
            yield path.stem


def hparams_file(name: str, tiny: bool) -> str:
    """The published size, or the small one if there is one."""
    small = f"hparams/small/{name}.yaml"
    return small if tiny and Path(small).exists() else f"hparams/{name}.yaml"


def scan_units(shapes: str) -> list[str]:
    """Each way to scan at each shape."""
    backends = ("triton", "mamba_ssm", "torch")
    ways = [f"{backend} {t}" for backend in backends for t in ("float32", "bfloat16")]
    ways.append("unbound float32")
    return [f"{shape} {way}" for shape in shapes.split() for way in ways]


def measure_scan(unit: str, run: Run) -> Figures:
    """The selective scan, by sequences × steps × channels."""
    shape, way, dtype = unit.split()
    sequences, steps, channels = map(int, shape.split("x"))
    work = make_scan(way, (sequences, steps, channels), dtype, DEVICE)
    forward, _ = cost(work["forward"], run)
    both, peak = cost(work["both"], run)
    return {"forward, ms": forward, "and backward, ms": both, "peak, MiB": peak}


def measure_step(unit: str, run: Run) -> Figures:
    """A training step on mixtures of 4 s, in 12 GB."""
    name, precision = unit.split()
    limit_memory()
    step_of = make_steps(name, run, f"--precision={precision}")
    single, peak = cost(step_of(1), run)
    largest = largest_batch(lambda batch: _fits(step_of(batch)), 2 if run.tiny else 64)
    full, _ = cost(step_of(largest), run)
    figures = {"batch 1, ms": single, "peak, MiB": peak, "largest batch": largest}
    return figures | {"in it, ms per mixture": full / largest}


def make_steps(name: str, run: Run, *options: str, backend: str = "") -> Callable:
    """From a batch size to a training step, all of one model; perhaps compiled."""
    hparams = load_model(hparams_file(name, run.tiny), options)
    separator = hparams["separator"].to(DEVICE)
    if backend:
        separator.compile(backend=backend)
    optimizer = hparams["opt_class"](separator.parameters())
    samples = int(hparams["sample_rate"] * (0.1 if run.tiny else 4.0))
    dtype = AMPConfig.from_name(hparams["precision"]).dtype

    def step_of(batch: int) -> Callable[[], None]:
        targets = torch.randn(batch, samples, hparams["num_sources"], device=DEVICE)
        return training_step(separator, optimizer, targets, dtype, find_loss(hparams["loss"]))

    return step_of


def largest_batch(fits: Callable[[int], bool], most: int) -> int:
    """The largest batch that fits, where one mixture does; at most a power of two.

    >>> largest_batch(lambda batch: batch <= 11, most=64)
    11
    """
    low, high = 1, 2
    while high <= most and fits(high):
        low, high = high, 2 * high
    high = min(high, most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _fits(step: Callable[[], None]) -> bool:
    try:
        step()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return False
    finally:
        gc.collect()
        torch.cuda.empty_cache()
    return True


def measure_epoch(name: str, run: Run) -> Figures:
    """An epoch of train.py on 160 mixtures, a test by evaluate.py, in 12 GB."""
    limit_memory()
    folder = run.output / "epoch" / name
    sizes = (4, 1, 1) if run.tiny else (160, 20, 20)
    batch, accumulation = batch_that_fits(name, run)
    splits = zip(("train", "valid", "test"), sizes, strict=True)
    options = [f"--{split}_max_samples={size}" for split, size in splits]
    options += [f"--batch_size={batch}", f"--grad_accumulation_factor={accumulation}"]
    with timed_steps() as steps:
        _train(name, folder, run, "--number_of_epochs=1", *options)
    waited = sum(after[0] - before[1] for before, after in itertools.pairwise(steps))
    epoch = pd.read_csv(folder / "history.csv").iloc[-1]
    _evaluate(folder, run, *["--variants=C"] * run.tiny)
    test = json.loads((folder / "test_run.json").read_text(encoding="utf-8"))
    waited_for_metrics = test["seconds_waiting_for_metrics"]
    return {
        "batch": batch,
        "accumulation": accumulation,
        "epoch, s": float(epoch.seconds),
        "peak, GiB": float(epoch.peak_memory_gb),
        "waits for loader, %": 100 * waited / (steps[-1][1] - steps[0][0]),
        "waits for metrics, %": 100 * waited_for_metrics / test["seconds"],
    }


def batch_that_fits(name: str, run: Run) -> tuple[int, int]:
    """Batch size and accumulation that take the published steps in 12 GB."""
    hparams = load_model(hparams_file(name, run.tiny))
    wanted, step = hparams["batch_size"], ("step", f"{name} {hparams['precision']}")
    known = read_figures(run.output).get(step, {}).get("figures", {})
    batch = min(wanted, 1 << (int(known.get("largest batch", 1)).bit_length() - 1))
    return batch, -(-wanted // batch)


def _train(name: str, folder: Path, run: Run, *options: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)  # what a killed process left
    folders = [f"--data_folder={run.data_folder}", f"--output_folder={folder}"]
    plain = ["--curriculum=null", "--test_after_training=False", "--noprogressbar"]
    tiny = ["--segment_seconds=0.5", "--num_workers=0"] * run.tiny
    train.main([hparams_file(name, run.tiny), *folders, *plain, *tiny, *options])


def _evaluate(folder: Path, run: Run, *options: str) -> None:
    data = [f"--data_folder={run.data_folder}", "--noprogressbar", "--save_audio=0"]
    evaluate.main([f"{folder}/hyperparams.yaml", *data, *options])


@contextmanager
def timed_steps(stop_after: float = inf) -> Iterator[list[tuple[float, float]]]:
    """Begin and end of each training step in s; training ends after so many of them."""
    real, steps = Separation.fit_batch, []

    def fit_batch(self: Separation, batch: object) -> torch.Tensor:
        begin = time.perf_counter()
        loss = real(self, batch)  # waits for the GPU: it is returned on the CPU
        steps.append((begin, time.perf_counter()))
        if steps[-1][1] - steps[0][0] > stop_after:
            self.optimizer_step_limit = self.optimizer_step
        return loss

    with mock.patch.object(Separation, "fit_batch", fit_batch):
        yield steps


def measure_compile(name: str, run: Run) -> Figures:
    """A training step on 4 s with torch.compile, in the precision of the hparams."""
    plain, _ = cost(make_steps(name, run)(1), run)
    # A CPU would compile for minutes; tracing alone finds most of what fails.
    step = make_steps(name, run, backend="eager" if run.tiny else "inductor")(1)
    first = timeit.timeit(step, number=1)
    compiled, _ = cost(step, run)
    return {"without, ms": plain, "with, ms": compiled, "first step, s": first}


def measure_longform(name: str, run: Run) -> Figures:
    """A recording of 10 minutes, separated in chunks, in float32."""
    hparams = load_model(hparams_file(name, run.tiny))
    rate, chunk, audio = hparams["sample_rate"], *((1, 2) if run.tiny else (32, 600))
    model = PolSESSSeparation(
        {"separator": hparams["separator"]},
        {"sample_rate": rate, "num_spks": hparams["num_sources"]},
        run_opts={"device": DEVICE},
        chunk_seconds=chunk,
    )
    recording = torch.randn(1, audio * rate)
    model.separate_batch(recording[:, : chunk * rate])
    seconds = timeit.timeit(lambda: model.separate_batch(recording).cpu(), number=1)
    return {"time, s": seconds, "real-time factor": seconds / audio}


def measure_train(name: str, run: Run) -> Figures:
    """Trained on clean mixtures of Mini-PolSESS, tested on unseen voices."""
    seconds = min(TRAINING_SECONDS, run.seconds - TESTING_SECONDS)
    if seconds < TRAINING_SECONDS / 5:
        raise InputError(NO_TIME)
    folder = run.output / "train" / name
    clean = ["--train_variants=[C]", "--valid_variants=[C]", "--number_of_epochs=1000"]
    with timed_steps(stop_after=2.0 if run.tiny else seconds) as steps:
        _train(name, folder, run, *clean)
    _evaluate(folder, run, "--variants=C", "--no_sdr", "--no_pesq", "--no_stoi")
    results = pd.read_csv(folder / "test_results.csv")
    return {
        "training, min": (steps[-1][1] - steps[0][0]) / 60,
        "steps": len(steps),
        "SI-SDR, dB": float(results.si_sdr.mean()),
        "SI-SDRi, dB": float(results.si_sdri.mean()),
    }


def limit_memory() -> None:
    """Leaves this process what a card of 12 GB would."""
    if DEVICE == "cuda":
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, CARD_BYTES / total))


def cost(work: Callable[[], None], run: Run) -> tuple[float, float | None]:
    """Median ms after a warm-up, of ten times or a second's; peak MiB on a GPU."""
    gc.collect()  # models of earlier units
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
    work()
    times: list[float] = []
    while len(times) < (1 if run.tiny else 10) and sum(times) < 1000:
        times.append(_time(work))
    peak = torch.cuda.max_memory_allocated() / MIB if DEVICE == "cuda" else None
    return statistics.median(times), peak


def _time(work: Callable[[], None]) -> float:
    if DEVICE == "cpu":
        return 1000 * timeit.timeit(work, number=1)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    work()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end)


def main(job: str) -> None:
    """Measures units, until one fails in a way that may have spoilt the process."""
    name, units, output, *settings = json.loads(job)
    run = Run(Path(output), *settings)
    for unit in units:
        try:
            figures = parts(run.tiny)[name].measure(unit, run)
        except Exception as error:  # whatever it is, the other units go on
            record(run.output, name, unit, reason=reason_of(error))
            if not isinstance(error, InputError):
                raise  # for its traceback in the log; a new process does the rest
        else:
            record(run.output, name, unit, figures=figures)


def reason_of(error: Exception) -> str:
    """An exception in one line."""
    line = " ".join(str(error).split())[:200]
    if is_out_of_memory(error):
        return "out of memory"
    return line if isinstance(error, InputError) else f"{type(error).__name__}: {line}"


if __name__ == "__main__":
    main(sys.argv[1])
