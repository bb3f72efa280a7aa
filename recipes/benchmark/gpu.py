#!/usr/bin/env python3
"""Measures on a GPU all that the pages say of GPUs, the most valuable first.

    python recipes/benchmark/gpu.py --output FOLDER --data_folder MiniPolSESS
    python recipes/benchmark/gpu.py --output FOLDER --tiny
    python recipes/benchmark/gpu.py --page

It ends by itself within --minutes. Each part runs in processes of its own; a unit that
hangs is given up. Each figure is written to FOLDER/figures.jsonl as soon as it is
there, tables to FOLDER/figures.md. The same command goes on where an earlier one ended,
and tries again what could not be measured. --tiny does all of it in small, on a CPU as
well. --page measures nothing: it writes tables into the pages.
"""

# Start reading at main(); what is measured is in gpu_parts.py.

from custom_modules.startup import prepare_process

prepare_process(__name__)

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

from custom_modules.errors import InputError, OptionParser, check_number, exit_cleanly
from custom_modules.files import atomic_path, prepare_folder
from custom_modules.processes import TrialProcess
from recipes.benchmark.campaign.page import replace_marked
from recipes.benchmark.gpu_parts import NO_TIME, Part, Run, parts
from recipes.benchmark.kept_figures import (
    MACHINE,
    Figures,
    check_setting,
    read_figures,
    read_lines,
    record,
    setting_line,
    table,
    units_of,
)
from recipes.benchmark.measuring import describe

#: Where the figures of the pages are kept, and which tables stand on which page.
COMMITTED = "recipes/benchmark/figures/gpu"
PAGES = {
    "README.md": ("longform", "train"),
    "docs/training.md": ("step", "epoch", "compile"),
    "recipes/benchmark/README.md": ("scan",),
}
NOT_MEASURED = "Not measured yet."
#: Until the first unit of a process begins, and before the end, for stopping one, s.
START_SECONDS, RESERVE_SECONDS = 40.0, 12.0
#: Of Python, after an exception.
RAISED = "exit status 1;"


def main(argv: list[str]) -> None:
    """Measures what is not measured yet, or writes pages."""
    options = parse(argv)
    if options.page:
        return update_pages(options.page)
    deadline = time.monotonic() + 60 * options.minutes - RESERVE_SECONDS
    prepare_folder(options.output)
    run = Run(options.output, options.data_folder, options.tiny)
    check_setting(run.output, describe_machine(), run.tiny)
    for name, part in parts(run.tiny).items():
        measure(name, part, run, deadline)
        write_tables(run)
    lines = [line for key, line in read_figures(run.output).items() if key[0] != MACHINE]
    measured = sum("figures" in line for line in lines)
    missing = len(lines) - measured
    print(f"{measured} measured, {missing} not: see {run.output}/figures.md")


def parse(argv: list[str]) -> argparse.Namespace:
    """The options."""
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--output", type=Path, metavar="FOLDER")
    add("--tiny", action="store_true", help="all in small, on a CPU as well")
    add("--minutes", type=float, default=8.0, help="until it ends (default: 8)")
    corpus = os.environ.get("POLSESS_DATA_ROOT", "no corpus was named")
    add("--data_folder", default=corpus, help="(Mini-)PolSESS; or POLSESS_DATA_ROOT")
    add("--page", nargs="?", const=COMMITTED, metavar="FOLDER", help="of the figures")
    options = parser.parse_args(argv)
    if not options.page and not options.output:
        raise InputError("--output=FOLDER is needed; see --help")
    check_number("--minutes", options.minutes, above=0)
    return options


def describe_machine() -> str:
    """Device, versions and driver."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return describe()
    return f"{describe()}, CUDA {torch.version.cuda}, driver {done.stdout.split()[0]}"


def measure(name: str, part: Part, run: Run, deadline: float) -> None:
    """Has processes measure what is missing of a part, until each unit has a line."""
    known = read_figures(run.output)
    waiting = [u for u in part.units if "figures" not in known.get((name, u), ())]
    waiting.sort(key=lambda unit: (name, unit) in known)  # what failed before goes last
    while waiting and not (obstacle := _obstacle(run, deadline)):
        seen = len(list(read_lines(run.output)))
        failure = work(name, part, waiting, run, deadline)
        done = {line["unit"] for line in list(read_lines(run.output))[seen:]}
        waiting = [unit for unit in waiting if unit not in done]
        # A unit that raised has its line, and the rest needs another process; one that
        # was stopped, or took its process along, has none.
        if waiting and failure and not (failure.startswith(RAISED) and done):
            record(run.output, name, waiting.pop(0), reason=failure)
    for unit in waiting:
        record(run.output, name, unit, reason=obstacle)


def _obstacle(run: Run, deadline: float) -> str | None:
    if not run.tiny and not torch.cuda.is_available():
        return "needs a GPU; --tiny does it in small"
    return NO_TIME if time.monotonic() >= deadline else None


def work(name: str, part: Part, units: list[str], run: Run, deadline: float) -> str | None:
    """Measures units in a process; says why it did not come to its end, if so."""
    job = [name, units, str(run.output), *run[1:3], deadline - time.monotonic()]
    command = [sys.executable, "-m", "recipes.benchmark.gpu_parts", json.dumps(job)]
    limit = part.seconds * (3 if run.tiny else 1)  # a CPU may have others to serve
    process = TrialProcess(command, run.output / "logs" / name, metric="")
    lines, give_up = 0, time.monotonic() + START_SECONDS + limit
    try:
        while process.process.poll() is None:
            time.sleep(0.1)
            if (now := len(list(read_lines(run.output)))) != lines:
                lines, give_up = now, max(give_up, time.monotonic() + limit)
            if time.monotonic() > deadline:
                return NO_TIME
            if time.monotonic() > give_up:
                return f"took longer than {limit:.0f} s"
        status = process.process.returncode
        return f"exit status {status}; see {process.output}" if status else None
    finally:
        process.stop()


def write_tables(run: Run) -> None:
    """Writes all tables beside the figures."""
    with atomic_path(run.output / "figures.md") as path:
        text = sections(read_figures(run.output), tuple(parts(run.tiny)))
        path.write_text("\n\n".join(text) + "\n", encoding="utf-8")


def update_pages(folder: str | Path, root: str | Path = ".") -> None:
    """Writes tables between the marks of the pages, or that nothing is measured yet."""
    figures = read_figures(folder)
    if figures.get((MACHINE, ""), {}).get("figures", {}).get("tiny"):
        raise InputError(f"{folder}: figures of --tiny are none for a page")
    for page, names in PAGES.items():
        replace_marked(Path(root, page), "gpu", render(folder, names))


def render(folder: str | Path, names: tuple[str, ...]) -> str:
    """What a page shows of the figures in a folder."""
    return "\n\n".join(sections(read_figures(folder), names))


def sections(figures: Figures, names: tuple[str, ...]) -> list[str]:
    """Tables of some parts with their titles, and what they were measured on."""
    if not figures:
        return [NOT_MEASURED]
    blocks = []
    for name, part in parts(tiny=False).items():
        units = units_of(figures, name)
        title = (part.measure.__doc__ or "").rstrip(".")
        if name in names:
            blocks += [f"**{title}**", table(part.headings, units) if units else NOT_MEASURED]
    return [*blocks, setting_line(figures)]


if __name__ == "__main__":
    with exit_cleanly():
        main(sys.argv[1:])
