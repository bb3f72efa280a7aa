"""Configurations of reference implementations, in this project's names."""

import re
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
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


@contextmanager
def as_named_there(names: str) -> Iterator[None]:
    """What is refused within it is called as the reference calls it, by ``ours=theirs``.

    >>> with as_named_there("nhead=att_n_head N=out_channels"):
    ...     raise InputError("--nhead=3: must divide N=8")
    Traceback (most recent call last):
    custom_modules.errors.InputError: att_n_head=3: must divide out_channels=8
    """
    theirs = _pairs(names)
    try:
        yield
    except InputError as error:
        named = r"--(\w+)|\b(\w+)(?==)"
        message = re.sub(named, lambda m: theirs.get(m[1] or m[2], m[0]), str(error))
        raise InputError(message) from error


def stride_of(config: Mapping[str, Any], key: str = "kernel_size") -> tuple[int, ...]:
    """What its stride can be: half of the filter, once that is a number."""
    kernel_size = config.get(key)
    return (kernel_size // 2,) if isinstance(kernel_size, int) else ()


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


#: What settings are, but for those that say otherwise.
PLAIN = (bool, int, float, str)
MOST_CHARACTERS = 200
_MOST = 10**5  # of any size of a model


class Settings:
    """What a checkpoint says, each value checked; InputError names it if it does not fit."""

    def __init__(self, path: str, saved: Any, place: str = "") -> None:
        self.path, self.saved, self.place = path, saved, place

    def get(self, keys: str, kind: Any = PLAIN, default: Any = None) -> Any:
        """A value deep inside, of a kind; the first key that is missing is named."""
        value, known = self.saved, self.place
        for key in keys.split("."):
            value, known = value.get(key) if isinstance(value, dict) else None, f"{known}.{key}"
            if value is None and default is not None:
                return default
            if value is None:
                raise InputError(
                    f"{self.path}: has no {known.lstrip('.')}; "
                    "is it a checkpoint of the predecessor?"
                )
        if not isinstance(value, kind) or (kind is PLAIN and len(str(value)) > MOST_CHARACTERS):
            what = "something else" if kind is PLAIN else f"a {type(value).__name__}"
            wanted = "a number or a text" if kind is PLAIN else f"a {kind.__name__}"
            raise InputError(f"{self.path}: {self._full(keys)} must be {wanted}, and is {what}")
        return value

    def number(self, keys: str, default: Any = None, **limits: Any) -> Any:
        """A number within the limits of :func:`check_number`."""
        value = self.get(keys, default=default)
        check_number(f"{self.path}: {self._full(keys)}", value, **limits)
        return value

    def size(self, key: str, whole: bool = False) -> Any:
        """A size of a model, or a text."""
        value = self.get(key)
        if isinstance(value, bool):
            raise InputError(f"{self.path}: {self.place}: {key} must not be {value!r}")
        if not isinstance(value, str):
            check_number(f"{self.path}: {self.place}: {key}", value, most=_MOST, whole=whole)
        return value

    def flag(self, key: str) -> bool:
        """A truth value."""
        if not isinstance(value := self.get(key), bool):
            raise InputError(f"{self.path}: {self.place}: {key} must not be {value!r}")
        return value

    def only(self, key: str, value: Any) -> None:
        """Refuses another value than the one that can be imported; it may be missing."""
        if (found := self.get(key, default=value)) != value:
            where = self._full(key)
            raise InputError(f"{self.path}: {where} is {found}; only {value} can be imported")

    def below(self, keys: str) -> "Settings":
        """A part of them."""
        return Settings(self.path, self.get(keys, dict), self._full(keys))

    def _full(self, keys: str) -> str:
        return f"{self.place}.{keys}".lstrip(".")


def _nothing_else(section: Settings, training: Settings) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Predecessor:
    """What this project's predecessor calls an architecture's settings and parameters.

    A module of ``custom_modules.models`` declares them as ``PREDECESSOR``, by the
    predecessor's name of the architecture, which is also that of the hparams file.
    """

    #: Sizes, by the keys of the hparams file; ``ours=theirs`` where the names differ.
    sizes: str
    flags: str = ""  # truth values, likewise
    #: What the model here is; other values cannot be imported.
    fixed: Mapping[str, Any] = field(default_factory=dict)
    half_kernel_stride: bool = True  # its stride can only be half its kernel
    #: What takes more than a name, of the model's section and of the training's.
    more: Callable[[Settings, Settings], dict[str, Any]] = _nothing_else
    #: From its parameters' names to ours.
    convert: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = dict

    def overrides(self, section: Settings, training: Settings, counts: Container[str]) -> dict:
        """The keys of our hparams file; ``counts`` are those that must be whole numbers."""
        sizes, flags = _pairs(self.sizes), _pairs(self.flags)
        found = {ours: section.size(key, ours in counts) for ours, key in sizes.items()}
        found |= {ours: section.flag(key) for ours, key in flags.items()}
        if self.half_kernel_stride:
            section.only("stride", section.number("kernel_size", least=2, whole=True) // 2)
        found |= self.more(section, training)
        for key, value in self.fixed.items():
            section.only(key, value)
        return found
