"""Configurations of reference implementations, in this project's names."""

from collections.abc import Mapping
from typing import Any

from custom_modules.errors import InputError, check_number


def translate(
    config: Mapping[str, Any],
    sizes: str,
    flags: str = "",
    only: Mapping[str, tuple[Any, ...]] | None = None,
) -> dict[str, Any]:
    """What a reference's configuration says, under the names of our arguments.

    ``sizes`` are whole numbers from 1 and ``flags`` are truth values, each ``ours=theirs``
    or one name for both; ``only`` holds what we have no argument for, with the values that
    are what we do. Raises InputError at a key that is missing, unknown or bad.

    >>> translate({"C": 2, "window": "hann"}, "num_sources=C", only={"window": ("hann",)})
    {'num_sources': 2}
    """
    numbers, truths, fixed = _pairs(sizes), _pairs(flags), only or {}
    names = numbers | truths
    for key in names.values():
        if key not in config:
            raise InputError(f"{key}: is missing in the configuration")
    for key, value in config.items():
        if key not in {*names.values(), *fixed}:
            raise InputError(f"{key}={value}: is unknown")
        if value not in fixed.get(key, (value,)):
            raise InputError(f"{key}={value}: can only be {' or '.join(map(str, fixed[key]))}")
    for key in numbers.values():
        check_number(key, config[key], least=1, whole=True)
    for key in truths.values():
        if not isinstance(config[key], bool):
            raise InputError(f"{key}={config[key]}: neither True nor False")
    return {ours: config[key] for ours, key in names.items()}


def _pairs(words: str) -> dict[str, str]:
    """Our names and theirs."""
    return {word.split("=")[0]: word.split("=")[-1] for word in words.split()}
