"""What a value may be: one check for each key of our hparams files and each option."""

import os
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

from hyperpyyaml.core import parse_arithmetic

from custom_modules.errors import InputError, check_number
from custom_modules.mmipc import TASK_SOURCES, VARIANTS, Curriculum, num_sources
from custom_modules.remixing import remix_of, silence_of, speeds_of

#: Raises an InputError that names the option, given first, for a value that does not fit.
Check = Callable[[str, Any], None]


def checked_variants(
    variants: str | Iterable[str] | None, option: str = "variants"
) -> tuple[str, ...]:
    """A choice of variants, a list or ``"SER,SE"``; refuses unknown ones and none."""
    is_list = isinstance(variants, list | tuple)
    names = variants.split(",") if isinstance(variants, str) else variants if is_list else ()
    if not names or any(name not in VARIANTS for name in names):
        known = ", ".join(VARIANTS)
        raise InputError(f"{option} {variants}: choose one or more of {known}, as in SER,SE")
    return tuple(names)


def check_text(option: str, value: object) -> None:
    """Text that is not empty, and that HyperPyYAML leaves as it is."""
    reason = "takes text, which in a file needs quotes"
    if isinstance(value, str):
        if not value.strip():
            reason = "is empty; leave the option out, or say something"
        elif re.search("[\0-\x1f\x7f-\x9f\ud800-\udfff]", value):
            reason = "holds control characters, or is not UTF-8"
        elif _is_formula(value):
            reason = "HyperPyYAML would compute with it; leave out <…>, # and operators"
        else:
            return
    raise InputError(f"{option}={value!r:.200}: {reason}")


def _folders(option: str, value: object) -> None:
    """A folder, or a list of some, none twice."""
    texts = value if isinstance(value, list) and value else [value]
    for text in texts:
        check_text(option, text)
    if len({os.path.realpath(str(text)) for text in texts}) < len(texts):
        raise InputError(f"{option}={value}: names a folder twice")


def _is_formula(text: str) -> bool:
    """Whether ``!ref <key>/file`` is not the text and ``/file``, or takes for ever."""
    if re.search(r"<[^>]*>|^[\d(+~.-].*\*\*", text):
        return True
    try:
        return bool(parse_arithmetic(f"{text}/file") != f"{text}/file")
    except (ArithmeticError, MemoryError, RecursionError, ValueError):
        return True


def _number(**limits: Any) -> Check:
    return lambda option, value: check_number(option, value, **limits)


def _whole(least: int = 1, most: float = 10**9) -> Check:
    return _number(least=least, most=most, whole=True)


def _odd(option: str, value: Any) -> None:
    _whole(1, 100_000)(option, value)
    if value % 2 == 0:
        raise InputError(f"{option}={value}: must be odd, to have a middle")


def _choice(*choices: str) -> Check:
    def check(option: str, value: object) -> None:
        if value not in choices:
            raise InputError(f"{option}={value}: choose one of {', '.join(choices)}")

    return check


def _truth(option: str, value: object) -> None:
    if not isinstance(value, bool):
        raise InputError(f"{option}={value}: neither True nor False")


def _mapping(option: str, value: object) -> None:
    if not isinstance(value, Mapping):
        raise InputError(f"{option}={value}: must be a mapping, such as {{a: b}}")


def _variants(option: str, value: Any) -> None:
    checked_variants(value, option)


def _sizes(option: str, value: Any) -> None:
    """Of the small recogniser, for those that are named."""
    _mapping(option, value)
    checks = {"n_mels": _whole(2, 1000), "hidden": _whole(most=10_000), "blocks": _whole(0, 1000)}
    checks |= {"stride": _whole(most=100), "dropout": _number(least=0, most=0.99)}
    for key, size in value.items():
        if key not in checks:
            raise InputError(f"{option}: no size {key}; there are {', '.join(checks)}")
        checks[key](f"{option}, {key}", size)


def _bands(option: str, value: Any) -> None:
    pairs = value if isinstance(value, list) else []
    if not pairs or any(not isinstance(pair, list) or len(pair) != 2 for pair in pairs):
        raise InputError(f"{option}={value}: must be a list of [number, Hz]")
    for number, hertz in pairs:
        check_number(f"{option}, number of bands", number, least=1, most=10_000, whole=True)
        check_number(f"{option}, Hz", hertz, above=0, most=10**6)


def _patterns(option: str, value: Any) -> None:
    for pattern in value if isinstance(value, list) else [value]:
        try:
            re.compile(pattern)
        except (re.error, TypeError) as error:
            raise InputError(
                f"{option}={value}: takes a regular expression, or a list of some ({error})"
            ) from error


def _range(check: Check) -> Check:
    """A value, or two of them that rise."""

    def check_range(option: str, value: Any) -> None:
        for item in (pair := value if isinstance(value, list) else [value, value]):
            check(option, item)
        if len(pair) != 2 or pair[0] > pair[1]:
            raise InputError(f"{option}={value}: must be a number, or [least, most]")

    return check_range


def _null_or(check: Check) -> Check:
    return lambda option, value: None if value is None else check(option, value)


def _made_by(reader: Callable[[Any], Any]) -> Check:
    """What a reader of values refuses by itself, with the key."""
    return lambda option, value: reader(value)


def _all(check: Check, *keys: str) -> dict[str, Check]:
    return dict.fromkeys(keys, check)


text_or_null = _null_or(check_text)
_precision = _choice("fp32", "fp16", "bf16")

#: What our commands and hparams files take, by key.
CHECKS: dict[str, Check] = {
    **_all(check_text, "model_name", "output_folder", "save_folder"),
    "data_folder": _folders,
    "sizes": _sizes,
    **_all(check_text, "manifest_folder", "train_manifest", "valid_manifest", "test_manifest"),
    **_all(check_text, "wandb_project", "speech_folder", "scene_folder", "event_folder"),
    **_all(text_or_null, "speech_table", "same_recording", "pretrained"),
    **_all(text_or_null, "test_recogniser", "valid_recogniser"),
    "freeze": _null_or(_patterns),
    "valid_recogniser_every": _whole(),
    "best": _choice("si_sdr", "wer"),
    **_all(_truth, "skip_prep", "skip_bad_rows", "allow_leakage", "per_variant_validation"),
    "mixture_consistency": _truth,
    "loss": check_text,  # losses.py knows the names
    **_all(_truth, "save_all_checkpoints", "test_after_training", "overwrite", "decay_states"),
    **_all(_mapping, "speakers", "scene_classes", "event_classes"),
    **_all(_variants, "train_variants", "valid_variants"),
    "remix": _made_by(remix_of),
    "speed": _made_by(speeds_of),
    "silent_talker": _made_by(silence_of),
    "seed": _whole(0, 2**32 - 1),
    "task": _choice(*TASK_SOURCES),
    "check": _choice("none", "header", "full"),
    "sample_rate": _whole(1000, 384_000),  # Hz
    **_all(_null_or(_whole()), "train_max_samples", "valid_max_samples", "test_max_samples"),
    "segment_seconds": _null_or(_number(above=0, most=3600)),
    "chunk_seconds": _number(least=0.1, most=3600),
    "overlap_seconds": _number(least=0, most=1800),
    **_all(text_or_null, "separator", "start_from"),
    **_all(_number(least=0, most=1), "noisy_share", "second_share", "fade_share"),
    "separated_share": _number(least=0, most=1),
    "observation_db": _number(least=-100, most=20),
    **_all(_number(least=0, most=600), "look_ahead_seconds", "context_seconds"),
    "port": _whole(0, 65_535),
    **_all(_number(above=0, most=60 * 24), "max_minutes", "keep_minutes"),
    **_all(_null_or(_whole()), "early_stopping_patience", "optimizer_step_limit"),
    **_all(_whole(), "number_of_epochs", "batch_size", "test_batch_size"),
    **_all(_whole(), "max_samples", "trials"),
    **_all(_whole(), "grad_accumulation_factor", "debug_batches", "max_tries"),
    **_all(_whole(0), "early_stopping_warmup", "lr_patience", "nonfinite_patience"),
    "alpha": _number(least=0, most=1),
    "alpha_decay_epoch": _whole(),
    "warmup_steps": _whole(0),
    "average_checkpoints": _whole(1, 1000),
    **_all(_whole(0), "save_audio", "n_train", "n_val", "n_test"),
    "num_workers": _whole(0, max(64, os.cpu_count() or 1)),
    "workers": _whole(1, max(64, os.cpu_count() or 1)),
    **_all(_number(least=0), "lr", "weight_decay", "max_grad_norm", "ckpt_interval_minutes"),
    "lr_factor": _number(above=0, most=1),
    **_all(_precision, "precision", "eval_precision"),
    "tracker": _choice("none", "tensorboard", "wandb"),
    "wandb_mode": _choice("online", "offline", "disabled", "shared"),
    "duration": _number(least=0.1, most=3600),  # s
    "seconds_per_voice": _number(above=0, most=3600),
    "test_voices": _whole(2),
    "indoor_share": _null_or(_number(least=0, most=1)),
    "val_speakers": _choice("disjoint", "train"),
    "utterances": _choice("cut", "whole"),
    "sentences": _choice("text", "matrix"),
    **_all(_whole(1, 10_000), "scene_recordings", "event_recordings"),
    "minutes": _range(_number(above=0, most=60)),  # of a conversation
    "voices": _range(_whole(2, 100)),
    "scene_level": _range(_number(least=-100, most=40)),  # dB
    "overlap_share": _number(least=0, most=0.9),
    "events_per_minute": _number(least=0, most=1000),
}

_DEPTHS = ("X", "R", "num_blocks", "num_layers", "n_layers", "n_mamba", "num_stages")
_SIZES = (
    *("N", "B", "H", "hidden_size", "nhead", "d_ffn", "n_fft", "stride"),
    *("n_head", "qk_dim", "emb_dim", "emb_ks", "emb_hs", "d_state", "d_conv", "expand"),
    *("segment_size", "conv_size", "max_distance"),
    *("group_size", "fsmn_channels", "n_heads", "attention_dim", "ffn_dim", "ffn_kernel"),
    "n_mels",
)
#: What our models are made from; a model of a user's own may have other meanings.
_MODEL_CHECKS: dict[str, Check] = {
    **_all(_whole(1, 100_000), *_SIZES),
    "P": _odd,
    **_all(_whole(1, 1000), *_DEPTHS),
    **_all(_whole(2, 100_000), "kernel_size", "chunk_size"),  # a step is half of it
    "norm_groups": _null_or(_whole()),
    **_all(_number(least=0, most=1), "dropout", "attn_dropout"),
    **_all(_number(above=0), "norm_eps", "eps"),
    **_all(_truth, "bidirectional", "use_positional_encoding", "checkpoint_blocks"),
    **_all(_truth, "skip_around_intra", "whole_frames", "sums_to_mixture"),
    **_all(_truth, "shared_split", "multi_stage"),
    "bands": _bands,
    "norm_type": _choice("gLN", "cLN"),
    "mask_nonlinear": _choice("relu", "softmax"),
    "rnn_type": _choice("RNN", "LSTM", "GRU"),
}
#: What a model stays when its training is over.
FIXED = {*_MODEL_CHECKS, "sample_rate", "task", "mixture_consistency"} - {
    "dropout",
    "attn_dropout",
    "checkpoint_blocks",
}
#: Heads divide channels among themselves; frames of SPMamba overlap.
_PAIRS: tuple[tuple[str, str, Callable[[int, int], bool], str], ...] = (
    ("nhead", "N", lambda heads, channels: channels % heads == 0, "must divide"),
    ("n_head", "emb_dim", lambda heads, channels: channels % heads == 0, "must divide"),
    # SpeechBrain's dual path counts on both directions.
    ("bidirectional", "rnn_type", lambda both, _: bool(both), "must be True beside"),
    ("stride", "n_fft", lambda stride, n_fft: stride < n_fft, "must be below"),
)


def check_values(values: Mapping[str, Any], model: bool = False) -> None:
    """Refuses what no run can be made of; ``model``: they are of a model of ours, too."""
    checks = CHECKS | _MODEL_CHECKS if model else CHECKS
    for key, value in values.items():
        if key in checks:
            checks[key](f"--{key}", value)
    if "curriculum" in values:
        Curriculum(values["curriculum"], checked_variants(values.get("train_variants", VARIANTS)))
    if values.get("best") == "wer" and not values.get("valid_recogniser"):
        raise InputError("--best=wer: no words are counted; set --valid_recogniser, too")
    if isinstance(values.get("num_sources"), int) and "task" in values:
        wanted = num_sources(values["task"])
        if values["num_sources"] != wanted:
            raise InputError(f"--num_sources: must be {wanted} for --task={values['task']}")
    if values.get("mixture_consistency"):
        _check_consistency(values)
    if model:
        _check_model(values)


def _check_consistency(values: Mapping[str, Any]) -> None:
    """Sources can be made to sum to what is fed where the targets do: two of them, on C."""
    told = "--mixture_consistency=True"
    if num_sources(values.get("task", "SB")) == 1:
        raise InputError(f"{told}: one source would be the mixture itself; use it with --task=SB")
    if {*checked_variants(values.get("train_variants", "C"))} != {"C"}:
        raise InputError(
            f"{told}: the speakers sum to the mixture on C alone; add --train_variants='[C]' "
            "--valid_variants='[C]' --curriculum=null"
        )


def _check_model(values: Mapping[str, Any]) -> None:
    for key, other, fits, words in _PAIRS:
        if {key, other} <= values.keys() and not fits(values[key], values[other]):
            relation = f"{words} {other}={values[other]}"
            raise InputError(f"--{key}={values[key]}: {relation}")
    if values.get("use_positional_encoding") and values.get("N", 0) % 2:
        raise InputError(f"--N={values['N']}: must be even for positional encodings")
    if "scan_backend" in values:
        from custom_modules.selective_scan import check_backend  # registers operators

        name = values["scan_backend"]
        try:
            check_backend(name)
        except ValueError as error:
            raise InputError(f"--scan_backend={name}: {error}") from error


def option(key: str, name: str = "") -> Callable[[str], Any]:
    """The ``type`` of a number among argparse's options, which may have another name."""

    def read(text: str) -> Any:
        value: Any = text
        for kind in (float, int):
            with suppress(ValueError):
                value = kind(text)
        CHECKS[key](name or f"--{key}", value)
        return value

    return read
