#!/usr/bin/env python3
"""What makes a separator of use to a recogniser: small trainings, and the words after each.

    python recipes/benchmark/words.py --output_folder=results/words

Makes Mini-PolSESS of matrix sentences, trains the small recogniser on it, and separators of
the demo's size with several losses and mixtures, each with three seeds and as many steps.
Every one is tested with the recogniser as it is, with one that was trained further as it was
trained before, and with one that was trained as long on its outputs; the first also gated,
and with some of the mixture added back. Writes the table
into docs/words.md. Killed, it goes on with the same command.
"""

from custom_modules.startup import prepare_process

prepare_process(__name__)

import argparse
import itertools
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from custom_modules import markdown
from custom_modules.errors import OptionParser, exit_cleanly
from custom_modules.evaluation.bootstrap import interval_of_ratio
from custom_modules.evaluation.record import RESULTS_FILE
from custom_modules.evaluation.voices import interval_over_voices, tested_voices
from custom_modules.evaluation.words import COUNTS_FILE, WORDS_FOLDER
from custom_modules.files import lock
from custom_modules.limits import option
from custom_modules.mmipc import VARIANTS
from custom_modules.tuning.trainings import Trainings
from recipes.benchmark import kept_figures as kept
from recipes.benchmark.campaign.campaign import generate
from recipes.benchmark.campaign.costs import make_work
from recipes.benchmark.campaign.page import around_marks
from recipes.benchmark.campaign.runs import ALIKE, ENDLESS, Run, do_runs
from recipes.benchmark.measuring import device_name, measure

PAGE, MARK = "docs/words.md", "experiment"
HPARAMS, RECOGNISER = "hparams/demo.yaml", "hparams/recognition/mini.yaml"
SEEDS = [42, 123, 456]
#: Mixtures to train, validate and test on.
SIZES = {"n_train": 1500, "n_val": 60, "n_test": 60}
SI_SDR = ["--loss=si_sdr", "--mixture_consistency=False"]
#: Training → what it changes of the hparams file. All learn on clean mixtures, as the demo.
ARMS = {
    "SI-SDR": SI_SDR,
    "SNR": ["--loss=snr", "--mixture_consistency=False"],
    "SNR, consistent": ["--loss=snr", "--mixture_consistency=True"],
    "remixed, speeds 0.85–1.16": [*SI_SDR, "--remix=True", "--speed=[0.85, 1.16]"],
}
FIRST = "SI-SDR"  # to whose outputs something is done after the training, too
OBSERVATION_DB = -6
#: Variants that stand together in the table.
GROUPS = {"C": ("C",), "SER or SE": ("SER", "SE"), "all mixtures": tuple(VARIANTS)}
#: Row → training, test in its folder, arm of ``words/counts.csv``.
ROWS = {
    "each voice alone": (FIRST, "", "targets"),
    "mixture, once": (FIRST, "", "mixture"),
    **{arm: (arm, "", "model") for arm in ARMS},
    f"{FIRST}, gated": (FIRST, "", "model_gated"),
    f"{FIRST}, mixture added at {OBSERVATION_DB} dB": (FIRST, "_observed", "model"),
}
#: Test → what its columns are headed: the recogniser as it is, trained further without a
#: separator, and as long on what the separator makes of voices.
TESTS = {"plain": "words wrong", "further": "recogniser further", "tuned": "recogniser tuned"}
AS_IT_IS = "plain"
#: Minutes of one core: an epoch of the recogniser, what comes before one, a test.
EPOCH_MINUTES, SEPARATING_MINUTES, TEST_MINUTES = 0.55, 1.0, 0.6
SOURCES = ["--noprogressbar", "--device=cpu"]


class Study(NamedTuple):
    """Where everything is, and how much of it."""

    folder: Path
    corpus: Path
    steps: int
    seeds: Sequence[int]
    epochs: int  # of the recogniser
    tuning_epochs: int  # on a separator's outputs

    @property
    def recogniser(self) -> Path:
        return self.folder / f"recogniser_{self.epochs}"

    @property
    def further(self) -> Path:
        return self.recogniser / f"further_{self.tuning_epochs}"

    def place(self, arm: str, seed: int) -> Path:
        name = "".join(x if x.isalnum() else "_" for x in arm)
        return self.folder / str(self.steps) / name / str(seed)

    def of_arm(self, arm: str) -> list[Path]:
        return [self.place(arm, seed) for seed in self.seeds]

    def trainings(self) -> Iterator[Run]:
        """The recogniser, then all separators, seed by seed."""
        place = self.recogniser
        train = self._recogniser(place, self.epochs, [])
        more = self._recogniser(self.further, self.tuning_epochs, [f"--start_from={place}"])
        yield Run("recogniser", 42, place, [train, more], ENDLESS, metric="")
        for seed, (arm, options) in itertools.product(self.seeds, ARMS.items()):
            place = self.place(arm, seed)
            train = ["recipes/separation/train.py", HPARAMS, f"--data_folder={self.corpus}"]
            train += [f"--output_folder={place}", f"--seed={seed}", *ALIKE, *SOURCES, *options]
            train += [f"--optimizer_step_limit={self.steps}", "--test_after_training=False"]
            export = ["recipes/separation/export.py", f"{place}/hyperparams.yaml"]
            export += [f"{place}/exported", "--overwrite"]
            yield Run(arm, seed, place, [train, export], self.steps)

    def tests(self) -> Iterator[Run]:
        """Of each separator, once it and the recogniser are trained."""
        for seed, arm in itertools.product(self.seeds, ARMS):
            place = self.place(arm, seed)
            tuned = place / "words" / "recogniser"
            heard = [f"--separator={place}/exported", f"--start_from={self.recogniser}"]
            commands = [self._recogniser(tuned, self.tuning_epochs, heard)]
            recognisers = self.recogniser, self.further, tuned
            for name, recogniser in zip(TESTS, recognisers, strict=True):
                test = ["recipes/separation/evaluate.py", f"{place}/hyperparams.yaml"]
                test += [f"--data_folder={self.corpus}", f"--recogniser=mini:{recogniser}"]
                test += ["--metrics=", "--workers=0", *SOURCES]
                commands.append([*test, f"--output_folder={place}/words/{name}"])
                if arm == FIRST:
                    test += [f"--observation_db={OBSERVATION_DB}"]
                    commands.append([*test, f"--output_folder={place}/words/{name}_observed"])
            yield Run(f"{arm}, words", seed, place / "words", commands, ENDLESS, metric="")

    def _recogniser(self, place: Path, epochs: int, options: list[str]) -> list[str]:
        train = ["recipes/recognition/train.py", RECOGNISER, f"--data_folder={self.corpus}"]
        train += [f"--output_folder={place}", f"--number_of_epochs={epochs}", *SOURCES]
        return train + options

    def minutes(self, step_seconds: float, jobs: int) -> float:
        """What all of it takes with so many at a time, a core each."""
        trainings = len(self.seeds) * len(ARMS)
        tests = len(self.seeds) * len(TESTS) * (len(ARMS) + 1)
        tuning = SEPARATING_MINUTES + EPOCH_MINUTES * self.tuning_epochs
        work = EPOCH_MINUTES * (self.epochs + self.tuning_epochs) + tests * TEST_MINUTES
        work += trainings * (self.steps * step_seconds / 60 + tuning)
        return work / jobs


def main(argv: list[str]) -> None:
    """Makes, trains, tests, writes."""
    options = parse(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if options.page != "none":
        around_marks(options.page, MARK)  # better refused now than in an hour
    folder = Path(options.output_folder)
    corpus = Path(options.data_folder or folder / "corpus")
    epochs = options.recogniser_epochs, options.tuning_epochs
    study = Study(folder, corpus, options.steps, options.seeds, *epochs)
    with lock(folder):
        if not options.data_folder:
            sizes = [f"--{key}={value}" for key, value in SIZES.items()]
            generate(corpus, [*sizes, "--sentences=matrix", f"--workers={options.jobs}"])
        seconds = measure(make_work, (HPARAMS, [], True), repeats=1)["seconds"]
        minutes = study.minutes(seconds, options.jobs)
        print(f"{minutes:.0f} minutes in all, with {options.jobs} at a time", flush=True)
        for runs in (study.trainings(), study.tests()):
            do_runs(list(runs), Trainings(options.jobs))
        rows = table(study)
    print(markdown.table(rows))
    if options.page != "none":
        kept.update_page(options.page, MARK, setting(study), {"words": rows})


def parse(argv: list[str]) -> argparse.Namespace:
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add, epochs = parser.add_argument, "number_of_epochs"
    add("--output_folder", default="results/words")
    add("--data_folder", help="a corpus with texts, instead of making one")
    add("--steps", type=option("optimizer_step_limit", "--steps"), default=1000)
    add("--seeds", type=option("seed", "--seeds"), nargs="+", default=SEEDS)
    add("--recogniser_epochs", type=option(epochs, "--recogniser_epochs"), default=14)
    add("--tuning_epochs", type=option(epochs, "--tuning_epochs"), default=3)
    add("--jobs", type=option("workers", "--jobs"), default=2, help="side by side")
    add("--page", default=PAGE, help="the page to write to, or none")
    options = parser.parse_args(argv)
    if len(set(options.seeds)) < len(options.seeds):
        parser.error("--seeds: must be each of them once")
    return options


def setting(study: Study) -> str:
    """What the table was measured on."""
    seeds = ", ".join(map(str, study.seeds))
    below = f"{device_name()}; {study.steps} steps of 4 crops of 1.5 s, seeds {seeds}; words wrong"
    return below + " in per cent, mean over seeds; intervals: 95 %, voices of the test set drawn"


def table(study: Study) -> list[list[str]]:
    """A row for each way of separating in each group of variants."""
    heads = itertools.chain.from_iterable((name, "95 %") for name in TESTS.values())
    lines = [["", "SI-SDRi, dB", "95 %", *heads]]
    voices = tested_voices(study.of_arm(FIRST)[0] / "words" / AS_IT_IS)
    for (group, variants), (row, (arm, test, words)) in itertools.product(
        GROUPS.items(), ROWS.items()
    ):
        folders = [place / "words" for place in study.of_arm(arm)]
        line = [f"{group}: {row}"]
        is_measured = words == "model"  # decibels are of outputs as they come
        line += gains_of(folders, test, variants, voices) if is_measured else [markdown.DASH] * 2
        for name in TESTS:
            line += words_of([x / f"{name}{test}" for x in folders], variants, words, voices)
        lines.append(line)
    return lines


def gains_of(
    folders: list[Path], test: str, variants: Sequence[str], voices: pd.DataFrame
) -> list[str]:
    """SI-SDRi, the mean of each mixture's, and its interval."""
    paths = [folder / f"{AS_IT_IS}{test}" / RESULTS_FILE for folder in folders]
    rows = pd.concat([pd.read_csv(path, dtype={"id": str}) for path in paths])
    rows = rows[rows.variant.isin(variants)]
    gains = (rows.si_sdr - rows.si_sdr_mixture).groupby(rows.id).mean().dropna()
    interval = interval_over_voices(gains.to_numpy(), voices.loc[gains.index].to_numpy())
    return [markdown.number(float(gains.mean()), 1), markdown.interval(*interval, 1)]


def words_of(
    folders: list[Path], variants: Sequence[str], arm: str, voices: pd.DataFrame
) -> list[str]:
    """Word errors over words, in per cent, and their interval."""
    paths = [folder / WORDS_FOLDER / COUNTS_FILE for folder in folders]
    rows = pd.concat([pd.read_csv(path, dtype={"id": str}) for path in paths])
    rows = rows[rows.variant.isin(variants) & (rows.arm == arm)]
    sums = rows.groupby("id")[["errors", "length"]].sum()
    counts = sums.to_numpy(dtype=float)
    (low,), (high,) = interval_of_ratio(counts[:, None], voices.loc[sums.index].to_numpy())
    errors, length = counts.sum(axis=0)
    wer = 100 * errors / length if length else np.nan
    return [markdown.number(wer, 1), markdown.interval(100 * low, 100 * high, 1)]


if __name__ == "__main__":
    with exit_cleanly():
        main(sys.argv[1:])
