"""Checkpoints of this project's predecessor, and what they are here.

They hold ``model_state_dict`` and ``config``, whose ``model.model_type`` says which of
``config.model``'s sections is the model's. Start reading at :func:`read_checkpoint`.
"""

import re
from dataclasses import dataclass

import torch

from custom_modules.errors import InputError
from custom_modules.mmipc import TASK_SOURCES
from custom_modules.models.spmamba import convert_state_dict


@dataclass
class OldCheckpoint:
    """What a checkpoint says, in the terms of this project.

    Arguments
    ---------
    model_type : str
        Names the hparams file.
    overrides : dict
        Of its keys.
    state_dict : dict of str to torch.Tensor
        For its separator.
    epoch : int
        Epochs of training, counted from 1.
    si_sdr : float
        On the validation set, dB.
    data_folder : str
        Of the corpus, where it was trained.
    """

    model_type: str
    overrides: dict
    state_dict: dict
    epoch: int
    si_sdr: float
    data_folder: str


def read_checkpoint(path):
    """Reads a checkpoint of the predecessor; nothing in it is executed.

    Arguments
    ---------
    path : str or pathlib.Path

    Returns
    -------
    OldCheckpoint

    Raises
    ------
    InputError
        If it is none, or of a model that this project does not have.
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
    task = saved["config"].get("data", {}).get("task", "SB")
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
    data = saved["config"].get("data", {})
    return OldCheckpoint(
        model_type,
        overrides,
        _rename(model_type, _get(path, saved, "model_state_dict")),
        int(saved.get("epoch", 0)) + 1,
        float(saved.get("val_sisdr", float("-inf"))),
        str((data.get("polsess") or {}).get("data_root", "PolSESS")),
    )


def _load(path):
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{path}: cannot be read ({reason})") from error
    except Exception as error:  # of pickle, zipfile and torch, one for each damage
        raise InputError(
            f"{path}: no checkpoint that can be read safely, as plain tensors and "
            f"numbers ({type(error).__name__}: {_first_line(error)})"
        ) from error
    if not isinstance(saved, dict):
        raise InputError(f"{path}: holds a {type(saved).__name__}, not a checkpoint")
    return saved


def _first_line(error):
    lines = str(error).strip().splitlines()
    return lines[0][:100] if lines else type(error).__name__


def _get(path, saved, *keys):
    """A value deep inside; the first key that is missing is named."""
    value = saved
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

    def __init__(self, path, model_type, values):
        self.path, self.model_type, self.values = path, model_type, values or {}

    def take(self, *names, **renamed):
        """Values by their names here; ``ours="theirs"`` where they differ."""
        wanted = {name: name for name in names} | renamed
        return {ours: self[theirs] for ours, theirs in wanted.items()}

    def __getitem__(self, name):
        keys = ("config", "model", self.model_type, name)
        config = {"config": {"model": {self.model_type: self.values}}}
        return _get(self.path, config, *keys)

    def must_be(self, **expected):
        """Refuses what the model here cannot do; what is not said is as expected."""
        for name, value in expected.items():
            if self.values.get(name, value) != value:
                raise InputError(
                    f"{self.path}: config.model.{self.model_type}.{name} is "
                    f"{self.values[name]}; only {value} can be imported"
                )


def _convtasnet(section):
    section.must_be(causal=False, stride=section["kernel_size"] // 2)
    return section.take(
        *("N", "kernel_size", "B", "H", "P", "X", "R", "norm_type", "mask_nonlinear"),
        num_sources="C",
    )


def _dprnn(section):
    section.must_be(
        stride=section["kernel_size"] // 2, num_rnn_layers=1, norm_type="ln"
    )
    return section.take(
        *("N", "kernel_size", "num_layers", "chunk_size"),
        *("rnn_type", "hidden_size", "bidirectional"),
        num_sources="C",
    )


def _sepformer(section):
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


def _spmamba(section):
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


_MODELS = {
    "convtasnet": _convtasnet,
    "dprnn": _dprnn,
    "sepformer": _sepformer,
    "spmamba": _spmamba,
}


def _check_sources(path, task, sources):
    if task not in TASK_SOURCES or sources != TASK_SOURCES[task]:
        raise InputError(
            f"{path}: task {task!r} and {sources} sources do not belong together; "
            "SB has two sources, EB and ES have one"
        )


def _training_overrides(saved, training):
    """Settings with which a training goes on."""
    names = {
        "seed": "seed",
        "weight_decay": "weight_decay",
        "max_grad_norm": "grad_clip_norm",
        "number_of_epochs": "num_epochs",
    }
    found = {
        ours: training[theirs]
        for ours, theirs in names.items()
        if training.get(theirs) is not None
    }
    groups = saved.get("optimizer_state_dict", {}).get("param_groups") or [training]
    if "lr" in groups[0]:  # where its scheduler had brought it
        found["lr"] = float(groups[0]["lr"])
    batch_size = saved["config"].get("data", {}).get("batch_size")
    return found | ({"batch_size": batch_size} if batch_size else {})


_RENAMED = {
    "convtasnet": [(r"^mask_net\.", "masknet.")],
    "dprnn": [(r"^separator\.", "masknet.")],
    # Legacy files call the transformer what it is.
    "sepformer": [(r"\.transformer\.", ".mdl.")],
}


def _rename(model_type, state_dict):
    if model_type == "spmamba":
        return convert_state_dict(state_dict)
    renamed = {}
    for name, value in state_dict.items():
        for pattern, replacement in _RENAMED[model_type]:
            name = re.sub(pattern, replacement, name)
        renamed[name] = value
    return renamed
