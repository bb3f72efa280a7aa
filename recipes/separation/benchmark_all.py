#!/usr/bin/env python3
"""Trains and tests all architectures on one budget, and writes the page of results.

    python recipes/separation/benchmark_all.py --preset small --budget 10
    python recipes/separation/benchmark_all.py --preset full --budget 600 \\
        --data_folder PolSESS

Every architecture is trained with every seed for as many steps as take --budget
minutes here: a step of each is timed first. Corpus, variants and test are the same for
all, and there is no curriculum; batch, crop and rate are each one's own. Of a generated
corpus a test takes 12 mixtures for each minute of the budget, 96 at most.
The same command resumes what was interrupted, run by run and within a run; a higher
--budget trains on. Then the runs are compared, and the tables of README.md beside
this file are written between its marks, from the CSV files in figures/<preset>.

  --preset NAME      small: hparams/small, on a generated corpus, for two CPU cores;
                     full: hparams, on --data_folder, for GPUs
  --hparams FOLDER   with an hparams file for each architecture, instead of the preset's
  --budget MINUTES   of training a run, validation not counted (default 10)
  --seeds N …        (default 42 123 456)
  --models NAME …    two or more of the folder's (default: all)
  --jobs N           runs at a time, a thread or GPU each (default: all there are)
  --data_folder      a corpus to take instead of generating one
  --recogniser SPEC  counts words, too, as evaluate.py does (default: one that is trained on
                     the generated corpus)
  --output_folder    (default results/benchmark/<preset>)
  --page             (default README.md beside this file, or in --output_folder where that
                     is given); --page none writes none

Everything else goes to every training: --train_variants='[C]'.
"""

# Start reading at main(); the work is done in recipes/benchmark/campaign.

from custom_modules.startup import prepare_process

prepare_process(__name__)  # some settings count only before torch is imported

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from custom_modules.errors import OptionParser, check_number, exit_cleanly
from custom_modules.evaluation.testing import check_recogniser
from custom_modules.files import lock, prepare_folder
from custom_modules.hparams import split_arguments
from custom_modules.limits import option
from recipes.benchmark.campaign import campaign
from recipes.benchmark.campaign.page import around_marks, begin_page, update_page
from recipes.benchmark.campaign.runs import FOLDERS, chosen_models, plan, test_of

HERE = Path(__file__).parent
#: Preset → the folder of its hparams files.
PRESETS = {"small": FOLDERS["small"], "full": FOLDERS["published"]}
#: Options of train.py that are not everybody's to give.
DECIDED = ("--seed", "--model_name", "--optimizer_step_limit", "--test_after_training")


def main(argv: Sequence[str]) -> None:
    """Generates, measures, trains, tests, compares, writes."""
    if "--help" in argv or "-h" in argv:
        return print(__doc__.strip())
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("speechbrain").setLevel(logging.WARNING)
    options, rest = parse(argv)
    folder = Path(options.output_folder or f"results/benchmark/{options.preset}")
    has_own_page = options.output_folder and not options.page
    page = Path(options.page or (folder if has_own_page else HERE) / "README.md")
    writes_page = options.page != "none"
    figures = folder / "figures"
    if writes_page:
        figures = page.parent / "figures" / options.preset
        if has_own_page:
            begin_page(page, options.preset)
        around_marks(page, options.preset)  # better refused now than in hours
        prepare_folder(figures)
    with lock(folder):
        run_all(options, rest, folder, figures)
    if writes_page:
        update_page(page, options.preset, figures)
        print(f"  {page}")


def run_all(options: argparse.Namespace, rest: list[str], folder: Path, figures: Path) -> None:
    """From a corpus to figures."""
    corpus = options.data_folder
    corpus = corpus or campaign.generate(folder / "MiniPolSESS", campaign.CORPUS_OPTIONS)
    costs = campaign.costs_of(options.hparams, options.models, folder, rest)
    steps = campaign.steps_of(costs, options.budget)
    runs = plan(options.hparams, corpus, folder, steps, options.seeds, rest)
    recogniser, trainings = options.recogniser, [*runs]
    if not options.data_folder and not recogniser:
        trainings.insert(0, campaign.recogniser_run(corpus, folder))
        recogniser = f"mini:{trainings[0].folder}"
    mixtures = None if options.data_folder else campaign.mixtures_worth(options.budget)
    some = [f"--max_samples={mixtures}"] if mixtures else []
    tests = [test_of(run, corpus, recogniser, some) for run in runs]
    campaign.train_and_test(trainings, tests, options.budget, options.jobs, mixtures)
    campaign.collect(runs, costs, options.budget, folder, figures)


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Our options, with every default, and what goes to the trainings."""
    parser = OptionParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--preset", choices=PRESETS, default="small")
    parser.add_argument("--hparams")
    parser.add_argument("--budget", type=float, default=10)
    parser.add_argument(
        "--seeds", type=option("seed", "--seeds"), nargs="+", default=[42, 123, 456]
    )
    parser.add_argument("--models", nargs="+")
    parser.add_argument("--jobs", type=option("workers", "--jobs"))
    parser.add_argument("--data_folder")
    parser.add_argument("--recogniser")
    parser.add_argument("--output_folder")
    parser.add_argument("--page")
    options, rest = parser.parse_known_args(argv)
    if not options.data_folder and options.preset != "small":
        parser.error(f"--preset {options.preset}: say where PolSESS is, --data_folder=…")
    check_recogniser(options.recogniser)
    check_number("--budget", options.budget, above=0)
    options.hparams = options.hparams or PRESETS[options.preset]
    options.models = chosen_models(options.hparams, ",".join(options.models or []), least=2)
    if len(set(options.seeds)) < len(options.seeds):
        parser.error("--seeds: must be each of them once")
    _, run_arguments, overrides = split_arguments(["the trainings", *rest], known={})
    given = {a.partition("=")[0] for a in run_arguments} | {f"--{k}" for k in overrides}
    for name in DECIDED:
        if name in given:
            parser.error(f"{name}: is decided here")
    return options, rest


if __name__ == "__main__":
    with exit_cleanly():
        main(sys.argv[1:])
