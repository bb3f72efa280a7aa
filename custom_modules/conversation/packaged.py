"""Weights that a package carries, for those that its own code is not needed of."""

from importlib.util import find_spec
from pathlib import Path

from custom_modules.errors import InputError


def packaged_file(module: str, name: str, remedy: str) -> Path:
    """A file of an installed package, which is not imported; its absence is one line."""
    spec = find_spec(module)
    for folder in (spec and spec.submodule_search_locations) or ():
        if (path := Path(folder, name)).is_file():
            return path
    raise InputError(f"{module} is not installed; run `{remedy}`")
