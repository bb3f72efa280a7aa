"""Weights in files: read within bounds, loaded exactly or not at all."""

import os
import pickle
import pickletools
import re
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from custom_modules.errors import InputError
from custom_modules.files import regular_file

#: What torch, pickle and zipfile raise for a damaged file.
DAMAGED = (
    *(AssertionError, AttributeError, EOFError, LookupError, MemoryError, OverflowError),
    *(RuntimeError, TypeError, ValueError),
    *(pickle.UnpicklingError, struct.error, zipfile.BadZipFile),
)
#: What checkpoints are made of. Torch allows more, such as ``bytearray(10**12)``.
_PLAIN = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_(tensor_v2|parameter)|"
    r"torch (?!\w*Tensor)\w+|torch\.nn\.parameter Parameter"
)


def read_weights(path: str | Path) -> Any:
    """What ``torch.save`` wrote: tensors on the CPU, and plain values; nothing is executed.

    Takes about the memory that the file takes on the disk, which InputError keeps to.
    """
    regular_file(path)
    try:
        check_archive(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    except DAMAGED as error:
        reason = (str(error).strip().splitlines() or ["empty"])[0][:100]
        raise InputError(
            f"{path}: no checkpoint that can be read safely, as plain tensors and "
            f"numbers ({type(error).__name__}: {reason})"
        ) from error


def check_archive(path: str | Path) -> None:
    """Refuses what unpacks to more than it is: torch compresses nothing, and calls little."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or (
            sum(entry.file_size for entry in entries) > os.path.getsize(path)
        ):
            raise zipfile.BadZipFile("is compressed, as nothing that torch writes")
        for entry in entries:
            if entry.filename.endswith("data.pkl"):
                _check_pickle(archive.read(entry))


def _check_pickle(text: bytes) -> None:
    for operation, argument, _ in pickletools.genops(text):
        name = str(argument)
        if operation.name == "GLOBAL" and not _PLAIN.fullmatch(name):
            raise pickle.UnpicklingError(f"holds {name.replace(' ', '.')}")


def load_exactly(module: nn.Module, state: Any, path: str | Path) -> None:
    """Loads weights that fit; parameters must be finite, where a mask in a buffer may not be."""
    check_fit(module, state, path)
    for name, _ in module.named_parameters():
        if not state[name].isfinite().all():
            raise InputError(f"{path}: parameter {name} is not finite; take another checkpoint")
    module.load_state_dict(state)


def check_fit(module: nn.Module, state: Any, path: str | Path) -> None:
    """Names the first of the weights that are missing, not known or of other shapes."""
    if not isinstance(state, Mapping):
        raise InputError(f"{path}: holds {type(state).__name__} and no weights by name")
    own, given = _shapes(module.state_dict()), _shapes(state)
    names = sorted((n for n in own.keys() | given.keys() if own.get(n) != given.get(n)), key=str)
    if names:
        there, here = given.get(names[0], "missing"), own.get(names[0], "not known")
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise InputError(
            f"{path}: parameter {str(names[0])[:100]}{more}: {there} there, {here} here; its "
            "config and its weights do not belong together"
        )


def _shapes(state: Mapping[str, Any]) -> dict[str, Any]:
    """Name → shape; of what is no tensor, its type."""
    return {
        name: list(value.shape) if torch.is_tensor(value) else type(value).__name__
        for name, value in state.items()
    }
