#!/usr/bin/env python3
"""Tests a separator on every variant, or puts several results side by side.

    python recipes/separation/evaluate.py results/spmamba/42/hyperparams.yaml
    python recipes/separation/evaluate.py hparams/spmamba.yaml --data_folder=PolSESS
    python recipes/separation/evaluate.py exported/spmamba --data_folder=PolSESS
    python recipes/separation/evaluate.py --compare results/spmamba/42 results/dprnn/42

What is tested: the best checkpoint of a training, by its hparams file with the
overrides of the training, or by the ``hyperparams.yaml`` in its results folder; or
an exported folder. Any key of the file is an option, as in ``train.py``. Results go
to the results folder, those of an exported folder to ``results/<its name>``, or either to
``--output_folder``.

A rerun of the same command goes on where an interrupted one was. ``torchrun``
shares the work among processes.
"""

# Start reading at main(); the work is done in custom_modules/evaluation.

from custom_modules.startup import prepare_process

prepare_process(__name__)  # some settings count only before torch is imported

import logging
import sys

from speechbrain.utils.distributed import run_on_main

from custom_modules.distributed import join_processes, leave_processes
from custom_modules.errors import exit_cleanly
from custom_modules.evaluation import loading
from custom_modules.evaluation.comparison import compare_results
from custom_modules.evaluation.options import (
    comparison_folder,
    print_usage,
    scope_of,
    split_options,
)
from custom_modules.evaluation.record import facts_of
from custom_modules.evaluation.testing import evaluate_model
from polsess_prepare import prepare_polsess


def main(argv: list[str]) -> None:
    """Evaluates, or compares."""
    if not argv or "--help" in argv:
        return print_usage(__doc__, argv)
    logging.basicConfig(level=logging.INFO, format="%(name)s - %(message)s")
    options, rest = split_options(argv)
    if options.compare:
        compare_results(options.compare, comparison_folder(rest), options.output)
        return
    found = loading.find_model(rest, options.runtime)
    join_processes(found.run_opts)
    folder = loading.results_folder(found, options.split)
    for preparation in loading.prepare_options(found, folder, options.split):
        run_on_main(prepare_polsess, kwargs=preparation)
    dataset = loading.test_set(found, folder, options)
    scope = scope_of(options, found.hparams, not found.run_opts.noprogressbar)
    model, checkpoint = found.load()
    model = loading.observing(model, options.observation_db)
    facts = facts_of(found.hparams) | {"observation_db": options.observation_db}
    evaluate_model(model, dataset, folder, scope, facts, options.split, checkpoint, options.output)
    leave_processes()


if __name__ == "__main__":
    with exit_cleanly():
        main(sys.argv[1:])
