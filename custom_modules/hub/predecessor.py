"""Checkpoints of this project's predecessor, and what they are here.

They hold ``model_state_dict`` and ``config``, whose ``model.model_type`` says which of
``config.model``'s sections is the model's. Start reading at :func:`read_checkpoint`.
"""

import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from custom_modules.errors import InputError
from custom_modules.mmipc import TASK_SOURCES
from custom_modules.models.spmamba import convert_state_dict

#: What torch and pickle raise for a damaged file.
_DAMAGED = (RuntimeError, EOFError, LookupError, ValueError, pickle.UnpicklingError)

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
    "seed": "seed",
    "weight_decay": "weight_decay",
    "max_grad_norm": "grad_clip_norm",
    "number_of_epochs": "num_epochs",
}


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
    saved = _load(path)
    model_type = _get(path, saved, "config", "model", "model_type")
    if model_type not in _TAKEN:
        known = ", ".join(sorted(_TAKEN))
        raise InputError(
            f"{path}: model_type {model_type!r} is none of this project's; it can be one of {known}"
        )
    data = saved["config"].get("data", {})
    task = data.get("task", "SB")
    overrides = {"task": task, **_model(path, saved, model_type)}
    sources = overrides.pop("num_sources")
    if sources != TASK_SOURCES.get(task):
        raise InputError(
            f"{path}: task {task!r} and {sources} sources do not belong together; "
            "SB has two sources, EB and ES have one"
        )
    state_dict = _get(path, saved, "model_state_dict")
    if model_type == "spmamba":
        state_dict = convert_state_dict(state_dict)
    else:
        old, new = _RENAMED[model_type]
        state_dict = {re.sub(old, new, name): v for name, v in state_dict.items()}
    return OldCheckpoint(
        model_type,
        overrides | _training(saved, data),
        state_dict,
        int(saved.get("epoch", 0)) + 1,
        float(saved.get("val_sisdr", float("-inf"))),
        str((data.get("polsess") or {}).get("data_root", "PolSESS")),
    )


def _load(path: str | Path) -> dict[str, Any]:
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{path}: cannot be read ({reason})") from error
    except _DAMAGED as error:
        reason = (str(error).strip().splitlines() or ["empty"])[0][:100]
        raise InputError(
            f"{path}: no checkpoint that can be read safely, as plain tensors and "
            f"numbers ({type(error).__name__}: {reason})"
        ) from error
    if not isinstance(saved, dict):
        raise InputError(f"{path}: holds a {type(saved).__name__}, not a checkpoint")
    return saved


def _get(path: str | Path, saved: dict[str, Any], *keys: str) -> Any:
    """A value deep inside; the first key that is missing is named."""
    value: Any = saved
    for depth, key in enumerate(keys):
        if not isinstance(value, dict) or value.get(key) is None:
            raise InputError(
                f"{path}: has no {'.'.join(keys[: depth + 1])}; is it a checkpoint "
                "of the predecessor?"
            )
        value = value[key]
    return value


def _model(path: str | Path, saved: dict[str, Any], model_type: str) -> dict[str, Any]:
    """Overrides that describe the model; refuses what the model here cannot do."""
    place = ("config", "model", model_type)
    pairs = (item.split("=") for item in _TAKEN[model_type].split())
    overrides = {names[0]: _get(path, saved, *place, names[-1]) for names in pairs}
    section = _get(path, saved, *place)
    fixed = dict(_FIXED[model_type])
    if model_type != "spmamba":
        fixed["stride"] = overrides["kernel_size"] // 2
    if model_type == "convtasnet":
        # With AMP on, it was trained and evaluated with this epsilon everywhere.
        use_amp = saved["config"].get("training", {}).get("use_amp")
        amp_eps = ("config", "training", "amp_eps")
        overrides["norm_eps"] = float(_get(path, saved, *amp_eps)) if use_amp else 1e-8
    elif model_type == "sepformer":
        fixed["d_model"] = overrides["N"]
        fixed["hop_size"] = overrides["chunk_size"] // 2
        # Before the predecessor had positional encoding, its files did not mention it.
        position = section.get("use_positional_encoding", False)
        overrides["use_positional_encoding"] = bool(position)
    elif "sample_rate" in section:  # in legacy files of SPMamba alone
        overrides["sample_rate"] = section["sample_rate"]
    for name, value in fixed.items():
        if section.get(name, value) != value:
            raise InputError(
                f"{path}: {'.'.join(place)}.{name} is {section[name]}; only {value} can be imported"
            )
    return overrides


def _training(saved: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    """Settings with which a training goes on."""
    training = saved["config"].get("training", {})
    overrides = {ours: training.get(theirs) for ours, theirs in _TRAINING.items()}
    groups = saved.get("optimizer_state_dict", {}).get("param_groups") or [training]
    if "lr" in groups[0]:  # where its scheduler had brought it
        overrides["lr"] = float(groups[0]["lr"])
    overrides["batch_size"] = data.get("batch_size") or None
    return {key: value for key, value in overrides.items() if value is not None}
