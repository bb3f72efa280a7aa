"""Checkpoints of this project's predecessor, and what they are here.

They hold ``model_state_dict`` and ``config``, whose ``model.model_type`` says which of
``config.model``'s sections is the model's. Start reading at :func:`read_checkpoint`.
"""

import pickle
import re
from collections.abc import Callable
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
    model_config = _get(path, saved, "config", "model")
    model_type = _get(path, saved, "config", "model", "model_type")
    if model_type not in _MODELS:
        known = ", ".join(sorted(_MODELS))
        raise InputError(
            f"{path}: model_type {model_type!r} is none of this project's; it can be "
            f"one of {known}"
        )
    section = _Section(path, model_type, model_config.get(model_type))
    data = saved["config"].get("data", {})
    task = data.get("task", "SB")
    overrides = {"task": task, **_MODELS[model_type](section)}
    _check_sources(path, task, overrides.pop("num_sources"))
    training = saved["config"].get("training", {})
    if model_type == "convtasnet":
        # With AMP on, it was trained and evaluated with this epsilon everywhere.
        overrides["norm_eps"] = 1e-8
        if training.get("use_amp"):
            overrides["norm_eps"] = float(
                _get(path, saved, "config", "training", "amp_eps")
            )
    overrides |= _training_overrides(saved, training)
    return OldCheckpoint(
        model_type,
        overrides,
        _rename(model_type, _get(path, saved, "model_state_dict")),
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


class _Section:
    """The part of a configuration that describes the model."""

    def __init__(
        self, path: str | Path, model_type: str, values: dict[str, Any] | None
    ) -> None:
        self.path, self.model_type, self.values = path, model_type, values or {}

    def take(self, *names: str, **renamed: str) -> dict[str, Any]:
        """Values by their names here; ``ours="theirs"`` where they differ."""
        wanted = {name: name for name in names} | renamed
        return {ours: self[theirs] for ours, theirs in wanted.items()}

    def __getitem__(self, name: str) -> Any:
        keys = ("config", "model", self.model_type, name)
        config = {"config": {"model": {self.model_type: self.values}}}
        return _get(self.path, config, *keys)

    def must_be(self, **expected: Any) -> None:
        """Refuses what the model here cannot do; what is not said is as expected."""
        for name, value in expected.items():
            if self.values.get(name, value) != value:
                raise InputError(
                    f"{self.path}: config.model.{self.model_type}.{name} is "
                    f"{self.values[name]}; only {value} can be imported"
                )


def _convtasnet(section: _Section) -> dict[str, Any]:
    section.must_be(causal=False, stride=section["kernel_size"] // 2)
    return section.take(
        *("N", "kernel_size", "B", "H", "P", "X", "R", "norm_type", "mask_nonlinear"),
        num_sources="C",
    )


def _dprnn(section: _Section) -> dict[str, Any]:
    section.must_be(
        stride=section["kernel_size"] // 2, num_rnn_layers=1, norm_type="ln"
    )
    return section.take(
        *("N", "kernel_size", "num_layers", "chunk_size"),
        *("rnn_type", "hidden_size", "bidirectional"),
        num_sources="C",
    )


def _sepformer(section: _Section) -> dict[str, Any]:
    section.must_be(
        causal=False,
        stride=section["kernel_size"] // 2,
        d_model=section["N"],
        hop_size=section["chunk_size"] // 2,
    )
    # Before the predecessor had positional encoding, its files did not mention it.
    position = bool(section.values.get("use_positional_encoding", False))
    return section.take(
        *("N", "kernel_size", "num_blocks", "num_layers", "nhead", "d_ffn"),
        *("dropout", "chunk_size"),
        num_sources="C",
    ) | {"use_positional_encoding": position}


def _spmamba(section: _Section) -> dict[str, Any]:
    section.must_be(window="hann", activation="prelu")
    overrides = section.take(
        *("n_fft", "stride", "n_layers", "emb_dim", "emb_ks", "emb_hs", "eps"),
        num_sources="n_srcs",
        n_head="attn_n_head",
        qk_dim="attn_approx_qk_dim",
    )
    if "sample_rate" in section.values:  # in legacy files alone
        overrides["sample_rate"] = section["sample_rate"]
    return overrides


_MODELS: dict[str, Callable[[_Section], dict[str, Any]]] = {
    "convtasnet": _convtasnet,
    "dprnn": _dprnn,
    "sepformer": _sepformer,
    "spmamba": _spmamba,
}


def _check_sources(path: str | Path, task: str, sources: int) -> None:
    if task not in TASK_SOURCES or sources != TASK_SOURCES[task]:
        raise InputError(
            f"{path}: task {task!r} and {sources} sources do not belong together; "
            "SB has two sources, EB and ES have one"
        )


def _training_overrides(
    saved: dict[str, Any], training: dict[str, Any]
) -> dict[str, Any]:
    """Settings with which a training goes on."""
    names = {
        "seed": "seed",
        "weight_decay": "weight_decay",
        "max_grad_norm": "grad_clip_norm",
        "number_of_epochs": "num_epochs",
    }
    overrides = {
        ours: training[theirs]
        for ours, theirs in names.items()
        if training.get(theirs) is not None
    }
    groups = saved.get("optimizer_state_dict", {}).get("param_groups") or [training]
    if "lr" in groups[0]:  # where its scheduler had brought it
        overrides["lr"] = float(groups[0]["lr"])
    batch_size = saved["config"].get("data", {}).get("batch_size")
    return overrides | ({"batch_size": batch_size} if batch_size else {})


_RENAMED = {
    "convtasnet": (r"^mask_net\.", "masknet."),
    "dprnn": (r"^separator\.", "masknet."),
    # Legacy files call the transformer what it is.
    "sepformer": (r"\.transformer\.", ".mdl."),
}


def _rename(model_type: str, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    if model_type == "spmamba":
        return convert_state_dict(state_dict)
    pattern, replacement = _RENAMED[model_type]
    return {re.sub(pattern, replacement, k): v for k, v in state_dict.items()}
