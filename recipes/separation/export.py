#!/usr/bin/env python3
"""Exports the best checkpoint of a training into a folder that SpeechBrain loads.

    python recipes/separation/export.py results/dprnn/42/hyperparams.yaml exported/dprnn

The folder needs SpeechBrain and none of this project. ``--onnx`` adds the model as a graph,
and a script that separates recordings by it without PyTorch; ``--quantize int8`` also one
with weights of eight bits. ``--push_to_hub owner/name`` uploads the folder; keys of the
hparams file are options as in training.
"""

from custom_modules.startup import prepare_process

prepare_process(__name__)

import argparse
import sys
from pathlib import Path

from custom_modules.errors import InputError, OptionParser, exit_cleanly
from custom_modules.hub.folder import check_name, push_folder, write_folder
from custom_modules.hub.recipe import load_best
from custom_modules.onnx.graphs import import_onnx


def main(argv: list[str]) -> None:
    """Loads, writes, uploads."""
    parser = OptionParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("hparams", metavar="HPARAMS", help="results/…/hyperparams.yaml")
    parser.add_argument("folder", metavar="FOLDER", help="what to write")
    parser.add_argument("--overwrite", action="store_true", help="replace FOLDER")
    parser.add_argument("--onnx", action="store_true", help="add model.onnx")
    parser.add_argument("--quantize", choices=("int8",), help="add model_int8.onnx, too")
    parser.add_argument("--license", default="apache-2.0", help="of the weights")
    parser.add_argument("--push_to_hub", metavar="OWNER/NAME", help="upload it, too")
    options, hparams_options = parser.parse_known_args(argv)
    if options.quantize and not options.onnx:
        raise InputError("--quantize is of --onnx; give both")
    if options.onnx:
        import_onnx()  # before anything is loaded
    if options.push_to_hub:
        check_name(options.push_to_hub)
    recipe, separator, facts = load_best([options.hparams, *hparams_options])
    facts.source = options.push_to_hub or Path(options.folder).resolve().name
    facts.license_id = options.license
    graphs = ("onnx",) * options.onnx + ("onnx-int8",) * bool(options.quantize)
    write_folder(options.folder, recipe, separator, facts, options.overwrite, graphs)
    print(f"{options.folder}: {recipe.architecture}, {facts.checkpoint}")
    if options.push_to_hub:
        print(push_folder(options.folder, options.push_to_hub))


if __name__ == "__main__":
    with exit_cleanly():
        main(sys.argv[1:])
