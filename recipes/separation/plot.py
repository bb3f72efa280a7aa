#!/usr/bin/env python3
"""Draws the training curves of several runs in one picture.

    python recipes/separation/plot.py results/dprnn/42 results/dprnn_tuned/42
    python recipes/separation/plot.py results/*/42 --output curves.png --score si_sdr

Each argument is a results folder, or a history.csv; those without a history are named
and left out. Validation is drawn in full, training dotted; below, the learning rates.
"""

from custom_modules.startup import prepare_process

prepare_process(__name__)

import sys

from custom_modules.errors import OptionParser, exit_cleanly
from custom_modules.files import atomic_path


def main(argv: list[str]) -> None:
    """Reads, draws and says where."""
    if not argv or "--help" in argv or "-h" in argv:
        return print(__doc__.strip())
    parser = OptionParser(add_help=False, allow_abbrev=False)
    parser.add_argument("results", nargs="+")
    parser.add_argument("--output", default="training_curves.png")
    parser.add_argument("--score", choices=("si_sdr", "si_sdri"), default="si_sdri")
    options = parser.parse_args(argv)

    from custom_modules.curves import plot_histories, read_histories

    figure = plot_histories(read_histories(options.results), options.score)
    with atomic_path(options.output) as path:
        figure.savefig(path, format="png", dpi=120)
    print(options.output)


if __name__ == "__main__":
    with exit_cleanly():
        main(sys.argv[1:])
