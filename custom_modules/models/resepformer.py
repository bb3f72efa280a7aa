"""RE-SepFormer: transformers within segments, and across one summary of each."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from speechbrain.lobes.models.dual_path import Decoder, Encoder
from speechbrain.lobes.models.resepformer import (
    ResourceEfficientSeparationPipeline,
    ResourceEfficientSeparator,
    SBTransformerBlock_wnormandskip,
)
from torch import Tensor, nn

from custom_modules.errors import InputError
from custom_modules.models.layers import Positions
from custom_modules.models.masking import MaskingSeparator
from custom_modules.models.references import Predecessor, Settings, stride_of, translate


class RESepFormerMaskNet(ResourceEfficientSeparator):
    """SpeechBrain's network, whose summaries attend within a mixture, not across the batch.

    Each block is initialised on its own, where SpeechBrain copies one. Source: Della Libera
    et al. 2024, "Resource-efficient separation transformer".
    """

    stock = ResourceEfficientSeparator

    def __init__(
        self,
        input_dim: int,  # channels of the encoder
        num_spk: int,
        seg_model: Callable[[], nn.Module],  # within segments, [batch, frames, channels]
        mem_model: Callable[[], nn.Module],  # across their means
        layer: int = 2,  # blocks, of one transformer within and, but for the last, one across
        segment_size: int = 150,  # frames
        mem_type: str = "av",  # summaries are means over time
        nonlinear: str = "relu",  # of the masks
    ) -> None:
        if mem_type != "av":
            raise InputError(f"--mem_type={mem_type}: can only be av")
        sizes = {"num_spk": num_spk, "segment_size": segment_size, "nonlinear": nonlinear}
        super().__init__(input_dim, layer=0, mem_type=mem_type, **sizes)
        self.model.num_blocks = layer
        self.model.seg_model = nn.ModuleList(seg_model() for _ in range(layer))
        self.model.mem_model = nn.ModuleList(mem_model() for _ in range(layer - 1))
        improve_resepformer(self)


def improve_resepformer(masknet: ResourceEfficientSeparator) -> None:
    """Makes batches safe for SpeechBrain's network, in place, and its positions no weights."""
    if masknet.model.mem_type == "av":
        masknet.model.__class__ = _Pipeline
    for block in masknet.modules():
        if isinstance(block, SBTransformerBlock_wnormandskip) and block.use_positional_encoding:
            block.pos_enc = Positions(block.pos_enc.pe.shape[2])


class _Pipeline(ResourceEfficientSeparationPipeline):
    """Segments, and what passes between those of one mixture."""

    def forward(self, features: Tensor) -> Tensor:
        """``[batch, frames, channels]`` → ``[batch, frames, channels * sources]``."""
        padded, _ = self._padfeature(features)
        # [batch, segments, frames of a segment, channels]
        segments = padded.unflatten(1, (-1, self.segment_size))
        for i, within in enumerate(self.seg_model):
            if i:
                summaries = self.mem_model[i - 1](segments.mean(2))  # [batch, segments, channels]
                segments = segments + summaries.unsqueeze(2)
            segments = within(segments.flatten(0, 1)).view_as(segments)
        frames = segments.flatten(1, 2)[:, : features.shape[1]]
        return self.output_fc(frames.mT).mT


def from_reference(config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> MaskingSeparator:
    """SpeechBrain's separator with its weights, or the predecessor's, in eval mode.

    As there, samples behind the last whole frame are 0. Raises InputError with the key that
    makes no model.
    """
    config = {"norm_before": True, **config}
    for dead in ("dropout", "unit", "note"):
        config.pop(dead, None)
    only = {"mem_type": ("av",), "causal": (False,), "stride": stride_of(config)}
    sizes = translate(config, _SIZES, "use_positional_encoding norm_before", only)
    channels, kernel_size = sizes.pop("N"), sizes.pop("kernel_size")
    _check_sizes(channels, kernel_size, sizes)
    network = {key: sizes.pop(key) for key in ("num_spk", "layer", "segment_size")}
    # Without dropout, which has no weights
    transformer = partial(SBTransformerBlock_wnormandskip, d_model=channels, dropout=0.0, **sizes)
    separator = MaskingSeparator(
        Encoder(kernel_size, channels),
        RESepFormerMaskNet(channels, seg_model=transformer, mem_model=transformer, **network),
        Decoder(channels, 1, kernel_size, stride=kernel_size // 2, bias=False),
        whole_frames=True,
    )
    computed = {name for name in state_dict if name.endswith(".pos_enc.pe")}
    separator.load_state_dict({n: v for n, v in state_dict.items() if n not in computed})
    return separator.eval()


_SIZES = "N kernel_size num_spk=C layer=num_blocks num_layers nhead d_ffn segment_size"


def _check_sizes(channels: int, kernel_size: int, sizes: Mapping[str, Any]) -> None:
    if kernel_size < 2:
        raise InputError(f"kernel_size={kernel_size}: must be 2 or more, its half is the stride")
    if channels % sizes["nhead"]:
        raise InputError(f"nhead={sizes['nhead']}: must divide N={channels}")
    if channels % 2 and sizes["use_positional_encoding"]:
        raise InputError(f"N={channels}: must be even for positional encodings")


def _silence_behind(section: Settings, training: Settings) -> dict[str, Any]:
    """Behind the last whole frame."""
    return {"whole_frames": True}


def _without_tables(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names are ours; positions, of 51 MB a block at full size, are computed."""
    return {n: v for n, v in state_dict.items() if not n.endswith(".pos_enc.pe")}


PREDECESSOR = {
    "resepformer": Predecessor(
        "num_sources=C N kernel_size num_blocks num_layers nhead d_ffn dropout segment_size",
        "use_positional_encoding",
        fixed={"causal": False},
        more=_silence_behind,
        convert=_without_tables,
    )
}
