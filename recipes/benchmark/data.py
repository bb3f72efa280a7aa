#!/usr/bin/env python3
"""Prepare step, loader, loss and memory, each beside what one would use otherwise.

    python recipes/benchmark/data.py

All ratios are measured in this run, side by side. Takes a few minutes; Linux only.
"""

import argparse
import logging
import tempfile
import warnings

from custom_modules.processes import prepare_process

prepare_process()

import torch
from speechbrain.nnet.losses import get_si_snr_with_pitwrapper

from custom_modules.objectives import pit_si_sdr_loss
from recipes.benchmark.data_loading import benchmark_loading, benchmark_memory
from recipes.benchmark.data_prepare import benchmark_prepare
from recipes.benchmark.side_by_side import Row, show, speeds, time_alternately


def benchmark_pit(batch: int = 8, time: int = 32_000, repeats: int = 20) -> list[Row]:
    """Forward and backward of the loss, against SpeechBrain's."""
    targets = torch.randn(batch, time, 2)
    estimates = (targets + torch.randn(batch, time, 2)).requires_grad_()

    def theirs() -> None:
        for _ in range(repeats):
            # It changes its first argument in place, so it gets a copy.
            loss = get_si_snr_with_pitwrapper(targets.clone(), estimates)
            loss.sum().backward()

    def ours() -> None:
        for _ in range(repeats):
            pit_si_sdr_loss(estimates, targets)[0].sum().backward()

    size = f"{batch} x {time}"
    ways = {f"PitWrapper, {size}": theirs, f"PIT loss, {size}": ours}
    return speeds(time_alternately(ways), repeats, "batches")


def main() -> None:
    """Prints all figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000, help="to prepare")
    parser.add_argument("--mixtures", type=int, default=800, help="to load")
    parser.add_argument("--manifest_rows", type=int, default=128_000)
    parser.add_argument("--work_folder", default=tempfile.gettempdir())
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # hard links are duplicates, and each run says so
    warnings.filterwarnings("ignore", category=UserWarning)
    rows = [
        *benchmark_prepare(options.work_folder, options.rows),
        *benchmark_loading(options.work_folder, options.mixtures),
        *benchmark_pit(),
        *benchmark_memory(options.work_folder, options.manifest_rows),
    ]
    print(show(rows, f"threads: {torch.get_num_threads()}"))


if __name__ == "__main__":
    main()
