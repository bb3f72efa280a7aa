"""Configurations of reference implementations, in this project's names."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

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


def rename(
    state_dict: Mapping[str, Tensor], substitutions: Sequence[tuple[str, Any]]
) -> dict[str, Tensor]:
    """Names after all of these, each as for ``re.sub``; what layers share may be repeated.

    >>> rename({"a.0.freqs": torch.ones(1), "a.1.freqs": torch.ones(1)}, [(r"^a\\.\\d", "b")])
    {'b.freqs': tensor([1.])}
    """
    converted: dict[str, Tensor] = {}
    for name, value in state_dict.items():
        for pattern, replacement in substitutions:
            name = re.sub(pattern, replacement, name)
        if name in converted and not torch.equal(converted[name], value):
            raise InputError(f"{name}: differs between layers, which share it")
        converted[name] = value
    return converted
