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
from data_loading import benchmark_loading, benchmark_memory
from data_prepare import benchmark_prepare, show
from side_by_side import time_alternately, verdict
from speechbrain.nnet.losses import get_si_snr_with_pitwrapper

from custom_modules.objectives import pit_si_sdr_loss

LOADER_GOAL, PIT_GOAL, MEMORY_GOAL = 0.7, 3, 1024


def benchmark_pit(batch=8, time=32_000, repeats=20):
    """Forward and backward of the loss, against SpeechBrain's, once each: s."""
    targets = torch.randn(batch, time, 2)
    estimates = (targets + torch.randn(batch, time, 2)).requires_grad_()
    # SpeechBrain's changes its first argument in place, so it gets a copy.
    ways = {
        "theirs": lambda: get_si_snr_with_pitwrapper(targets.clone(), estimates),
        "ours": lambda: pit_si_sdr_loss(estimates, targets)[0],
    }

    def run(way):
        for _ in range(repeats):
            ways[way]().sum().backward()

    seconds = time_alternately({way: lambda w=way: run(w) for way in ways})
    return {way: spent / repeats for way, spent in seconds.items()}


def main():
    """Prints all figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000, help="to prepare")
    parser.add_argument("--mixtures", type=int, default=800, help="to load")
    parser.add_argument("--manifest_rows", type=int, default=128_000)
    parser.add_argument("--work_folder", default=tempfile.gettempdir())
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # hard links are duplicates, and each run says so
    warnings.filterwarnings("ignore", category=UserWarning)

    print(show(benchmark_prepare(options.work_folder, options.rows)), flush=True)

    loading = benchmark_loading(options.work_folder, options.mixtures)
    goal = verdict(loading["ratio"], LOADER_GOAL)
    print(f"{'soundfile and numpy':<22}{loading['bare_loop']:6.0f} mixtures/s")
    print(
        f"{'loader, 1 process':<22}{loading['loader']:6.0f} mixtures/s, "
        f"{loading['ratio']:.2f} of the loop ({goal})",
        flush=True,
    )

    pit = benchmark_pit()
    gain = pit["theirs"] / pit["ours"]
    print(f"{'PitWrapper, 8 x 32000':<22}{1000 * pit['theirs']:6.1f} ms")
    print(
        f"{'PIT loss, 8 x 32000':<22}{1000 * pit['ours']:6.1f} ms, "
        f"{gain:.1f} times as fast ({verdict(gain, PIT_GOAL)})",
        flush=True,
    )

    memory = benchmark_memory(options.work_folder, options.manifest_rows)
    goal = verdict(memory["above_import"], MEMORY_GOAL, lower=True)
    print(
        f"{f'manifest of {options.manifest_rows}':<22}"
        f"{memory['above_import']:6.0f} MiB above import ({goal}), "
        f"{memory['worker']:.0f} MiB more in a worker that visited all of it"
    )


if __name__ == "__main__":
    main()
