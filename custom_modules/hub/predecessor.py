"""Checkpoints of this project's predecessor, and what they are here.

They hold ``model_state_dict`` and ``config``, whose ``model.model_type`` says which of
``config.model``'s sections is the model's. Start reading at :func:`read_checkpoint`.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from custom_modules.errors import InputError, check_number
from custom_modules.mmipc import TASK_SOURCES
from custom_modules.models.spmamba import convert_state_dict
from custom_modules.weights import read_weights

#: What is taken from a model's section; ``ours=theirs`` where the names differ.
_TAKEN = {
    "convtasnet": "num_sources=C N kernel_size B H P X R norm_type mask_nonlinear",
    "dprnn": (
        "num_sources=C N kernel_size num_layers chunk_size rnn_type hidden_size bidirectional"
    ),
    "sepformer": (
        "num_sources=C N kernel_size num_blocks num_layers nhead d_ffn dropout chunk_size"
    ),
    "spmamba": (
        "num_sources=n_srcs n_head=attn_n_head qk_dim=attn_approx_qk_dim "
        "n_fft stride n_layers emb_dim emb_ks emb_hs eps"
    ),
}
#: What the models here are; other values cannot be imported.
_FIXED: dict[str, dict[str, Any]] = {
    "convtasnet": {"causal": False},
    "dprnn": {"num_rnn_layers": 1, "norm_type": "ln"},
    "sepformer": {"causal": False},
    "spmamba": {"window": "hann", "activation": "prelu"},
}
#: Parts of parameters' names there, as regular expressions, and here.
_RENAMED = {
    "convtasnet": (r"^mask_net\.", "masknet."),
    "dprnn": (r"^separator\.", "masknet."),
    # Legacy files call the transformer what it is.
    "sepformer": (r"\.transformer\.", ".mdl."),
}
_TRAINING = {
    "seed": "training.seed",
    "weight_decay": "training.weight_decay",
    "max_grad_norm": "training.grad_clip_norm",
    "number_of_epochs": "training.num_epochs",
    "lr": "training.lr",
    "batch_size": "data.batch_size",
}
#: How many of a part there are, each with weights of its own.
_COUNTS = {"X", "R", "num_blocks", "num_layers", "n_layers"}
#: What DistributedDataParallel and torch.compile put before names.
_WRAPPED = re.compile(r"^(module\.)+|(?<![^.])_orig_mod\.(module\.)*")
_PLAIN = (bool, int, float, str)
_MOST_CHARACTERS = 200
_MOST = 10**5  # of any size of a model
_NONE = object()  # not given


@dataclass
class OldCheckpoint:
    """What a checkpoint says, in the terms of this project."""

    model_type: str  # names the hparams file
    overrides: dict[str, Any]  # of its keys
    state_dict: dict[str, Tensor]  # for its separator
    epoch: int  # epochs of training, counted from 1
    si_sdr: float  # on the validation set, dB
    data_folder: str  # of the corpus, where it was trained


def read_checkpoint(path: str | Path) -> OldCheckpoint:
    """Reads a checkpoint of the predecessor; nothing in it is executed.

    Raises InputError if it is none, or of a model that this project does not have.
    """
    saved = read_weights(path)
    model_type = _get(path, saved, "config.model.model_type")
    if model_type not in _TAKEN:
        known = ", ".join(sorted(_TAKEN))
        raise InputError(
            f"{path}: model_type {model_type!r} is none of this project's; it can be one of {known}"
        )
    task = _get(path, saved, "config.data.task", default="SB")
    overrides = {"task": task, **_model(path, saved, model_type)}
    sources = overrides.pop("num_sources")
    if sources != TASK_SOURCES.get(task):
        raise InputError(
            f"{path}: task {task!r} and {sources} sources do not belong together; "
            "SB has two sources, EB and ES have one"
        )
    state_dict = _weights(path, saved)
    if many := [key for key in sorted(_COUNTS) if overrides.get(key, 0) > len(state_dict)]:
        raise InputError(f"{path}: {many[0]} is {overrides[many[0]]}, more than it has weights")
    if model_type == "spmamba":
        state_dict = convert_state_dict(state_dict)
    else:
        old, new = _RENAMED[model_type]
        state_dict = {re.sub(old, new, name): v for name, v in state_dict.items()}
    return OldCheckpoint(
        model_type,
        overrides | _training(path, saved),
        state_dict,
        _number(path, saved, "epoch", 0, least=0, whole=True) + 1,
        _number(path, saved, "val_sisdr", -1e9),
        str(_get(path, saved, "config.data.polsess.data_root", default="PolSESS")),
    )


def _get(path: str | Path, saved: Any, keys: str, kind: Any = _PLAIN, default: Any = None) -> Any:
    """A value deep inside, of a kind; the first key that is missing is named."""
    value, known = saved, ""
    for key in keys.split("."):
        value, known = value.get(key) if isinstance(value, dict) else None, f"{known}.{key}"
        if value is None and default is not None:
            return default
        if value is None:
            raise InputError(f"{path}: has no {known[1:]}; is it a checkpoint of the predecessor?")
    if not isinstance(value, kind) or (kind is _PLAIN and len(str(value)) > _MOST_CHARACTERS):
        what = "something else" if kind is _PLAIN else f"a {type(value).__name__}"
        wanted = "a number or a text" if kind is _PLAIN else f"a {kind.__name__}"
        raise InputError(f"{path}: {keys} must be {wanted}, and is {what}")
    return value


def _number(path: str | Path, saved: Any, keys: str, default: Any = None, **limits: Any) -> Any:
    value = _get(path, saved, keys, default=default)
    check_number(f"{path}: {keys}", value, **limits)
    return value


def _weights(path: str | Path, saved: dict[str, Any]) -> dict[str, Tensor]:
    """The parameters, by the names that they have without what the model was wrapped in."""
    state_dict = {}
    for name, value in _get(path, saved, "model_state_dict", dict).items():
        bare = re.sub(_WRAPPED, "", str(name))
        if not isinstance(value, Tensor) or bare in state_dict:
            raise InputError(f"{path}: {bare[:_MOST_CHARACTERS]} is no parameter, or there twice")
        state_dict[bare] = value
    return state_dict


def _model(path: str | Path, saved: dict[str, Any], model_type: str) -> dict[str, Any]:
    """Overrides that describe the model; refuses what the model here cannot do."""
    place = f"config.model.{model_type}"
    section = _get(path, saved, place, dict)
    pairs = (item.split("=") for item in _TAKEN[model_type].split())
    overrides = {names[0]: _get(path, saved, f"{place}.{names[-1]}") for names in pairs}
    for key, value in overrides.items():
        is_switch = isinstance(value, bool)
        if is_switch != (key == "bidirectional"):
            raise InputError(f"{path}: {place}: {key} must not be {value!r}")
        if isinstance(value, int | float) and not is_switch:
            check_number(f"{path}: {place}: {key}", value, most=_MOST, whole=key in _COUNTS)
    fixed = dict(_FIXED[model_type])
    if model_type != "spmamba":
        size = _number(path, saved, f"{place}.kernel_size", least=2, whole=True)
        fixed["stride"] = size // 2
    if model_type == "convtasnet":
        # With AMP on, it was trained and evaluated with this epsilon everywhere.
        use_amp = _get(path, saved, "config.training.use_amp", bool, default=False)
        overrides["norm_eps"] = 1e-8
        if use_amp:
            overrides["norm_eps"] = float(_number(path, saved, "config.training.amp_eps", above=0))
    elif model_type == "sepformer":
        fixed["d_model"] = overrides["N"]
        # Before the predecessor had positional encoding, its files did not mention it.
        position = section.get("use_positional_encoding", False)
        overrides["use_positional_encoding"] = bool(position)
    elif "sample_rate" in section:  # in legacy files of SPMamba alone
        overrides["sample_rate"] = _get(path, saved, f"{place}.sample_rate")
    for name, only in fixed.items():
        if (value := _get(path, saved, f"{place}.{name}", default=only)) != only:
            raise InputError(f"{path}: {place}.{name} is {value}; only {only} can be imported")
    return overrides


def _training(path: str | Path, saved: dict[str, Any]) -> dict[str, Any]:
    """Settings with which a training goes on."""
    overrides = {
        ours: _get(path, saved, f"config.{theirs}", default=_NONE)
        for ours, theirs in _TRAINING.items()
    }
    groups = _get(path, saved, "optimizer_state_dict.param_groups", list, default=[])
    if groups:  # where its scheduler had brought it
        overrides["lr"] = float(_number(path, groups[0], "lr", above=0))
    return {key: value for key, value in overrides.items() if value is not _NONE}
