"""Checkpoints of this project's predecessor, and what they are here.

They hold ``model_state_dict`` and ``config``, whose ``model.model_type`` says which of
``config.model``'s sections is the model's. What an architecture's section and parameters
are called is said where its model is: ``PREDECESSOR`` in a module of
:mod:`custom_modules.models`. Start reading at :func:`read_checkpoint`.
"""

import importlib
import pkgutil
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor

from custom_modules import models
from custom_modules.errors import InputError
from custom_modules.mmipc import TASK_SOURCES
from custom_modules.models.references import MOST_CHARACTERS, Predecessor, Settings
from custom_modules.weights import read_weights

_TRAINING = {
    "seed": "training.seed",
    "weight_decay": "training.weight_decay",
    "max_grad_norm": "training.grad_clip_norm",
    "number_of_epochs": "training.num_epochs",
    "lr": "training.lr",
    "batch_size": "data.batch_size",
}
#: How many of a part there are, each with weights of its own.
_COUNTS = {"X", "R", "num_blocks", "num_layers", "n_layers", "n_mamba"}
#: What DistributedDataParallel and torch.compile put before names.
_WRAPPED = re.compile(r"^(module\.)+|(?<![^.])_orig_mod\.(module\.)*")
_NONE = object()  # not given


#: The SI-SDR, dB, of a checkpoint that does not say one: any other is better.
UNKNOWN = -1e9


@dataclass
class OldCheckpoint:
    """What a checkpoint says, in the terms of this project."""

    model_type: str  # names the hparams file
    overrides: dict[str, Any]  # of its keys
    state_dict: dict[str, Tensor]  # for its separator
    epoch: int  # epochs of training, counted from 1
    si_sdr: float  # on the validation set, dB; UNKNOWN if it does not say
    data_folder: str  # of the corpus, where it was trained


def read_checkpoint(path: str | Path) -> OldCheckpoint:
    """Reads a checkpoint of the predecessor; nothing in it is executed.

    Raises InputError if it is none, or of a model that this project does not have.
    """
    saved = Settings(str(path), read_weights(path))
    model_type = saved.get("config.model.model_type")
    if model_type not in (known := known_architectures()):
        raise InputError(
            f"{path}: model_type {model_type!r} is none of this project's; "
            f"it can be one of {', '.join(sorted(known))}"
        )
    names, task = known[model_type], saved.get("config.data.task", default="SB")
    section, config = saved.below(f"config.model.{model_type}"), saved.below("config")
    training = Settings(config.path, config.get("training", dict, {}), "config.training")
    overrides = {"task": task, **names.overrides(section, training, _COUNTS)}
    sources = overrides.pop("num_sources")
    if sources != TASK_SOURCES.get(task):
        raise InputError(
            f"{path}: task {task!r} and {sources} sources do not belong together; "
            "SB has two sources, EB and ES have one"
        )
    state_dict = _weights(saved)
    if many := [key for key in sorted(_COUNTS) if overrides.get(key, 0) > len(state_dict)]:
        raise InputError(f"{path}: {many[0]} is {overrides[many[0]]}, more than it has weights")
    return OldCheckpoint(
        model_type,
        overrides | _training(saved),
        names.convert(state_dict),
        saved.number("epoch", 0, least=0, whole=True) + 1,
        saved.number("val_sisdr", UNKNOWN),
        str(saved.get("config.data.polsess.data_root", default="PolSESS")),
    )


@cache
def known_architectures() -> dict[str, Predecessor]:
    """What the modules of models declare, by the predecessor's names of architectures."""
    known: dict[str, Predecessor] = {}
    for module in pkgutil.iter_modules(models.__path__, f"{models.__name__}."):
        known |= getattr(importlib.import_module(module.name), "PREDECESSOR", {})
    return known


def _weights(saved: Settings) -> dict[str, Tensor]:
    """The parameters, by the names that they have without what the model was wrapped in."""
    state_dict = {}
    for name, value in saved.get("model_state_dict", dict).items():
        bare = re.sub(_WRAPPED, "", str(name))
        if not isinstance(value, Tensor) or bare in state_dict:
            short = bare[:MOST_CHARACTERS]
            raise InputError(f"{saved.path}: {short} is no parameter, or there twice")
        state_dict[bare] = value
    return state_dict


def _training(saved: Settings) -> dict[str, Any]:
    """Settings with which a training goes on."""
    overrides = {
        ours: saved.get(f"config.{theirs}", default=_NONE) for ours, theirs in _TRAINING.items()
    }
    groups = saved.get("optimizer_state_dict.param_groups", list, default=[])
    if groups:  # where its scheduler had brought it
        first = Settings(saved.path, groups[0])
        overrides["lr"] = float(first.number("lr", above=0))
    return {key: value for key, value in overrides.items() if value is not _NONE}
