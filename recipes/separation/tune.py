#!/usr/bin/env python3
"""Searches for hyperparameters: a W&B sweep file, run without any service.

    python recipes/separation/tune.py hparams/sweeps/dprnn_stage1.yaml \\
        --trials 20 --data_folder=PolSESS

Trials are trainings in processes of their own; those that lag behind are ended
early (Hyperband). The same command resumes a search that was interrupted, and adds
trials if --trials is raised. At the end: a leaderboard, pictures, and the best
configuration as an hparams file.

  --trials N         trials in all (default: run_cap of the file, or the whole grid)
  --workers N        trials at a time, each on its own GPU if there are any
  --storage WHERE    sqlite (default) or journal, a file in the output folder; or any
                     storage URL of Optuna's, which many machines can share
  --tuning_folder    where everything goes (default: results/tuning/<name of the file>)
  --seed_of_search   of the sampler (default 42)

Everything else goes to every trial: --data_folder=…, --number_of_epochs=30.
What a trial prints, tracebacks included, is in output.txt in its folder.
W&B runs the same files: wandb sweep hparams/sweeps/dprnn_stage1.yaml; wandb agent …
"""

from custom_modules.startup import prepare_process

prepare_process(__name__)

import argparse
import importlib.util
import logging
import sys
from collections.abc import Sequence

from custom_modules.errors import InputError, OptionParser, exit_cleanly
from custom_modules.limits import option


def main(argv: Sequence[str]) -> None:
    """Searches and reports."""
    if not argv or "--help" in argv or "-h" in argv:
        return print(__doc__.strip())
    options, arguments = parse(argv)
    if importlib.util.find_spec("optuna") is None:
        raise InputError("tune.py needs the package optuna; run `pip install optuna`")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    logging.getLogger("speechbrain").setLevel(logging.WARNING)
    # Optuna takes seconds to import, and --help does not need it.
    import optuna

    from custom_modules.processes import gpus_here
    from custom_modules.tuning import search as searching
    from custom_modules.tuning.results import leaderboard, write_report
    from custom_modules.tuning.sweep import check_search, read_sweep
    from custom_modules.tuning.trainings import Trainings

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sweep = read_sweep(options.sweep)
    epochs = check_search(sweep, arguments)
    trials = options.trials or sweep.run_cap
    if trials is None and sweep.method != "grid":
        raise InputError(f"{sweep.path}: has no run_cap; say --trials N")
    folder = options.tuning_folder or f"results/tuning/{sweep.name}"
    storage = searching.open_storage(options.storage, folder)
    study = searching.open_study(sweep, storage, options.seed_of_search, epochs, arguments)
    if not any(argument.startswith("--tracker") for argument in arguments):
        arguments += ["--tracker=none"]  # the file asks for W&B's
    trainings = Trainings(options.workers, gpus_here())
    search = searching.Search(sweep, study, trainings, folder, arguments)
    search.run(trials or sweep.combinations())
    searching.check_any_succeeded(study)
    written = write_report(sweep, study, folder, arguments)
    table = leaderboard(sweep, study).drop(columns=["folder"], errors="ignore")
    print(f"\n{table.dropna(axis=1, how='all').head(10).to_string(index=False)}\n")
    for path in written:
        print(f"  {path}")


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Our options, and what goes to the trials."""
    parser = OptionParser(add_help=False, allow_abbrev=False)
    parser.add_argument("sweep")
    parser.add_argument("--trials", type=option("trials"))
    parser.add_argument("--workers", type=option("workers"), default=1)
    parser.add_argument("--storage", default="sqlite")
    parser.add_argument("--tuning_folder")
    parser.add_argument("--seed_of_search", type=option("seed", "--seed_of_search"), default=42)
    return parser.parse_known_args(argv)


if __name__ == "__main__":
    with exit_cleanly():
        main(sys.argv[1:])
