"""Generates a corpus in PolSESS's format.

Mini-PolSESS, from nothing but pip packages:
> python recipes/corpus/generate.py hparams/corpus/mini_polsess.yaml

From your own recordings, see README.md beside this file:
> python recipes/corpus/generate.py hparams/corpus/folders.yaml \\
    --output_folder=data/MyCorpus --speech_folder=... --scene_folder=... \\
    --event_folder=...

Every key of the hparams file is an option, --key=value or --key value. A run that
was interrupted is resumed by the same command.
"""

from custom_modules.startup import prepare_process

prepare_process(__name__)

import sys
from pathlib import Path
from typing import Any

from custom_modules.errors import exit_cleanly

# Whatever else is needed is imported in main(): worker processes read this file
# too, and must start quickly and without torch.

#: Options on which the content of the corpus does not depend.
INDIFFERENT = ("output_folder", "overwrite", "workers")


def main(argv: list[str]) -> None:
    """Runs the command: an hparams file, then its overrides."""
    from custom_modules.corpus.generation import generate
    from custom_modules.hparams import check_overrides, load_hparams, split_arguments

    if not argv or "--help" in argv or "-h" in argv:
        return print_help(argv)
    hparams_file, _, overrides = split_arguments(argv, run_options=())
    overrides = check_overrides(hparams_file, overrides)
    hparams = load_hparams(hparams_file, overrides)
    make = hparams.get("generate", generate)  # conversations, say, instead of mixtures
    make(hparams, content_options(hparams_file, overrides))


def content_options(hparams_file: str, overrides: dict[str, Any]) -> dict[str, Any]:
    """The options on which the content of the corpus depends, as plain values."""
    from custom_modules.hparams import resolve

    tree = resolve(hparams_file, overrides)
    return {key: _plain(v) for key, v in tree.items() if key not in INDIFFERENT}


def _plain(node: Any) -> Any:
    """A YAML node without comments; an object becomes its class and arguments."""
    from custom_modules.hparams import tag_of

    if isinstance(node, dict):
        tag = tag_of(node)
        own = {str(key): _plain(value) for key, value in node.items()}
        return {"class": str(tag), **own} if tag else own
    if isinstance(node, list):
        return [_plain(item) for item in node]
    plain = isinstance(node, (bool, int, float, type(None)))
    return node if plain else f"{tag_of(node)}{node}"


def print_help(argv: list[str]) -> None:
    """Prints the usage, and the keys of the hparams file if one is named."""
    from custom_modules.hparams import read_yaml

    print(__doc__)
    for argument in argv:
        if not argument.startswith("-"):
            read_yaml(argument)  # refuses what is no hparams file
            lines = Path(argument).read_text(encoding="utf-8").splitlines()
            keys = [k for k in lines if k[:1].isalpha() and "!new:" not in k]
            print(f"Keys of {argument}:", *(f"  --{key}" for key in keys), sep="\n")


if __name__ == "__main__":
    with exit_cleanly():
        main(sys.argv[1:])
