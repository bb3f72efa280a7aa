"""Names of SepReformer's configurations and weights, the authors' and ours."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from custom_modules.errors import check_number
from custom_modules.models.references import rename, translate


def convert_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of ours; of several rates of dropout, the highest.

    Raises InputError with the key that makes no model of ours.
    """
    flat = dict(_flatten(config))
    rates = {key: flat.pop(key) for key in [*flat] if key.endswith(".dropout_rate")}
    for key, rate in rates.items():
        check_number(key, rate, least=0, most=1)
    only: dict[str, tuple[Any, ...]] = dict.fromkeys(_FALSE.split(), (False,))
    only |= dict.fromkeys(_ONE.split(), (1,))
    for names in _SIZES.values():  # what is said more than once
        first, *others = names.split()
        only |= {key: (flat.get(first),) for key in others}
    return translate(flat, NAMES, only=only) | {"dropout": max(rates.values(), default=0.0)}


def _flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Values within values under names with dots."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def convert_state_dict(state_dict: Mapping[str, Tensor], num_stages: int) -> dict[str, Tensor]:
    """Renames the authors' parameters to ours.

    >>> import torch
    >>> list(convert_state_dict({"out_layer.end_conv1x1.0.bias": torch.ones(1)}, 4))
    ['head.layers.0.bias']
    """
    deepest = (r"^separator\.bottleneck_G\.", f"encoder_stages.{num_stages}.")
    converted = rename(state_dict, [*_RENAMED, deepest])
    counters = [key for key in converted if key.endswith("num_batches_tracked")]
    for key in counters:
        del converted[key]
    return {key: _shape(key, value) for key, value in converted.items()}


def _shape(key: str, value: Tensor) -> Tensor:
    """Convolutions of one frame are linear layers here."""
    if key.endswith(".gain"):
        return value.flatten()
    is_linear = value.dim() == 3 and ".conv." not in key and "coder." not in key
    return value.squeeze(2) if is_linear else value


_SEPARATOR, _ENCODER, _DECODER = (
    "module_separator",
    "module_separator.enc_stage",
    "module_separator.dec_stage",
)
#: Our arguments, and the keys of the reference that say the same.
_SIZES = {
    "num_sources": f"num_spks {_SEPARATOR}.spk_split_stage.num_spks {_DECODER}.num_spks "
    "module_output_layer.num_spks",
    "N": "module_audio_enc.out_channels module_feature_projector.num_channels "
    "module_feature_projector.in_channels module_output_layer.in_channels "
    "module_audio_dec.in_channels",
    "kernel_size": "module_audio_enc.kernel_size module_audio_dec.kernel_size",
    "stride": "module_audio_enc.stride module_audio_dec.stride",
    "emb_dim": "module_feature_projector.out_channels "
    f"{_SEPARATOR}.relative_positional_encoding.in_channels "
    f"{_SEPARATOR}.spk_split_stage.in_channels {_SEPARATOR}.simple_fusion.out_channels "
    f"{_ENCODER}.down_conv_layer.in_channels {_DECODER}.spk_attention.in_channels "
    + "".join(
        f"{s}.{b}_blocks.in_channels " for s in (_ENCODER, _DECODER) for b in ("global", "local")
    )
    + "module_output_layer.out_channels",
    "num_stages": f"num_stages {_SEPARATOR}.num_stages",
    "n_head": f"{_SEPARATOR}.relative_positional_encoding.num_heads "
    f"{_ENCODER}.global_blocks.num_mha_heads {_DECODER}.global_blocks.num_mha_heads "
    f"{_DECODER}.spk_attention.num_mha_heads",
    "conv_size": f"{_ENCODER}.local_blocks.kernel_size {_DECODER}.local_blocks.kernel_size",
    "down_size": f"{_ENCODER}.down_conv_layer.samp_kernel_size",
    "max_distance": f"{_SEPARATOR}.relative_positional_encoding.maxlen",
}
#: Our names of sizes and the first of theirs.
NAMES = " ".join(f"{ours}={names.split()[0]}" for ours, names in _SIZES.items())
_FALSE = (
    "module_audio_enc.bias module_feature_projector.bias module_audio_dec.bias "
    f"{_SEPARATOR}.relative_positional_encoding.embed_v"
)
_ONE = (
    "module_audio_enc.in_channels module_audio_enc.groups module_feature_projector.kernel_size "
    "module_audio_dec.out_channels"
)


def _block(match: re.Match[str]) -> str:
    kind, number = "gls".index(match[1]), int(match[2]) - 1
    return f".blocks.{number}.{kind}."


_RENAMED = [
    (r"^audio_encoder\.conv1d\.", "encoder."),
    (r"^feature_projector\.norm\.", "norm."),
    (r"^feature_projector\.conv1d\.", "bottleneck."),
    (r"^separator\.pos_emb\.pe_k\.", "positions.vectors."),
    (r"^separator\.enc_stages\.(\d+)\.downconv\.", r"downsamplings.\1."),
    (r"^separator\.enc_stages\.", "encoder_stages."),
    (r"^separator\.dec_stages\.", "decoder_stages."),
    (r"^separator\.spk_split_block\.", "splits.0."),
    (r"^separator\.spk_split_blocks\.", "splits."),
    (r"^separator\.simple_fusion\.", "fusions."),
    (r"^out_layer\.end_conv1x1\.", "head.layers."),
    (r"^out_layer_bn\.(\d+)\.end_conv1x1\.", r"stage_heads.\1.layers."),
    (r"^audio_decoder\.", "head.decoder."),
    (r"^decoder_bn\.(\d+)\.", r"stage_heads.\1.decoder."),
    (r"^(splits\.\d+)\.linear\.0\.", r"\1.expand."),
    (r"^(splits\.\d+)\.linear\.2\.", r"\1.contract."),
    (r"\.down_conv\.", ".conv."),
    (r"\.(g|l)_block_(\d+)\.block\.", _block),
    (r"\.(s)pk_attn_(\d+)\.", _block),
    (r"\.ega\.block\.linear\.", ".gate."),
    (r"\.(ega\.block\.)?self_attn\.layer_norm\.", ".attention.norm."),
    (r"\.(ega\.block\.)?self_attn\.linear_q\.", ".attention.queries."),
    (r"\.(ega\.block\.)?self_attn\.linear_k\.", ".attention.keys."),
    (r"\.(ega\.block\.)?self_attn\.linear_v\.", ".attention.values."),
    (r"\.(ega\.block\.)?self_attn\.linear_out\.", ".attention.output."),
    (r"\.(ega\.block\.)?self_attn\.Layer_scale\.", ".attention.Layer_scale."),
    (r"\.gcfn\.", ".feed_forward."),
    (r"\.net1\.0\.", ".norm."),
    (r"\.net1\.1\.", ".expand."),
    (r"\.net2\.2\.", ".contract."),
    (r"\.depthwise\.", ".conv."),
    (r"\.cla\.layer_norm\.", ".norm."),
    (r"\.cla\.linear1\.", ".gate."),
    (r"\.cla\.dw_conv_1d\.", ".conv."),
    (r"\.cla\.linear2\.", ".expand."),
    (r"\.cla\.BN\.", ".batch_norm."),
    (r"\.cla\.linear3\.1\.", ".contract."),
    (r"\.cla\.", "."),
    (r"\.BN\.", ".norm."),
    (r"\.Layer_scale\.layer_scale$", ".scale.gain"),
]
