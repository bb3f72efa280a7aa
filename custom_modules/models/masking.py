"""Encoder–mask–decoder separators, built from SpeechBrain's own parts.

All names and parameter names are SpeechBrain's, so that trained weights also load in
its stock ``SepformerSeparation``.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from speechbrain.lobes.models import conv_tasnet
from speechbrain.lobes.models.dual_path import (
    Dual_Computation_Block,
    Dual_Path_Model,
    Encoder,
    SBTransformerBlock,
)
from speechbrain.nnet.CNN import Conv1d
from torch import Tensor, nn

from custom_modules.errors import InputError
from custom_modules.models.layers import Positions, largest
from custom_modules.models.references import Predecessor, Settings, rename

_STOCK_NORMS = (conv_tasnet.GlobalLayerNorm, conv_tasnet.ChannelwiseLayerNorm)


class MaskingSeparator(nn.Module):
    """Masks what the encoder makes of the mixture, once per source.

    Source: Luo and Mesgarani 2019, "Conv-TasNet", section II.
    """

    def __init__(
        self,
        encoder: Encoder,  # [batch, time] → [batch, channels, frames]
        masknet: nn.Module,  # → [sources, batch, channels, frames]
        decoder: nn.ConvTranspose1d,  # with the encoder's kernel and stride
        whole_frames: bool = False,  # True, as in references: what fills none comes out as 0
    ) -> None:
        super().__init__()
        if isinstance(encoder, Encoder) and isinstance(decoder, nn.ConvTranspose1d):
            analysis, synthesis = encoder.conv1d, decoder
            for name in ("kernel_size", "stride"):
                pair = getattr(analysis, name), getattr(synthesis, name)
                if pair[0] != pair[1]:
                    raise InputError(
                        f"{name}={pair[1][0]}: must be the encoder's, {pair[0][0]}; leave it out"
                    )
        self.whole_frames = whole_frames
        self.encoder, self.masknet, self.decoder = encoder, masknet, decoder

    def forward(self, mixture: Tensor) -> Tensor:
        """``[batch, time]``, at least one sample → ``[batch, time, sources]``."""
        batch, time = mixture.shape
        features = self.encoder(self._fit_frames(mixture))
        masks = self.masknet(features)  # [sources, batch, channels, frames]
        masked = (features * masks).flatten(0, 1)
        estimates = self.decoder(masked)  # [sources * batch, padded time]
        if (missing := largest(0, time - estimates.shape[-1])) or torch.jit.is_tracing():
            estimates = F.pad(estimates, (0, missing))
        return estimates.view(-1, batch, estimates.shape[-1]).permute(1, 2, 0)[:, :time]

    def _fit_frames(self, mixture: Tensor) -> Tensor:
        """Pads with zeros, so that the frames reach the last sample, or cuts the last off."""
        kernel, stride = self.decoder.kernel_size[0], self.decoder.stride[0]
        time = mixture.shape[1]
        # Nothing negative is rounded where it matters: ONNX does so towards zero.
        steps = (time - kernel + (0 if self.whole_frames else stride - 1)) // stride
        frames = largest(1 + steps, getattr(self.masknet, "min_frames", 1))
        missing = kernel + (frames - 1) * stride - time
        return F.pad(mixture, (0, missing)) if missing else mixture


class ConvTasNetMaskNet(conv_tasnet.MaskNet):
    """SpeechBrain's ConvTasNet mask network with a normalisation safe in fp16.

    ``norm_eps`` is added to the variance by every gLN and cLN. The encoder's variances
    are near 1e-4 at speech level, so another value is another model.
    """

    #: SpeechBrain's class, which takes the parameters unchanged.
    stock = conv_tasnet.MaskNet

    def __init__(
        self,
        *sizes: int,
        norm_eps: float = conv_tasnet.EPS,
        **kwargs: Any,  # as for SpeechBrain's, the sizes too: N, B, H, P, X, R, C
    ) -> None:
        super().__init__(*sizes, **kwargs)
        improve_conv_tasnet(self, norm_eps)


def improve_conv_tasnet(masknet: conv_tasnet.MaskNet, norm_eps: float = conv_tasnet.EPS) -> None:
    """Makes a mask network safe in fp16, faster, and fit for any length, in place.

    Its convolutions reflect the signal at the edges, which takes more frames than the
    widest one reaches; ``min_frames`` tells the separator how many.
    """
    reach = 0
    for module in list(masknet.modules()):
        if isinstance(module, Conv1d):
            reach = max(reach, module.dilation * (module.kernel_size - 1) // 2)
            if module.kernel_size == 1:
                module.padding = "valid"  # "same" copies the signal to add nothing
        for name, child in module.named_children():
            if isinstance(child, _STOCK_NORMS):
                setattr(module, name, _Float32Norm(child, norm_eps))
    masknet.min_frames = reach + 1


def fold_norm_eps(separator: MaskingSeparator) -> None:
    """Rescales a ConvTasNet so that SpeechBrain's own classes compute the same.

    They know no other epsilon than 1e-8. A norm with epsilon e of x is the norm with
    1e-8 of x sqrt(1e-8 / e). What comes before each norm has no bias and a PReLU or
    ReLU at most, so that its weights can carry the factor; the decoder takes back
    what the encoder got. It is exact, up to rounding. Works in place.
    """
    fold = fold_of_norm_eps(separator, norm_eps_of(separator), conv_tasnet.EPS)
    with torch.no_grad():
        for name, parameter in separator.named_parameters():
            parameter.mul_(fold.get(name, 1.0))
    for norm in _norms(separator):
        norm.eps = conv_tasnet.EPS


def fold_of_norm_eps(separator: nn.Module, before: float, after: float) -> dict[str, float]:
    """Parameter → the factor that makes up for another epsilon; empty if there is none."""
    if not isinstance(separator, MaskingSeparator) or not _norms(separator):
        return {}
    factor, weights = (after / before) ** 0.5, [separator.encoder.conv1d.weight]
    for module in separator.masknet.modules():
        if isinstance(module, conv_tasnet.TemporalBlock) and isinstance(
            module.layers["norm"], _Float32Norm
        ):
            weights.append(module.layers["conv"].conv.weight)
            weights.append(module.layers["DSconv"]["conv_0"].conv.weight)
    factors = dict.fromkeys(map(id, weights), factor) | {id(separator.decoder.weight): 1 / factor}
    return {n: factors[id(p)] for n, p in separator.named_parameters() if id(p) in factors}


def norm_eps_of(separator: nn.Module) -> float:
    """What a ConvTasNet adds to variances; SpeechBrain's for all others."""
    return next((norm.eps for norm in _norms(separator)), conv_tasnet.EPS)


def _norms(separator: nn.Module) -> list["_Float32Norm"]:
    if not isinstance(separator, MaskingSeparator):
        return []
    return [m for m in separator.masknet.modules() if isinstance(m, _Float32Norm)]


class _Float32Norm(nn.Module):
    """SpeechBrain's gLN or cLN in float32, whatever autocast says, with an own epsilon.

    In float16 1e-8 is 0: silence becomes 0 / 0. PyTorch's fused normalisation also
    takes a third off the time of a training step on CPU.
    """

    def __init__(self, stock: Any, eps: float) -> None:
        super().__init__()
        self.gamma, self.beta = stock.gamma, stock.beta
        self.eps, self.is_global = eps, isinstance(stock, conv_tasnet.GlobalLayerNorm)

    def forward(self, y: Tensor) -> Tensor:
        """``[batch, frames, channels]`` to the same shape."""
        with torch.autocast(y.device.type, enabled=False):
            y = y.float()
            if self.is_global:
                # Convolutions leave [batch, channels, frames] in memory, seen
                # transposed; all of it shares one mean, so that order saves a copy.
                y = y.transpose(1, 2)
                y = F.layer_norm(y, y.shape[1:], eps=self.eps).transpose(1, 2)
            else:
                y = F.layer_norm(y, y.shape[2:], eps=self.eps)
            return torch.addcmul(self.beta, self.gamma, y)


class DualPathMaskNet(Dual_Path_Model):
    """SpeechBrain's dual-path mask network, each block initialised on its own.

    ``Dual_Path_Model`` makes one block and copies it, so that all layers start with
    identical weights. Source: Luo et al. 2020, "Dual-path RNN"; Subakan et al. 2021,
    "SepFormer".
    """

    stock = Dual_Path_Model

    def __init__(
        self,
        in_channels: int,  # of the encoder
        out_channels: int,  # inside the blocks
        intra_model: Callable[[], nn.Module],  # within chunks, [batch, time, channels]
        inter_model: Callable[[], nn.Module],  # across chunks
        num_layers: int = 1,
        norm: str = "ln",  # "gln", "cln"
        skip_around_intra: bool = True,
        linear_layer_after_inter_intra: bool = True,  # an RNN needs it
        **kwargs: Any,  # K, frames in a chunk, num_spks … as for SpeechBrain's
    ) -> None:
        channels, models = (in_channels, out_channels), (intra_model(), inter_model())
        super().__init__(*channels, *models, num_layers=0, norm=norm, **kwargs)
        self.num_layers = num_layers
        block = (out_channels, norm, skip_around_intra, linear_layer_after_inter_intra)
        self.dual_mdl = nn.ModuleList(
            Dual_Computation_Block(intra_model(), inter_model(), *block) for _ in range(num_layers)
        )
        for part in self.modules():
            if isinstance(part, SBTransformerBlock) and part.use_positional_encoding:
                part.pos_enc = LongPositions(part.pos_enc.pe)


class LongPositions(nn.Module):
    """SpeechBrain's table of sinusoids, and beyond its 2,500 places the sinusoids themselves."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.pe: Tensor
        self.register_buffer("pe", table)
        self.computed = Positions(table.shape[2])

    def forward(self, frames: Tensor) -> Tensor:
        """``[batch, frames, channels]`` → ``[1, frames, channels]``."""
        if torch.jit.is_tracing() or frames.shape[1] > self.pe.shape[1]:
            positions: Tensor = self.computed(frames)
            return positions
        return self.pe[:, : frames.shape[1]].clone()


def _amp_epsilon(section: Settings, training: Settings) -> dict[str, Any]:
    """With AMP on, it was trained and evaluated with another epsilon everywhere."""
    use_amp = training.get("use_amp", bool, default=False)
    return {"norm_eps": float(training.number("amp_eps", above=0)) if use_amp else 1e-8}


def _positions(section: Settings, training: Settings) -> dict[str, Any]:
    section.only("d_model", section.get("N"))
    # Before there was positional encoding, files did not mention it.
    return {"use_positional_encoding": bool(section.get("use_positional_encoding", default=False))}


PREDECESSOR = {
    "convtasnet": Predecessor(
        "num_sources=C N kernel_size B H P X R norm_type mask_nonlinear",
        fixed={"causal": False},
        more=_amp_epsilon,
        convert=partial(rename, substitutions=[(r"^mask_net\.", "masknet.")]),
    ),
    "dprnn": Predecessor(
        "num_sources=C N kernel_size num_layers chunk_size rnn_type hidden_size",
        "bidirectional",
        fixed={"num_rnn_layers": 1, "norm_type": "ln"},
        convert=partial(rename, substitutions=[(r"^separator\.", "masknet.")]),
    ),
    "sepformer": Predecessor(
        "num_sources=C N kernel_size num_blocks num_layers nhead d_ffn dropout chunk_size",
        fixed={"causal": False},
        more=_positions,
        # Legacy files call the transformer what it is.
        convert=partial(rename, substitutions=[(r"\.transformer\.", ".mdl.")]),
    ),
}
