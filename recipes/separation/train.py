#!/usr/bin/env python3
"""Trains a separator on PolSESS and tests its best checkpoint on every variant.

    python recipes/separation/train.py hparams/convtasnet.yaml --data_folder=PolSESS

Any key of the hparams file is an option: ``--task=ES --batch_size=4``. The same
command resumes a run that was interrupted. ``--debug`` runs a few batches of
everything, ``--test_only`` tests again. Results go to ``results/``.
"""

# Start reading at main(); what is trained is in custom_modules/brain.py, on what in
# custom_modules/dataio.py.

from custom_modules.startup import prepare_process

prepare_process(__name__)  # some settings count only before torch is imported

import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import speechbrain as sb
from speechbrain.utils.distributed import run_on_main
from speechbrain.utils.logger import get_logger
from speechbrain.utils.run_opts import RunOptions

from custom_modules import distributed, finetuning
from custom_modules.brain import Separation
from custom_modules.checkpoints import LEARNT_FILE, check_learnt
from custom_modules.curves import plot_training
from custom_modules.dataio import MixtureDataset, dataio_prep
from custom_modules.errors import InputError, exit_cleanly
from custom_modules.evaluation.loading import trained_model
from custom_modules.evaluation.record import facts_of
from custom_modules.evaluation.testing import (
    Scope,
    check_recogniser,
    evaluate_model,
    scope_of_training,
)
from custom_modules.files import lock
from custom_modules.hparams import (
    HPARAMS_FILE,
    load_experiment,
    print_help,
    split_arguments,
    write_hparams,
)
from custom_modules.layout import corpora
from custom_modules.losses import check_loss
from custom_modules.manifest.reading import voices_elsewhere
from custom_modules.tabular import write_record
from custom_modules.trackers import check_tracker
from custom_modules.training_log import HISTORY_FILE, read_history
from polsess_prepare import prepare_polsess

logger = get_logger(__name__)

#: What a training takes of its hparams file only after it has begun to write.
NEEDED = (
    *("seed", "lr", "modules", "opt_class", "lr_scheduler", "epoch_counter"),
    *("train_logger", "train_loader_opts", "valid_loader_opts", "per_variant_validation"),
    *("segment_seconds", "batch_size", "save_all_checkpoints", "test_after_training"),
)


def main(argv: list[str]) -> None:
    """Prepares, trains, tests."""
    if not argv or "--help" in argv:
        return print_help(__doc__ or "", argv)
    _, hparams, run_opts, overrides = load_experiment(argv)
    logging.basicConfig(level=logging.INFO, format="%(name)s - %(message)s")
    with lock(hparams["output_folder"]):
        train(hparams, run_opts, split_arguments(argv)[0], overrides)


def train(
    hparams: dict[str, Any], run_opts: RunOptions, hparams_file: str, overrides: dict[str, Any]
) -> None:
    """What one command at a time does to an output folder."""
    distributed.join_processes(run_opts)
    check_tracker(hparams["tracker"])
    check_loss(hparams.get("loss", "si_sdr"), hparams.get("silent_talker"))
    scope = scope_of_training(hparams, not run_opts.noprogressbar)
    refuse_early(hparams, scope, run_opts.device or "cpu")
    notes = finetuning.begin(hparams)
    for options in prepare_options(hparams):
        run_on_main(prepare_polsess, kwargs=options)
    datasets = dataio_prep(hparams)
    check_recogniser(hparams.get("valid_recogniser"), datasets["valid"])
    if hparams["test_after_training"]:
        check_recogniser(scope.recogniser, datasets["test"])
    folder = hparams["output_folder"]
    learnt = None
    if not run_opts.test_only:
        learnt = check_learnt(folder, hparams["data_folder"], datasets["train"].data.paths)
    sb.create_experiment_directory(folder)
    write_hparams(hparams_file, overrides, f"{folder}/{HPARAMS_FILE}")
    if learnt:
        run_on_main(write_record, args=(learnt, Path(folder, LEARNT_FILE)))
    for note in notes:
        logger.info(note)
    run_on_main(warn_of_voices, args=({name: x.data for name, x in datasets.items()},))

    separation = Separation(
        hparams["modules"], hparams["opt_class"], hparams, run_opts, hparams["checkpointer"]
    )
    with distributed.explained_failures(hparams):
        separation.fit(
            hparams["epoch_counter"],
            datasets["train"],
            datasets["valid"],
            train_loader_kwargs=hparams["train_loader_opts"],
            valid_loader_kwargs=hparams["valid_loader_opts"],
        )
    run_on_main(plot_training, args=(folder,))
    if hparams["test_after_training"] or run_opts.test_only:
        test(hparams, run_opts, datasets["test"], scope)
    distributed.leave_processes()


def warn_of_voices(manifests: Mapping[str, Mapping]) -> None:
    """Names voices that one corpus tests and another one trains on."""
    for split, names in voices_elsewhere(manifests).items():
        same = "another corpus's training set has, too: LEAKAGE, if they are the same people"
        logger.warning("%s set: voices that %s (%s)", split, same, ", ".join(names[:5]))


def refuse_early(hparams: dict[str, Any], scope: Scope, device: str) -> None:
    """Whatever can be refused is refused before the output folder is touched."""
    for key in NEEDED:
        hparams[key]
    place = Path(hparams["output_folder"], "save")
    if "save_folder" in hparams and Path(hparams["save_folder"]) != place:
        raise InputError(f"--save_folder: is {place}, where all look for checkpoints; leave it out")
    check_recogniser(hparams.get("valid_recogniser"), device=device)
    check_recogniser(scope.recogniser, device=device)
    hparams["checkpointer"].check_fit("separator")
    read_history(Path(hparams["output_folder"]) / HISTORY_FILE)


def prepare_options(hparams: dict[str, Any]) -> list[dict[str, Any]]:
    """What ``prepare_polsess`` takes, for each corpus."""
    keys = ("skip_prep", "check", "skip_bad_rows", "allow_leakage")
    options = {key: hparams[key] for key in keys}
    return [
        options | {"data_folder": folder, "save_folder": Path(hparams["manifest_folder"], label)}
        for label, folder in corpora(hparams["data_folder"]).items()
    ]


def test(
    hparams: dict[str, Any], run_opts: RunOptions, dataset: MixtureDataset, scope: Scope
) -> None:
    """Scores the best checkpoint, as ``evaluate.py`` does."""
    if run_opts.debug:
        dataset.data_ids = dataset.data_ids[: run_opts.debug_batches]
    model, epochs = trained_model(hparams, run_opts)
    evaluate_model(
        model,
        dataset,
        hparams["output_folder"],
        scope,
        facts_of(hparams),
        split="test",
        checkpoint=epochs,
    )


if __name__ == "__main__":
    with exit_cleanly():
        main(sys.argv[1:])
