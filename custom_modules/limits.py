"""What the keys of our hparams files may be changed to."""

from collections.abc import Mapping
from typing import Any

from custom_modules.errors import InputError, check_number

_SIZES = (
    *("N", "B", "H", "P", "X", "R", "chunk_size", "hidden_size", "num_blocks"),
    *("num_layers", "nhead", "d_ffn", "n_fft", "stride", "n_layers", "n_head"),
    *("qk_dim", "emb_dim", "emb_ks", "emb_hs"),
)
#: Key → what :func:`check_number` takes. What a model is made from is checked here,
#: before it is made; what a training takes, by ``dataio.check_choices``.
_RANGES: dict[str, dict[str, Any]] = {
    **{key: {"least": 1, "whole": True} for key in _SIZES},
    "kernel_size": {"least": 2, "whole": True},  # half of it is the stride
    "seed": {"least": 0, "most": 2**32 - 1, "whole": True},
    "dropout": {"least": 0, "most": 1},
    "lr_factor": {"above": 0},
    "lr_patience": {"least": 0},
    **{key: {"least": 0} for key in ("weight_decay", "norm_eps", "eps")},
}
_RNNS = ("RNN", "LSTM", "GRU", "LiGRU", "SLiGRU", "QuasiRNN")  # SpeechBrain's
#: Heads, and the channels that they divide among themselves.
_HEADS = {"nhead": "N", "n_head": "emb_dim"}


def check_values(changes: Mapping[str, Any], tree: Mapping[str, Any]) -> None:
    """Refuses changes of an hparams file that no model can be made of.

    Only of keys that are ours, and that are changed: what else a file holds is its
    author's business.

    >>> check_values({"n_head": 3}, {"emb_dim": 4, "n_head": 2})
    Traceback (most recent call last):
    custom_modules.errors.InputError: --n_head=3: must divide emb_dim=4
    """
    for key, value in changes.items():
        if key in _RANGES:
            check_number(f"--{key}", value, **_RANGES[key])
    values = {**tree, **changes}
    if "rnn_type" in changes and changes["rnn_type"] not in _RNNS:
        raise InputError(
            f"--rnn_type={changes['rnn_type']}: choose one of {', '.join(_RNNS)}"
        )
    for heads, channels in _HEADS.items():
        if {heads, channels} & changes.keys() and {heads, channels} <= values.keys():
            number, size = values[heads], values[channels]
            if size % number:
                raise InputError(f"--{heads}={number}: must divide {channels}={size}")
    if "N" in changes and values.get("use_positional_encoding") and values["N"] % 2:
        raise InputError(f"--N={values['N']}: must be even for positional encodings")
    frames = {"n_fft", "stride"}  # of SPMamba, which overlap
    if frames & changes.keys() and frames <= values.keys():
        stride, n_fft = values["stride"], values["n_fft"]
        if stride >= n_fft:
            raise InputError(f"--stride={stride}: must be below n_fft={n_fft}")
    if "scan_backend" in changes:
        _check_backend(changes["scan_backend"])


def _check_backend(name: str) -> None:
    from custom_modules.selective_scan import check_backend  # registers operators

    try:
        check_backend(name)
    except ValueError as error:
        raise InputError(f"--scan_backend={name}: {error}") from error
