#!/usr/bin/env python3
"""The small models on real voices: every two speakers are tested once, the others train.

    python recipes/benchmark/real_voices.py --speech_folder=speech --speech_table=speech.csv \\
        --scene_folder=scenes --event_folder=events --recogniser=whisper:DIR

The recordings are yours, a subfolder for each speaker, with texts in the table; corpora are
made of them by hparams/corpus/folders.yaml. All ways round, the tests of a model are one, in
which every voice is new to the model. Killed, it goes on with the same command. With --page
the tables are written into recipes/separation/README.md.
"""

from custom_modules.startup import prepare_process

prepare_process(__name__)

import argparse
import json
import logging
import shutil
import sys
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import pandas as pd
from scipy.stats import spearmanr

from custom_modules import markdown
from custom_modules.errors import InputError, OptionParser, check_number, exit_cleanly
from custom_modules.evaluation.comparison import SHARED, TEXT_COLUMNS
from custom_modules.evaluation.record import RECORD_FILE, RESULTS_FILE
from custom_modules.evaluation.summary import ALL_MIXTURES
from custom_modules.evaluation.testing import check_recogniser
from custom_modules.evaluation.words import COUNTS_FILE, WORDS_FOLDER
from custom_modules.files import lock, prepare_folder
from custom_modules.limits import option
from custom_modules.tabular import read_record, read_table, write_table
from recipes.benchmark.campaign import campaign
from recipes.benchmark.campaign import page as campaign_page
from recipes.benchmark.campaign.page import around_marks, replace_marked
from recipes.benchmark.campaign.runs import TEST, Run, chosen_models, plan, test_of

HPARAMS, PAGE = "hparams/small", "recipes/separation/README.md"
#: Marks and figures of the page: these, and those of synthetic voices.
NAME, SMALL = "real", "small"
#: Of each corpus. Little speech makes many mixtures only by repeating it.
CORPUS_OPTIONS = ("--n_train=400", "--n_val=20", "--n_test=5", "--val_speakers=train")
#: Options that generate.py gets.
SOURCES = (
    *("speech_folder", "speech_table", "scene_folder", "event_folder"),
    *("scene_classes", "event_classes", "same_recording"),
)
#: Real voices are few, and speeds make others of them; on many synthetic ones that cost.
TRAINING = ("--remix=True", "--speed=[0.85, 1.16]")
#: Clean speech, and all of a recording.
VARIANTS = ("--variants=C,SER,SE",)
#: A recogniser of real speech takes its time, and in noise loses each voice alone, too.
WORDS, HEARD = ("--variants=C", "--metrics="), "words"
#: In the records of tests that are pooled.
ALIKE = (*SHARED, "words")


def main(argv: Sequence[str]) -> None:
    """Makes corpora, trains, tests, pools, compares."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("speechbrain").setLevel(logging.WARNING)
    options = parse(argv)
    folder = Path(options.output_folder)
    models = chosen_models(HPARAMS, options.models, least=2)
    if options.page:
        around_marks(PAGE, NAME)  # better refused now than in hours
    figures = Path(PAGE).parent / "figures" / NAME if options.page else folder / "figures"
    prepare_folder(figures)
    with lock(folder):
        corpora = make_corpora(options, folder)
        costs = campaign.costs_of(HPARAMS, models, folder, TRAINING)
        steps = campaign.steps_of(costs, options.budget)
        runs, tests = [], []
        for number, corpus in enumerate(corpora, 1):
            some = plan(HPARAMS, corpus, folder, steps, [number], TRAINING)
            runs += some
            tests += [test_of(run, corpus, None, VARIANTS) for run in some]
            if options.recogniser:
                more = (options.recogniser, WORDS, HEARD)
                tests += [test_of(run, corpus, *more) for run in some]
        campaign.train_and_test(runs, tests, options.budget, options.jobs)
        of_model = {model: [run for run in runs if run.model == model] for model in models}
        heard = bool(options.recogniser)
        pooled = [pool(folder, model, own, heard) for model, own in of_model.items()]
        campaign.collect(runs, costs, options.budget, folder, figures, pooled)
    if options.page:
        replace_marked(Path(PAGE), NAME, render(Path(PAGE), figures))


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add = parser.add_argument
    for name in ("speech_folder", "scene_folder", "event_folder"):
        add(f"--{name}", required=True)
    add("--speech_table", help="file, speaker and text of each recording")
    for name in SOURCES[4:]:
        add(f"--{name}", help="as generate.py takes it")
    add("--recogniser", help="that counts words, as evaluate.py takes it")
    add("--models", help="names with commas; default: all small ones")
    add("--budget", type=float, default=2, metavar="MINUTES", help="of training a run (default 2)")
    add("--jobs", type=option("workers", "--jobs"), help="runs at a time, a core or GPU each")
    add("--output_folder", default="results/real_voices")
    add("--page", action="store_true", help=f"write the tables into {PAGE}")
    options = parser.parse_args(argv)
    check_number("--budget", options.budget, above=0)
    check_recogniser(options.recogniser)
    if options.recogniser and not options.speech_table:
        parser.error("--recogniser: counts the words of --speech_table; name that, too")
    return options


def make_corpora(options: argparse.Namespace, folder: Path) -> list[str]:
    """A corpus for every two speakers that are tested."""
    speakers = speakers_in(options)
    made = []
    for number, pair in enumerate(combinations(speakers, 2), 1):
        place = folder / "corpora" / "_".join([str(number), *pair])
        others = [speaker for speaker in speakers if speaker not in pair]
        subsets = {"train": others, "test": [*pair]}
        given = [f"--{key}={getattr(options, key)}" for key in SOURCES if getattr(options, key)]
        given += [f"--speakers={json.dumps(subsets)}", *CORPUS_OPTIONS]
        given += ["--utterances=whole"] * bool(options.speech_table)  # whose texts hold then
        made.append(campaign.generate(place, given, "hparams/corpus/folders.yaml"))
    return made


def speakers_in(options: argparse.Namespace) -> list[str]:
    """Names of the speakers' folders."""
    folder = Path(options.speech_folder)
    visible = folder.glob("[!.]*/")
    speakers = sorted(path.name for path in visible if path.is_dir())
    if len(speakers) < 4:  # two to test, two to train on
        raise InputError(f"{folder}: has folders of {len(speakers)} speakers; four are needed")
    return speakers


def pool(folder: Path, model: str, runs: Sequence[Run], heard: bool = False) -> str:
    """A results folder of all tests of a model, whose mixtures have the number before them.

    With the words that were ``heard``, and the record of that test. InputError if not all
    were tested alike.
    """
    place, sources = folder / "pooled" / model, {RESULTS_FILE: f"{TEST}/{RESULTS_FILE}"}
    shutil.rmtree(place, ignore_errors=True)
    if heard:
        counts = f"{WORDS_FOLDER}/{COUNTS_FILE}"
        sources[counts] = f"{HEARD}/{counts}"
    for name, found in sources.items():
        tables = []
        for run in runs:
            table = read_table(run.folder / found, ("id",), (*TEXT_COLUMNS, "arm"))
            tables.append(table.assign(id=f"{run.seed}/" + table.id))
        prepare_folder((place / name).parent)
        write_table(pd.concat(tables, ignore_index=True), place / name)
    tests = [run.folder / (HEARD if heard else TEST) for run in runs]
    first, *others = (read_record(test / RECORD_FILE) for test in tests)
    for test, other in zip(tests[1:], others, strict=True):
        if differing := [key for key in ALIKE if first.get(key) != other.get(key)]:
            what = f"{differing[0]} is not that of {tests[0]}"
            raise InputError(f"{test}: {what}; remove {test} to test again")
    shutil.copyfile(tests[0] / RECORD_FILE, place / RECORD_FILE)
    return str(place)


def render(page: Path, folder: Path) -> str:
    """The tables, and how the models' order goes with that on synthetic voices."""
    return f"{campaign_page.render(page, folder)}\n\n{ranking(folder, folder.parent / SMALL)}"


def ranking(here: Path, there: Path) -> str:
    """Compares the order of models by SI-SDRi in the figures of two campaigns."""
    tables = (pd.read_csv(folder / campaign_page.COMPARISON) for folder in (here, there))
    real, synthetic = (
        table[(table.variant == ALL_MIXTURES) & (table.metric == "si_sdri")]
        .set_index("model")["mean"]
        .sort_values(ascending=False)
        for table in tables
    )
    both = real.index.intersection(synthetic.index)
    real, synthetic = real[both], synthetic[synthetic.index.isin(both)]
    if len(both) < 3:
        return "**Ranking**: too few models."
    found = spearmanr(real, synthetic[both])
    rho, p = markdown.number(found.statistic, 2), markdown.number(found.pvalue, 3)
    first, second = (", ".join(order.index[:3]) for order in (real, synthetic))
    return (
        f"**Ranking**: the order of {len(both)} models by SI-SDRi over all mixtures goes with that "
        f"on Mini-PolSESS by a rank correlation of {rho} (Spearman, p {p}). The first three are "
        f"{first} here, {second} there."
    )


if __name__ == "__main__":
    with exit_cleanly():
        main(sys.argv[1:])
