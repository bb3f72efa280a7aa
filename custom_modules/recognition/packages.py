"""Packages that only recognition needs, imported where they are used."""

import importlib
from types import ModuleType

from custom_modules.errors import InputError

#: Module → what pip calls it.
PACKAGES = {
    "faster_whisper": "faster-whisper",
    "meeteval": "meeteval",
    "num2words": "num2words",
    "transformers": "transformers",
}


def imported(module: str) -> ModuleType:
    """A module of an optional package; its absence is one line."""
    package = PACKAGES[module]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:  # something that it needs itself
            raise
        raise InputError(f"{package} is not installed; run `pip install {package}`") from error
