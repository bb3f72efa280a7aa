#!/usr/bin/env python3
"""A page in the browser that separates recordings on this machine.

    python recipes/separation/app.py exported/spmamba
    python recipes/separation/app.py exported/spmamba exported/dprnn --port 7860 \\
        --examples 'recordings/*.wav' --recogniser whisper:small

Each MODEL is a folder that export.py wrote, or hf:owner/name with --trust. The page is for
this machine alone, unless --host says otherwise; it sends nothing anywhere, and removes what it
was given.
"""

from custom_modules.startup import prepare_process

prepare_process(__name__)

import argparse
import importlib.util
import sys
from pathlib import Path

from custom_modules.errors import InputError, OptionParser, exit_cleanly
from custom_modules.limits import option
from custom_modules.longform.stitching import CHUNK_SECONDS

PACKAGES = ("gradio", "fastapi", "uvicorn")


def main(argv: list[str]) -> None:
    """Loads the models and serves the page."""
    options = parse(argv)
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"app.py needs {missing[0]}; pip install 'gradio>=6.31,<7'")
    from custom_modules.page.server import list_examples, serve, stay_inside
    from custom_modules.page.visits import Studio
    from custom_modules.recognition.recognisers import load_recogniser
    from custom_modules.recordings.work import load_model

    examples = list_examples(options.examples)
    recogniser = None
    if options.recogniser:
        recogniser = load_recogniser(options.recogniser, options.device or "cpu")
    models = {
        name: load_model(
            folder, options.device, chunk_seconds=options.chunk_seconds, trust=options.trust
        )
        for name, folder in named(options.models).items()
    }
    stay_inside()
    limits = (options.max_minutes, options.keep_minutes)
    serve(Studio(models, recogniser), examples, options.host, options.port, *limits)


def named(folders: list[str]) -> dict[str, str]:
    """Models by the name of their folder, or where names are alike, by all of its path."""
    names = [Path(folder).resolve().name for folder in folders]
    return {
        name if names.count(name) == 1 else folder: folder
        for name, folder in zip(names, folders, strict=True)
    }


def parse(argv: list[str]) -> argparse.Namespace:
    """The options."""
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("models", metavar="MODEL", nargs="+", help="folders that export.py wrote")
    add("--recogniser", metavar="SPEC", help="writes down the words, as whisper:small")
    add("--examples", nargs="+", default=[], metavar="INPUT", help="files, folders, patterns")
    add("--port", type=option("port"), default=7860, help="default: 7860; 0: a free one")
    add("--host", default="127.0.0.1", help="default: 127.0.0.1, which is this machine alone")
    add("--max_minutes", type=option("max_minutes"), default=30, help="of a recording; default: 30")
    add("--keep_minutes", type=option("keep_minutes"), default=60, help="then removed; default: 60")
    add("--device", help="cpu, cuda, cuda:1; default: a GPU if there is one")
    chunk_help = f"separated at a time; default: {CHUNK_SECONDS:g}"
    add("--chunk_seconds", type=option("chunk_seconds"), default=CHUNK_SECONDS, help=chunk_help)
    add("--trust", action="store_true", help="run the code of a hub's model")
    return parser.parse_args(argv)


if __name__ == "__main__":
    with exit_cleanly():
        main(sys.argv[1:])
