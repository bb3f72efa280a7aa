"""MossFormer2: gated attention in groups and over all frames, each time with an FSMN behind."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from speechbrain.lobes.models.dual_path import Decoder, Encoder
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from custom_modules.errors import InputError, check_number
from custom_modules.models.flash import GatedAttention, GatedFSMN, ScaledPositions
from custom_modules.models.layers import GlobalNorm, sinusoids
from custom_modules.models.masking import MaskingSeparator
from custom_modules.models.references import Predecessor, Settings, rename, stride_of, translate


class MossFormer2(MaskingSeparator):
    """Masks from single-head attention with convolutions, without recurrence.

    Source: Zhao et al. 2024, "MossFormer2: combining transformer and RNN-free recurrent
    network for enhanced time-domain monaural speech separation".
    """

    def __init__(
        self,
        num_sources: int,
        N: int = 512,  # filters of the encoder, channels of the layers
        kernel_size: int = 16,  # samples of a filter; the stride is half of it
        num_layers: int = 11,
        group_size: int = 256,  # frames that see each other exactly
        qk_channels: int = 128,  # of queries and keys
        conv_size: int = 17,  # frames, of each depthwise convolution
        fsmn_channels: int = 256,
        fsmn_order: int = 20,  # frames on each side, itself counted
        fsmn_depth: int = 2,  # dilated convolutions
        attn_dropout: float = 0.1,  # of attention and its projections
        dropout: float = 0.1,  # of the FSMNs' projections
        checkpoint_blocks: bool = False,  # computed again in the backward pass
        whole_frames: bool = False,
    ) -> None:
        counts = {"num_sources": num_sources, "N": N, "num_layers": num_layers}
        counts |= {"group_size": group_size, "fsmn_channels": fsmn_channels}
        counts |= {"fsmn_order": fsmn_order, "fsmn_depth": fsmn_depth}
        for name, count in counts.items():
            check_number(f"--{name}", count, least=1, whole=True)
        check_number("--kernel_size", kernel_size, least=2, whole=True)
        check_number("--conv_size", conv_size, least=1, whole=True)
        _check_parity({"--N": N, "--qk_channels": qk_channels}, {"--conv_size": conv_size})
        attention = (N, group_size, qk_channels, conv_size, attn_dropout)
        memory = (N, fsmn_channels, fsmn_order, fsmn_depth, conv_size, dropout)
        layers = [MossFormerLayer(attention, memory) for _ in range(num_layers)]
        super().__init__(
            Encoder(kernel_size, N),
            MossFormerMaskNet(num_sources, N, qk_channels, layers, checkpoint_blocks),
            Decoder(N, 1, kernel_size, stride=kernel_size // 2, bias=False),
            whole_frames,
        )


def _check_parity(paired: Mapping[str, Any], centred: Mapping[str, Any]) -> None:
    for name, size in paired.items():
        if not isinstance(size, int) or size < 2 or size % 2:
            raise InputError(f"{name}={size}: must be even, for channels are paired")
    for name, size in centred.items():
        if not isinstance(size, int) or size % 2 == 0:
            raise InputError(f"{name}={size}: must be odd, to have a middle")


class MossFormerMaskNet(nn.Module):
    """Norm, positions, layers, and a gated mask for each source."""

    def __init__(
        self,
        num_sources: int,
        channels: int,
        qk_channels: int,
        layers: Sequence[nn.Module],
        checkpoint_blocks: bool,
    ) -> None:
        super().__init__()
        self.num_sources, self.checkpoint_blocks = num_sources, checkpoint_blocks
        self.norm = GlobalNorm(channels)
        self.bottleneck = nn.Linear(channels, channels, bias=False)
        self.positions = ScaledPositions(channels)
        # No buffer, for the authors count them among their parameters.
        self.rotary = nn.Parameter(sinusoids(min(32, qk_channels)), requires_grad=False)
        self.layers = nn.ModuleList(layers)
        self.layer_norm = nn.LayerNorm(channels, eps=1e-6)
        self.stack_norm = GlobalNorm(channels)
        self.activation = nn.PReLU()
        self.split = nn.Linear(channels, channels * num_sources)
        self.value = nn.Linear(channels, channels)
        self.gate = nn.Linear(channels, channels)
        self.output = nn.Linear(channels, channels, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """``[batch, channels, frames]`` → ``[sources, batch, channels, frames]``."""
        frames = self.bottleneck(self.norm(features).mT)  # [batch, frames, channels]
        frames = frames + self.positions(frames)
        stacked = self.stack_norm(self.layer_norm(self._run_layers(frames)).mT).mT
        sources = self.split(self.activation(frames + stacked))
        sources = sources.unflatten(2, (self.num_sources, -1)).permute(2, 0, 1, 3)
        masks = torch.tanh(self.value(sources)) * torch.sigmoid(self.gate(sources))
        return F.relu(self.output(masks)).mT

    def _run_layers(self, frames: Tensor) -> Tensor:
        is_checkpointed = self.checkpoint_blocks and torch.is_grad_enabled()
        for layer in self.layers:
            if is_checkpointed:
                frames = checkpoint(layer, frames, self.rotary, use_reentrant=False)
            else:
                frames = layer(frames, self.rotary)
        return frames


class MossFormerLayer(nn.Module):
    """Gated attention, then a gated FSMN; the arguments are theirs."""

    def __init__(self, attention: tuple[Any, ...], memory: tuple[Any, ...]) -> None:
        super().__init__()
        self.attention, self.memory = GatedAttention(*attention), GatedFSMN(*memory)

    def forward(self, frames: Tensor, rotary: Tensor) -> Tensor:
        """``[batch, frames, channels]`` to the same shape."""
        return self.memory(self.attention(frames, rotary))


def from_reference(config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> MossFormer2:
    """ClearerVoice-Studio's separator with its weights, or the predecessor's, in eval mode.

    As there, samples behind the last whole frame are 0. Raises InputError with the key
    that makes no model.
    """
    config = {**config, **(config.get("fixed") or {})}
    config.pop("fixed", None)
    dropout = config.pop("attn_dropout", 0.1)
    check_number("attn_dropout", dropout, least=0, most=1)
    names = _PREDECESSOR if "N" in config else _REFERENCE
    names += "".join(f" {ours}={name}" for name, ours in _CONSTANTS.items() if name in config)
    paired = ("N", "encoder_embedding_dim", "query_key_dim")
    _check_parity(
        {key: config[key] for key in paired if key in config},
        {key: config[key] for key in ("conv_module_kernel",) if key in config},
    )
    check_number("kernel_size", config.get("kernel_size", 16), least=2, whole=True)
    only: dict[str, tuple[Any, ...]] = {"expansion_factor": (4,), "norm": ("ln",)}
    only["stride"] = stride_of(config)
    only["mossformer_sequence_dim"] = (config.get("encoder_embedding_dim"),)
    only["rotary_dim"] = (min(32, config.get("query_key_dim", 128)),)
    sizes = translate(config, names, only=only)
    separator = MossFormer2(**sizes, attn_dropout=dropout, whole_frames=True)
    separator.load_state_dict(convert_state_dict(state_dict))
    return separator.eval()


_REFERENCE = (
    "num_sources=num_spks N=encoder_embedding_dim kernel_size=encoder_kernel_size "
    "num_layers=num_mossformer_layer"
)
_PREDECESSOR = "num_sources=C N kernel_size num_layers=num_blocks"
#: What configurations may leave out, and our names of it.
_CONSTANTS = {
    "group_size": "group_size",
    "query_key_dim": "qk_channels",
    "conv_module_kernel": "conv_size",
    "fsmn_inner_channels": "fsmn_channels",
    "fsmn_lorder": "fsmn_order",
    "dense_depth": "fsmn_depth",
}


def _dense_name(match: re.Match[str]) -> str:
    part = ("conv", "norm", "prelu").index(match[1])
    return f".convs.{int(match[2]) - 1}.{part}."


def convert_state_dict(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames the parameters of any of the published MossFormer2 to ours.

    >>> list(convert_state_dict({"model.model.mask_net.pos_enc.scale": torch.ones(1)}))
    ['masknet.positions.scale']
    """
    converted = rename(state_dict, _RENAMED)
    for name, value in converted.items():
        if value.dim() > 2 and value.shape[-1] == 1 and not name.endswith(".conv.weight"):
            converted[name] = value.squeeze(-1)  # a convolution that is none
    return converted


#: Names of the training wrapper, the inference class, the predecessor and the authors' own
#: repository, and ours.
_RENAMED = [
    (r"^(\w+\.)*?(?=(enc|dec|mask_net|encoder|decoder|masknet)\.)", ""),
    (r"^(enc|dec)\.", r"\1oder."),
    (r"^mask_net\.", "masknet."),
    (r"^masknet\.(mdl|dual_mdl\.0)\.", "masknet."),
    (r"\.intra_norm\.", ".stack_norm."),
    (r"\.intra_mdl\.(norm|mdl\.norm\.norm)\.", ".layer_norm."),
    (r"\.intra_mdl\.(mossformerM|mdl\.flashT)\.layers\.(\d+)\.", r".layers.\2.attention."),
    (r"\.intra_mdl\.(mossformerM|mdl\.flashT)\.fsmn\.(\d+)\.", r".layers.\2.memory."),
    (r"\.layers\.\d+\.attention\.rotary_pos_emb\.freqs$", ".rotary"),
    (r"\.qk_offset_scale\.gamma$", ".qk_gain"),
    (r"\.qk_offset_scale\.beta$", ".qk_offset"),
    (r"\.memory\.conv1\.", ".memory.squeeze."),
    (r"\.memory\.norm1\.", ".memory.squeeze.2."),
    (r"\.memory\.norm2\.", ".memory.expand.0."),
    (r"\.memory\.conv2\.", ".memory.expand.1."),
    (r"\.gated_fsmn\.fsmn\.linear\.", ".memory.0."),
    (r"\.gated_fsmn\.fsmn\.project\.", ".memory.2."),
    (r"\.gated_fsmn\.fsmn\.conv\.(conv|norm|prelu)(\d+)\.", _dense_name),
    (r"\.gated_fsmn\.", "."),
    (r"\.mdl\.0\.g$", ".norm.gain"),
    (r"\.mdl\.0\.", ".norm."),
    (r"\.mdl\.1\.", ".linear."),
    (r"\.mdl\.3\.sequential\.1\.conv\.", ".conv."),
    (r"^masknet\.output\.0\.", "masknet.value."),
    (r"^masknet\.output_gate\.0\.", "masknet.gate."),
    (r"^masknet\.conv1_decoder\.", "masknet.output."),
    (r"^masknet\.conv1d_encoder\.", "masknet.bottleneck."),
    (r"^masknet\.conv1d_out\.", "masknet.split."),
    (r"^masknet\.prelu\.", "masknet.activation."),
    (r"^masknet\.pos_enc\.scale$", "masknet.positions.scale"),
    (r"^masknet\.pos_enc\.inv_freq$", "masknet.positions.frequencies"),
]


def _dropout(section: Settings, training: Settings) -> dict[str, Any]:
    """Files from before attention's was a choice lack it; that of memories is none."""
    dropout = section.number("attn_dropout", 0.1, least=0, most=1)
    return {"attn_dropout": dropout, "dropout": 0.1, "whole_frames": True}


PREDECESSOR = {"mossformer2": Predecessor(_PREDECESSOR, more=_dropout, convert=convert_state_dict)}
