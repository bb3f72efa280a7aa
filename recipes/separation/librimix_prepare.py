#!/usr/bin/env python3
r"""Prepares Libri2Mix, so that models are trained and tested on it like on PolSESS.

    python recipes/separation/librimix_prepare.py --data_folder Libri2Mix \
        --save_folder results/manifests/libri2mix
    python recipes/separation/evaluate.py results/dprnn/42/hyperparams.yaml \
        --data_folder=Libri2Mix --skip_prep=True \
        --manifest_folder=results/manifests/libri2mix
    python recipes/separation/train.py hparams/dprnn.yaml --model_name=dprnn_libri2mix \
        --data_folder=Libri2Mix --skip_prep=True \
        --manifest_folder=results/manifests/libri2mix --train_variants='[S, C]' \
        --valid_variants=S --curriculum=null

Noisy mixtures (``mix_both``) are the variant S, clean ones C.
"""

from custom_modules.startup import prepare_process

prepare_process(__name__)

import argparse
import logging
import sys

from custom_modules.errors import OptionParser, exit_cleanly
from custom_modules.limits import option
from custom_modules.manifest import librimix
from custom_modules.manifest.checks import LEVELS


def main(argv: list[str]) -> None:
    """The command; ``--help`` lists its options."""
    parser = OptionParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--data_folder", required=True, help="Libri2Mix, which holds wav8k or wav16k")
    add("--save_folder", required=True, help="where the manifests go")
    add("--sample_rate", type=int, default=8000, choices=librimix.RATES, help="Hz")
    meaning = "ends with the shorter speaker, or with the longer one"
    add("--mode", default="min", choices=librimix.MODES, help=meaning)
    add("--train_set", default="train-360", choices=librimix.TRAIN_SETS)
    add("--speakers_file", help="LibriSpeech's SPEAKERS.TXT, for results by gender")
    add("--check", default="header", choices=LEVELS, help="how thoroughly")
    add("--workers", type=option("workers"), help="processes; by default, one per core")
    librimix.prepare_librimix(**vars(parser.parse_args(argv)))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    with exit_cleanly():
        main(sys.argv[1:])
