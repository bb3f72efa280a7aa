"""What the keys of our hparams files may be changed to."""

from collections.abc import Callable, Mapping
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
#: Heads divide channels among themselves; frames of SPMamba overlap.
_PAIRS: tuple[tuple[str, str, Callable[[int, int], bool], str], ...] = (
    ("nhead", "N", lambda heads, channels: channels % heads == 0, "must divide"),
    ("n_head", "emb_dim", lambda heads, channels: channels % heads == 0, "must divide"),
    ("stride", "n_fft", lambda stride, n_fft: stride < n_fft, "must be below"),
)


def check_values(changes: Mapping[str, Any], tree: Mapping[str, Any]) -> None:
    """Refuses changes that no model can be made of; the rest is the file's business."""
    for key, value in changes.items():
        if key in _RANGES:
            check_number(f"--{key}", value, **_RANGES[key])
    values = {**tree, **changes}
    if "rnn_type" in changes and changes["rnn_type"] not in _RNNS:
        raise InputError(f"--rnn_type={changes['rnn_type']}: choose one of {', '.join(_RNNS)}")
    for key, other, fits, words in _PAIRS:
        concerned = {key, other} & changes.keys() and {key, other} <= values.keys()
        if concerned and not fits(values[key], values[other]):
            relation = f"{words} {other}={values[other]}"
            raise InputError(f"--{key}={values[key]}: {relation}")
    if "N" in changes and values.get("use_positional_encoding") and values["N"] % 2:
        raise InputError(f"--N={values['N']}: must be even for positional encodings")
    if "scan_backend" in changes:
        from custom_modules.selective_scan import check_backend  # registers operators

        name = changes["scan_backend"]
        try:
            check_backend(name)
        except ValueError as error:
            raise InputError(f"--scan_backend={name}: {error}") from error
