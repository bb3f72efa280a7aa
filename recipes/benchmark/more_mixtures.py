#!/usr/bin/env python3
"""What remixing, speeds and silent talkers bring: small trainings beside each other.

    python recipes/benchmark/more_mixtures.py --output_folder=results/more_mixtures

Trains a small ConvTasNet on 400 and on 4,000 mixtures of Mini-PolSESS, as they are stored,
remixed, and with speeds, with three seeds and as many steps each; and, with a loss that
bears silence, with and without silent talkers. Tests on voices that no training heard.
Writes the tables into docs/training.md. Killed, it goes on with the same command.
"""

from custom_modules.startup import prepare_process

prepare_process(__name__)

import argparse
import itertools
import logging
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from custom_modules import markdown
from custom_modules.dataio import MixtureDataset
from custom_modules.errors import OptionParser, exit_cleanly
from custom_modules.evaluation.loading import find_model
from custom_modules.evaluation.record import RESULTS_FILE
from custom_modules.evaluation.store import SCORES_FOLDER
from custom_modules.evaluation.voices import interval_over_voices, tested_voices
from custom_modules.files import lock
from custom_modules.limits import option
from custom_modules.manifest.reading import open_manifest
from custom_modules.mmipc import VARIANTS
from custom_modules.objectives import si_sdr
from custom_modules.tuning.trainings import Trainings
from recipes.benchmark import kept_figures as kept
from recipes.benchmark.campaign.campaign import generate
from recipes.benchmark.campaign.page import around_marks
from recipes.benchmark.campaign.runs import Run, do_runs
from recipes.benchmark.measuring import device_name

PAGE, MARK = "docs/training.md", "more_mixtures"
HPARAMS = "hparams/small/convtasnet.yaml"
SEEDS = 42, 123, 456
SIZES = 400, 4000
#: Arm → what it changes of the hparams file.
ARMS = {
    "as stored": [],
    "remixed": ["--remix=True"],
    "remixed, speeds 0.95–1.05": ["--remix=True", "--speed=[0.95, 1.05]"],
    "remixed, speeds 0.85–1.16": ["--remix=True", "--speed=[0.85, 1.16]"],
}
LOSS = "--loss=sa_sdr"  # one that bears silence
#: Half of the steps are over when talkers fall silent.
SILENT_ARMS = {
    "both always talk": [LOSS, "--remix=True"],
    "silent talkers": [LOSS, "--remix=True", "--silent_talker={share: 0.1, from_epoch: HALF}"],
}
BATCH = 4


class Study(NamedTuple):
    """Where the trainings are, and of how many steps."""

    folder: Path
    steps: int

    @property
    def corpus(self) -> Path:
        return self.folder / "corpus"

    def runs(self) -> Iterator[Run]:
        """All, seed by seed."""
        for seed, size, (arm, options) in itertools.product(SEEDS, SIZES, ARMS.items()):
            yield self._run(arm, size, seed, options)
        for seed, (arm, options) in itertools.product(SEEDS, SILENT_ARMS.items()):
            yield self._run(arm, SIZES[-1], seed, options)

    def of_arm(self, arm: str, size: int) -> list[Path]:
        return [self.place(arm, size, seed) for seed in SEEDS]

    def place(self, arm: str, size: int, seed: int) -> Path:
        name = "".join(x if x.isalnum() else "_" for x in arm)
        return self.folder / str(size) / name / str(seed)

    def _run(self, arm: str, size: int, seed: int, options: list[str]) -> Run:
        place, corpus = self.place(arm, size, seed), f"--data_folder={self.corpus}"
        half = max(2, self.steps * BATCH // size // 2 + 1)
        options = [text.replace("HALF", str(half)) for text in options]
        train = [
            *("recipes/separation/train.py", HPARAMS, corpus, f"--output_folder={place}"),
            *(f"--seed={seed}", f"--optimizer_step_limit={self.steps}"),
            *(f"--train_max_samples={size}", "--test_after_training=False", "--noprogressbar"),
            *options,
        ]
        test = ["recipes/separation/evaluate.py", f"{place}/hyperparams.yaml", corpus]
        test += ["--no_sdr", "--no_pesq", "--no_stoi", "--noprogressbar"]
        return Run(
            arm,
            seed,
            place,
            [train, test, [*test, "--split=train", "--max_samples=100"]],
            self.steps,
        )


def main(argv: list[str]) -> None:
    options = parse(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    study = Study(Path(options.output_folder), options.steps)
    if options.page != "none":
        around_marks(options.page, MARK)  # better refused now than in an hour
    with lock(study.folder):
        sizes = [f"--n_train={SIZES[-1]}", "--n_val=60", "--n_test=100"]
        generate(study.corpus, [*sizes, f"--workers={options.jobs}"])
        do_runs(list(study.runs()), Trainings(options.jobs))
        found = {"Unseen voices": unseen_voices(study), "Passages of one": passages(study)}
    print(*map(markdown.table, found.values()), sep="\n\n")
    if options.page != "none":
        kept.update_page(options.page, MARK, setting(study), found)


def parse(argv: list[str]) -> argparse.Namespace:
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--output_folder", default="results/more_mixtures")
    parser.add_argument("--steps", type=option("optimizer_step_limit", "--steps"), default=1500)
    parser.add_argument("--jobs", type=option("workers", "--jobs"), default=2, help="side by side")
    parser.add_argument("--page", default=PAGE, help="the page to write to, or none")
    return parser.parse_args(argv)


def setting(study: Study) -> str:
    """What both tables were measured on."""
    seeds = ", ".join(map(str, SEEDS))
    below = f"{device_name()}; {study.steps} steps of {BATCH} crops of 1.5 s, seeds {seeds}"
    return f"{below}; intervals: 95 %, voices of the test set drawn"


def unseen_voices(study: Study) -> list[list[str]]:
    """A row for each size and arm."""
    lines = [
        ["trained on", "SI-SDRi, dB", "95 %", "over as stored", "95 %", "own training mixtures"]
    ]
    for size, arm in itertools.product(SIZES, ARMS):
        test = improvements(study.of_arm(arm, size), "test")
        stored = improvements(study.of_arm("as stored", size), "test")
        train = improvements(study.of_arm(arm, size), "train")
        pairs = tested_voices(study.of_arm(arm, size)[0]).loc[test.index].to_numpy()
        cells = [markdown.number(test.mean(), 2), _interval(test, pairs)]
        if arm != "as stored":
            gain = test - stored
            cells += [markdown.number(gain.mean(), 2), _interval(gain, pairs)]
        else:
            cells += [markdown.DASH, markdown.DASH]
        lines.append([f"{size}, {arm}", *cells, markdown.number(train.mean(), 2)])
    return lines


def improvements(folders: list[Path], split: str) -> pd.Series:
    """SI-SDRi of each mixture, dB: the mean over its variants, and over seeds."""
    tables = []
    for folder in folders:
        path = folder / ("" if split == "test" else split) / RESULTS_FILE
        rows = pd.read_csv(path)
        tables.append(rows.assign(gain=rows.si_sdr - rows.si_sdr_mixture))
    return pd.concat(tables).groupby("id").gain.mean()


def _interval(values: pd.Series, voices: np.ndarray) -> str:
    return markdown.interval(*interval_over_voices(values.to_numpy(), voices), 2)


def passages(study: Study) -> list[list[str]]:
    """Passages of one speaker: what either output holds."""
    lines = [["trained with", "other output below the talker, dB", "SI-SDR of the talker, dB"]]
    lines[0].append("SI-SDRi where two talk, dB")
    for arm in SILENT_ARMS:
        folders = study.of_arm(arm, SIZES[-1])
        levels, scores = zip(*map(one_talker, folders), strict=True)
        both = improvements(folders, "test").mean()
        figures = np.median(levels), np.mean(scores), both
        lines.append([arm, *(markdown.number(float(x), 1) for x in figures)])
    return lines


@torch.inference_mode()
def one_talker(folder: Path) -> tuple[float, float]:
    """Median of how far below the louder output the other lies, and mean SI-SDR of it, dB."""
    found = find_model([f"{folder}/hyperparams.yaml"])
    (model, _), corpus = found.load(), found.hparams["data_folder"]
    manifest = open_manifest(folder / SCORES_FOLDER / "test.json", corpus)
    silence: Mapping[str, object] = {"silent_talker": {"share": 1, "from_epoch": 1}}
    passages = MixtureDataset(manifest, VARIANTS, "SB", seed=1, remixing=silence)
    passages.set_epoch(1)
    levels, scores = [], []
    batches = ((item, item["mixtures"]) for item in passages)
    for item, estimates in model.separate_all(batches):
        energy = estimates.square().sum(1)[0]
        talker = int(item["targets"].square().sum(0).argmax())
        target = item["targets"][None, :, talker, None].expand_as(estimates)
        levels.append(float(10 * torch.log10(energy.max() / energy.min().clamp_min(1e-10))))
        scores.append(float(si_sdr(estimates, target).max()))
    return float(np.median(levels)), float(np.mean(scores))


if __name__ == "__main__":
    with exit_cleanly():
        main(sys.argv[1:])
