#!/usr/bin/env python3
"""Imports a checkpoint of this project's predecessor into a hub folder.

    python recipes/separation/import_checkpoint.py dprnn_SB_best.pt exported/dprnn

``--results results/dprnn/old`` also writes what ``train.py`` can go on from:

    python recipes/separation/train.py results/dprnn/old/hyperparams.yaml \\
        --data_folder=PolSESS --number_of_epochs=120
"""

from custom_modules.startup import prepare_process

prepare_process(__name__)

import argparse
import sys
from pathlib import Path

from custom_modules.errors import OptionParser, exit_cleanly
from custom_modules.hub.folder import write_folder
from custom_modules.hub.predecessor import read_checkpoint
from custom_modules.hub.recipe import import_old, new_results_folder, write_results_folder

HPARAMS = Path(__file__).parents[2] / "hparams"


def main(argv: list[str]) -> None:
    """Reads, writes the folder, and the results if wanted."""
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", metavar="OLD.pt")
    parser.add_argument("folder", metavar="FOLDER", help="what to write")
    parser.add_argument("--results", metavar="FOLDER", help="for train.py to go on")
    parser.add_argument("--overwrite", action="store_true", help="replace FOLDER")
    parser.add_argument("--license", default="apache-2.0", help="of the weights")
    options = parser.parse_args(argv)
    if options.results is None:
        return import_into(options)
    with new_results_folder(options.results, options.folder):
        import_into(options)


def import_into(options: argparse.Namespace) -> None:
    """Writes the exported folder, and what a training goes on from if it is wanted."""
    old = read_checkpoint(options.checkpoint)
    hparams_file = HPARAMS / f"{old.model_type}.yaml"
    recipe, separator, facts = import_old(old, hparams_file, options.checkpoint)
    facts.source, facts.license_id = Path(options.folder).resolve().name, options.license
    write_folder(options.folder, recipe, separator, facts, options.overwrite)
    print(f"{options.folder}: {recipe.architecture}, {facts.checkpoint}")
    if options.results is not None:
        write_results_folder(old, hparams_file, options.results)
        print(f"{options.results}/hyperparams.yaml: for train.py to go on from")


if __name__ == "__main__":
    with exit_cleanly():
        main(sys.argv[1:])
