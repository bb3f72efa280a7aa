#!/usr/bin/env python3
"""How fast all variants are scored, beside the loop that one would write first.

    python recipes/benchmark/evaluation.py demo/results/hyperparams.yaml
    python recipes/benchmark/evaluation.py --page

Both score the same mixtures with the same model: SI-SDR, SDR and SIR, PESQ, STOI and
ESTOI of the estimates and of the mixture. The loop takes one variant after the other,
reads the layers each time, runs the model with batch 1 and computes metrics in its own
process; ours also scores the oracle. --page writes the table into README.md beside this file.
"""

from custom_modules.startup import prepare_process

prepare_process(__name__)

import argparse
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from pesq import PesqError, pesq
from pystoi import stoi
from speechbrain.nnet.losses import get_si_snr_with_pitwrapper
from torch import Tensor

from custom_modules.dataio import MixtureDataset
from custom_modules.errors import InputError, OptionParser, exit_cleanly
from custom_modules.evaluation import loading
from custom_modules.evaluation.options import split_options
from custom_modules.evaluation.runner import Scope, score_test_set
from custom_modules.evaluation.store import ScoreStore
from custom_modules.metrics import PESQ_MODES, align, bss_eval, metric_groups
from custom_modules.mmipc import VARIANTS, variants_of
from custom_modules.processes import available_cores
from polsess_prepare import prepare_polsess
from recipes.benchmark import kept_figures as kept
from recipes.benchmark.measuring import Row, describe, rows_of, speeds, time_alternately


def simple_loop(model: loading.Model, dataset: MixtureDataset) -> list[float | None]:
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


def variants_in(dataset: MixtureDataset) -> list[str]:
    """The variants that mixtures of this test set have; not every corpus has all."""
    entries = (dataset.data[name] for name in dataset.data_ids)
    present = {v for e in entries for v in variants_of(e["environment"])}
    return [v for v in VARIANTS if v in present and v in dataset.variants]


def _simple_scores(
    mixture: Tensor, targets: Tensor, estimates: Tensor, rate: int
) -> list[float | None]:
    """Of the estimates and of the mixture; None where PESQ finds no speech."""
    answers = mixture[..., None].expand_as(targets)
    scores = [get_si_snr_with_pitwrapper(targets, x.clone()) for x in (estimates, answers)]
    aligned = align(estimates, targets)
    for answer in (aligned, answers):
        sources, signals = targets[0].numpy().T, answer[0].numpy().T
        scores += bss_eval(sources, signals)
        for target, signal in zip(sources, signals, strict=True):
            try:
                scores.append(pesq(rate, target, signal, PESQ_MODES[rate]))
            except PesqError:
                scores.append(None)
            scores.append(stoi(target, signal, rate))
            scores.append(stoi(target, signal, rate, extended=True))
    return scores


def compare(argv: Sequence[str], repeats: int) -> list[list[str]]:
    """Both ways side by side, of what evaluate.py's options say."""
    options, rest = split_options(argv)
    subject = loading.find_model(rest)
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        for preparation in loading.prepare_options(subject, Path(folder), options.split):
            prepare_polsess(**preparation)
        dataset = loading.test_set(subject, Path(folder), options)
    model, _ = subject.load()
    efforts, threads = [], torch.get_num_threads()

    def score_all() -> None:
        """As ``evaluate.py`` does; afterwards the loop has its threads again."""
        with tempfile.TemporaryDirectory() as folder:
            store = ScoreStore(Path(folder), "benchmark")
            scope = Scope(metric_groups(), progressbar=False)
            efforts.append(score_test_set(model, dataset, store, scope))
        torch.set_num_threads(threads)

    ways = {"simple loop": lambda: simple_loop(model, dataset), "evaluate.py": score_all}
    seconds = time_alternately(ways, repeats)
    scored, waited = efforts[-1].scored, efforts[-1].waited / efforts[-1].seconds
    waiting = Row("the model waits for metrics", f"{100 * waited:.0f} % of the time")
    return rows_of([*speeds(seconds, scored, "mixtures"), waiting])


def measure(options: argparse.Namespace) -> None:
    """The table."""
    if not options.model:
        raise InputError("name a model: evaluation.py demo/results/hyperparams.yaml")
    argv = [options.model, f"--max_samples={options.mixtures}"]
    argv += [f"--data_folder={options.data_folder}"] if options.data_folder else []
    cores = f"{available_cores()} cores, {torch.get_num_threads()} threads for the loop"
    model = f"{options.model}, {options.mixtures} mixtures with their variants"
    on = f"{describe()}; {model}; {cores}"
    kept.keep_table(options.output, "metrics", on, compare, argv, options.repeats)


def main() -> None:
    """Measures, or writes the page."""
    parser = OptionParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", nargs="?", help="as for evaluate.py")
    parser.add_argument("--data_folder", help="a corpus, if not the training's")
    parser.add_argument("--mixtures", type=int, default=8, help="of the test set")
    parser.add_argument("--repeats", type=int, default=2)
    kept.run(parser, "evaluation", measure)


if __name__ == "__main__":
    with exit_cleanly():
        main()
