#!/usr/bin/env python3
"""Trains a small recogniser of a corpus's voices, and tests it on voices that it never heard.

    python recipes/recognition/train.py hparams/recognition/mini.yaml \\
        --data_folder=data/MiniMatrix

The corpus has texts: Mini-PolSESS of --sentences=matrix. Any key of the hparams file is an
option. The same command resumes a run that was interrupted. Results go to results/mini/42;
with --separator exported/x the recogniser there is trained further on what that separator
makes of training mixtures, into results/mini_x/42; with --start_from alone as before, into
results/mini_further/42.
"""

# Start reading at main(); what is taught is in custom_modules/recognition/spelling_brain.py,
# on what in single_talkers.py, and what comes out of it in mini.py there.

from custom_modules.startup import prepare_process

prepare_process(__name__)

import logging
import os
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import speechbrain as sb
from speechbrain.utils.run_opts import RunOptions

from custom_modules.dataio import Manifest, check_rate
from custom_modules.errors import InputError, exit_cleanly
from custom_modules.files import atomic_path, lock
from custom_modules.hparams import (
    HPARAMS_FILE,
    load_experiment,
    print_help,
    read_hparams,
    split_arguments,
    write_hparams,
)
from custom_modules.recognition.mini import ALPHABET, WEIGHTS_FILE, write_recogniser
from custom_modules.recognition.mini_card import write_card
from custom_modules.recognition.separated import separate_mixtures
from custom_modules.recognition.single_talkers import CONDITIONS, Conditions, SingleTalkers
from custom_modules.recognition.spelling_brain import Spelling, brain_of
from custom_modules.weights import load_exactly, read_weights
from polsess_prepare import prepare_polsess

#: In the output folder: errors by condition.
TEST_FILE = "test_wer.csv"


def main(argv: list[str]) -> None:
    """Prepares, trains, tests."""
    if not argv or "--help" in argv:
        return print_help(__doc__ or "", argv)
    argv = with_own_folder(argv)
    _, hparams, run_opts, overrides = load_experiment(argv)
    logging.basicConfig(level=logging.INFO, format="%(name)s - %(message)s")
    if hparams["separator"] is not None and hparams["start_from"] is None:
        raise InputError("--separator needs --start_from, the recogniser that is trained further")
    if not isinstance(hparams["data_folder"], str):
        raise InputError(f"--data_folder={hparams['data_folder']}: a recogniser learns one corpus")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("a recogniser is trained by one process; leave torchrun out")
    with lock(hparams["output_folder"]):
        train(hparams, run_opts, split_arguments(argv)[0], overrides)


def with_own_folder(argv: list[str]) -> list[str]:
    """Trained further: what is started from and a folder of its own, unless they are named."""
    hparams_file, _, given = split_arguments(argv)
    separator = given.get("separator")
    if separator is None and given.get("start_from") is None:
        return argv
    known = read_hparams(hparams_file) | given
    model, seed = known["model_name"], known["seed"]
    name = "further" if separator is None else Path(str(separator)).name
    start, folder = f"results/{model}/{seed}", f"results/{model}_{name}/{seed}"
    added = {"start_from": start, "output_folder": folder}
    return [*argv, *(f"--{key}={value}" for key, value in added.items() if key not in given)]


def train(
    hparams: dict[str, Any], run_opts: RunOptions, hparams_file: str, overrides: dict[str, Any]
) -> None:
    """What one command at a time does to an output folder."""
    hparams["checkpointer"].check_fit("recogniser")
    if hparams["start_from"] is not None:
        weights = Path(hparams["start_from"], WEIGHTS_FILE)
        load_exactly(hparams["recogniser"], read_weights(weights), weights)
    keys = ("data_folder", "skip_prep", "check", "skip_bad_rows", "allow_leakage")
    options = {key: hparams[key] for key in keys}
    prepare_polsess(save_folder=hparams["manifest_folder"], **options)
    datasets = datasets_of(hparams, run_opts.device or "cpu")
    folder = hparams["output_folder"]
    sb.create_experiment_directory(folder)
    write_hparams(hparams_file, overrides, f"{folder}/{HPARAMS_FILE}")
    lexicon = datasets["train"].lexicon
    brain = brain_of(hparams, run_opts, lexicon)
    brain.fit(
        hparams["epoch_counter"],
        datasets["train"],
        datasets["valid"],
        train_loader_kwargs=hparams["train_loader_opts"],
        valid_loader_kwargs=hparams["valid_loader_opts"],
    )
    finish(brain, hparams, lexicon)


def manifest_of(hparams: dict[str, Any], split: str) -> Manifest:
    manifest = Manifest(hparams[f"{split}_manifest"], {"data_root": hparams["data_folder"]})
    check_rate(manifest, hparams["sample_rate"])
    return manifest


def datasets_of(hparams: dict[str, Any], device: str) -> dict[str, SingleTalkers]:
    """Training under conditions that are faded in; validation under all of them."""
    shares = {key: hparams[key] for key in ("noisy_share", "second_share")}
    manifest = manifest_of(hparams, "train")
    training, separated = Conditions(hparams["seed"], **shares), None
    if hparams["start_from"] is None:
        training.fade_epochs = hparams["fade_share"] * hparams["number_of_epochs"]
    if hparams["separator"] is not None:
        separated = Path(hparams["output_folder"], "separated")
        training.separated_share = hparams["separated_share"]
        separate_mixtures(hparams["separator"], manifest, separated, hparams["seed"], device)
    fixed = Conditions(hparams["seed"], **shares)
    return {
        "train": SingleTalkers(manifest, training, separated),
        "valid": SingleTalkers(manifest_of(hparams, "valid"), fixed),
    }


def finish(brain: Spelling, hparams: dict[str, Any], lexicon: list[str]) -> None:
    """Tests the best checkpoint, and writes what it is loaded from, and its card."""
    if not hparams["checkpointer"].find_checkpoint(min_key="wer"):
        raise InputError(f"{hparams['output_folder']}/save: no checkpoint; train first")
    manifest, rows = manifest_of(hparams, "test"), []
    for condition, environments in CONDITIONS.items():
        if any(manifest[mixture]["environment"] in environments for mixture in manifest):
            dataset = SingleTalkers(manifest, condition)
            row = brain.test(dataset, hparams["valid_loader_opts"])
            rows.append({"condition": condition, **row})
    table = pd.DataFrame(rows)
    folder = Path(hparams["output_folder"])
    with atomic_path(folder / TEST_FILE) as path:
        table.to_csv(path, index=False, float_format="%.4g")
    origin = {key: hparams[key] for key in ("separator", "start_from", "number_of_epochs", "seed")}
    facts = {"alphabet": ALPHABET, "lexicon": lexicon, "test": rows, **origin}
    facts |= {key: hparams[key] for key in ("sample_rate", "sizes")}
    write_recogniser(folder, hparams["recogniser"], facts)
    write_card(folder, facts)
    print(table.to_string(index=False, float_format=lambda value: f"{value:.1f}"))
    print(f"Words wrong, per cent, on voices that it never heard; --recogniser mini:{folder}")


if __name__ == "__main__":
    with exit_cleanly():
        main(sys.argv[1:])
