#!/usr/bin/env python3
"""How fast all variants are scored, beside the loop that one would write first.

    python recipes/benchmark/evaluation.py results/demo/42/hyperparams.yaml

Both score the same mixtures with the same model: SI-SDR, SDR and SIR, PESQ, STOI and
ESTOI of the estimates and of the mixture. The loop takes one variant after the other,
reads the layers each time, runs the model with batch 1 and computes metrics in its own
process; ours also scores the oracle. Any option of ``evaluate.py`` that names a model
or a corpus can be added.
"""

import argparse
import logging
import sys
import tempfile
from pathlib import Path

from custom_modules.processes import prepare_process

prepare_process()

import torch
from pesq import PesqError, pesq
from pystoi import stoi
from side_by_side import time_alternately, verdict
from speechbrain.nnet.losses import get_si_snr_with_pitwrapper

from custom_modules.dataio import MixtureDataset
from custom_modules.errors import exit_cleanly
from custom_modules.evaluation.loading import (
    find_model,
    prepare_options,
    test_set,
)
from custom_modules.evaluation.options import split_options
from custom_modules.evaluation.runner import Scope, score_test_set
from custom_modules.evaluation.store import ScoreStore
from custom_modules.metrics import PESQ_MODES, align, bss_eval, metric_groups
from custom_modules.mmipc import VARIANTS, variants_of
from custom_modules.processes import available_cores
from polsess_prepare import prepare_polsess

SPEED_GOAL, WAIT_GOAL = 2.5, 0.1


def simple_loop(model, dataset):
    """Scores one variant after the other, in this process."""
    scores = []
    for variant in variants_in(dataset):
        one = MixtureDataset(dataset.data, [variant], dataset.task, 0, draw=False)
        for name in [n for n in one.data_ids if n in set(dataset.data_ids)]:
            item = one[one.data_ids.index(name)]
            mixture, targets = item["mixtures"], item["targets"][None]
            with torch.inference_mode():
                estimates = model.estimate(mixture.to(model.device)).float().cpu()
            scores += _simple_scores(mixture, targets, estimates, model.sample_rate)
    return scores


def variants_in(dataset):
    """The variants that mixtures of this test set have; not every corpus has all."""
    entries = (dataset.data[name] for name in dataset.data_ids)
    present = {v for e in entries for v in variants_of(e["environment"])}
    return [v for v in VARIANTS if v in present and v in dataset.variants]


def _simple_scores(mixture, targets, estimates, rate):
    answers = mixture[..., None].expand_as(targets)
    scores = [
        get_si_snr_with_pitwrapper(targets, x.clone()) for x in (estimates, answers)
    ]
    aligned = align(estimates, targets)
    for answer in (aligned, answers):
        scores += bss_eval(targets[0].numpy().T, answer[0].numpy().T)
        for target, signal in zip(
            targets[0].numpy().T, answer[0].numpy().T, strict=True
        ):
            try:
                scores.append(pesq(rate, target, signal, PESQ_MODES[rate]))
            except PesqError:
                scores.append(None)
            scores.append(stoi(target, signal, rate))
            scores.append(stoi(target, signal, rate, extended=True))
    return scores


def ours(model, dataset, efforts):
    """Scores all variants; remembers what it took."""
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        scope = Scope(metric_groups(), progressbar=False)
        store = ScoreStore(Path(folder), "benchmark")
        efforts.append(score_test_set(model, dataset, store, scope))
    torch.set_num_threads(threads)  # the loop takes what PyTorch would take


def main(argv):
    """Prints the speeds and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mixtures", type=int, default=12, help="of the test set")
    own, argv = parser.parse_known_args(argv)
    options, rest = split_options([*argv, f"--max_samples={own.mixtures}"])
    found = find_model(rest)
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        prepare_polsess(**prepare_options(found, Path(folder), options.split))
        dataset = test_set(found, Path(folder), options)
    model, _ = found.load()
    efforts = []
    seconds = time_alternately(
        {
            "loop": lambda: simple_loop(model, dataset),
            "ours": lambda: ours(model, dataset, efforts),
        },
        repeats=2,
    )
    count = efforts[-1].scored
    gain = seconds["loop"] / seconds["ours"]
    print(f"{len(dataset)} mixtures, {count} with their variants, on {model.device},")
    print(f"{available_cores()} cores, {torch.get_num_threads()} threads for the loop")
    print(f"simple loop  {count / seconds['loop']:6.2f} mixtures/s")
    print(
        f"evaluate.py  {count / seconds['ours']:6.2f} mixtures/s, "
        f"{gain:.1f} times as fast ({verdict(gain, SPEED_GOAL)})"
    )
    waited = efforts[-1].waited / efforts[-1].seconds
    goal = f" ({verdict(waited, WAIT_GOAL, lower=True)})"
    print(
        f"the model waits for metrics {100 * waited:.0f} % of the time"
        f"{goal if model.device.type != 'cpu' else ''}"
    )


if __name__ == "__main__":
    with exit_cleanly():
        main(sys.argv[1:])
