"""Encoder–mask–decoder separators, built from SpeechBrain's own parts.

ConvTasNet, DPRNN and SepFormer differ in their mask network alone. Encoder,
mask network and decoder keep SpeechBrain's classes, parameter names and the
names ``encoder``, ``masknet`` and ``decoder``, so that trained weights also load
in its stock ``SepformerSeparation``.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from speechbrain.lobes.models import conv_tasnet
from speechbrain.lobes.models.dual_path import (
    Dual_Computation_Block,
    Dual_Path_Model,
    Encoder,
)
from speechbrain.nnet.CNN import Conv1d
from torch import Tensor, nn

#: Of SpeechBrain's gLN and cLN, added to the variance.
STOCK_EPS = 1e-8
_STOCK_NORMS = (conv_tasnet.GlobalLayerNorm, conv_tasnet.ChannelwiseLayerNorm)


class MaskingSeparator(nn.Module):
    """Masks a learned representation of the mixture, once per source.

    ``encoder``: ``[batch, time]`` → ``[batch, channels, frames]``, SpeechBrain's
    ``dual_path.Encoder``, also for ConvTasNet; ``masknet``: → ``[sources, batch,
    channels, frames]``; ``decoder``: back to ``[batch, time]``, with the encoder's
    kernel and stride. Source: Luo and Mesgarani 2019, "Conv-TasNet", section II.

    >>> from speechbrain.lobes.models.dual_path import Decoder, Encoder
    >>> encoder = Encoder(kernel_size=16, out_channels=8)
    >>> decoder = Decoder(8, 1, kernel_size=16, stride=8, bias=False)
    >>> masknet = ConvTasNetMaskNet(N=8, B=4, H=8, P=3, X=2, R=1, C=2)
    >>> separator = MaskingSeparator(encoder, masknet, decoder)
    >>> separator(torch.randn(3, 1001)).shape
    torch.Size([3, 1001, 2])
    >>> separator(torch.zeros(1, 1))
    tensor([[[0., 0.]]], grad_fn=<SliceBackward0>)
    """

    def __init__(
        self, encoder: Encoder, masknet: nn.Module, decoder: nn.ConvTranspose1d
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.masknet = masknet
        self.decoder = decoder

    def forward(self, mixture: Tensor) -> Tensor:
        """``[batch, time]``, at least one sample → ``[batch, time, sources]``."""
        batch, time = mixture.shape
        features = self.encoder(self._fill_last_frame(mixture))
        masks = self.masknet(features)  # [sources, batch, channels, frames]
        masked = (features * masks).flatten(0, 1)
        estimates = self.decoder(masked)  # [sources * batch, padded time]
        return estimates.view(-1, batch, estimates.shape[-1]).permute(1, 2, 0)[:, :time]

    def _fill_last_frame(self, mixture: Tensor) -> Tensor:
        """Pads with zeros, so that the frames reach the last sample."""
        kernel, stride = self.decoder.kernel_size[0], self.decoder.stride[0]
        time = mixture.shape[1]
        frames = 1 + max(0, -((kernel - time) // stride))
        frames = max(frames, getattr(self.masknet, "min_frames", 1))
        missing = kernel + (frames - 1) * stride - time
        return F.pad(mixture, (0, missing)) if missing else mixture


class ConvTasNetMaskNet(conv_tasnet.MaskNet):
    """SpeechBrain's ConvTasNet mask network with a normalisation safe in fp16.

    The sizes have the paper's names: encoder channels, bottleneck channels, channels in
    the blocks, kernel size, blocks in each repeat, repeats, sources. ``norm_eps`` is
    added to the variance by every gLN and cLN. The encoder's variances are near 1e-4 at
    speech level, so another value is another model: it must be the same in training and
    in use.
    """

    def __init__(
        self,
        N: int,
        B: int,
        H: int,
        P: int,
        X: int,
        R: int,
        C: int,
        norm_eps: float = STOCK_EPS,
        **kwargs: Any,  # as for SpeechBrain's
    ) -> None:
        super().__init__(N, B, H, P, X, R, C, **kwargs)
        improve_conv_tasnet(self, norm_eps)


def improve_conv_tasnet(
    masknet: conv_tasnet.MaskNet, norm_eps: float = STOCK_EPS
) -> None:
    """Makes SpeechBrain's mask network safe in fp16, faster, and fit for any length.

    Its convolutions reflect the signal at the edges, which takes more frames than the
    widest one reaches; ``min_frames`` tells the separator how many. Works in place;
    the parameters stay.

    >>> stock = conv_tasnet.MaskNet(N=8, B=4, H=8, P=3, X=3, R=1, C=2)
    >>> features = torch.rand(1, 8, 50)
    >>> before = stock(features)
    >>> improve_conv_tasnet(stock)
    >>> torch.allclose(stock(features), before, atol=1e-6), stock.min_frames
    (True, 5)
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

    >>> from speechbrain.lobes.models.dual_path import Decoder, Encoder
    >>> encoder = Encoder(kernel_size=16, out_channels=8)
    >>> decoder = Decoder(8, 1, kernel_size=16, stride=8, bias=False)
    >>> masknet = ConvTasNetMaskNet(8, B=4, H=8, P=3, X=2, R=1, C=2, norm_eps=1e-4)
    >>> separator = MaskingSeparator(encoder, masknet, decoder)
    >>> mixture = torch.randn(3, 1001) / 100
    >>> before = separator(mixture)
    >>> fold_norm_eps(separator)
    >>> torch.allclose(separator(mixture), before, atol=1e-8)
    True
    """
    norms = [m for m in separator.masknet.modules() if isinstance(m, _Float32Norm)]
    factor = (STOCK_EPS / norms[0].eps) ** 0.5
    with torch.no_grad():
        separator.encoder.conv1d.weight *= factor
        separator.decoder.weight /= factor
        for module in separator.masknet.modules():
            if not isinstance(module, conv_tasnet.TemporalBlock):
                continue
            pointwise, depthwise = module.layers["conv"], module.layers["DSconv"]
            if isinstance(module.layers["norm"], _Float32Norm):
                pointwise.conv.weight *= factor
                depthwise["conv_0"].conv.weight *= factor
    for norm in norms:
        norm.eps = STOCK_EPS


class _Float32Norm(nn.Module):
    """SpeechBrain's gLN or cLN in float32, whatever autocast says, with an own epsilon.

    SpeechBrain's layers add 1e-8 to a variance that autocast leaves in float16,
    where 1e-8 is 0: silence becomes 0 / 0. PyTorch's fused normalisation also
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
    identical weights. Here ``intra_model`` and ``inter_model`` make what works within
    and across chunks, ``[batch, time, channels]``, for each block again. An RNN needs
    ``linear_layer_after_inter_intra``. Source: Luo et al. 2020, "Dual-path RNN";
    Subakan et al. 2021, "SepFormer".

    >>> from functools import partial
    >>> from speechbrain.lobes.models.dual_path import SBRNNBlock
    >>> rnn = partial(SBRNNBlock, input_size=8, hidden_channels=4, num_layers=1)
    >>> masknet = DualPathMaskNet(8, 8, rnn, rnn, num_layers=2, K=10, num_spks=2)
    >>> masknet(torch.randn(3, 8, 55)).shape
    torch.Size([2, 3, 8, 55])
    """

    def __init__(
        self,
        in_channels: int,  # of the encoder
        out_channels: int,  # inside the blocks
        intra_model: Callable[[], nn.Module],
        inter_model: Callable[[], nn.Module],
        num_layers: int = 1,
        norm: str = "ln",  # "gln", "cln"
        skip_around_intra: bool = True,
        linear_layer_after_inter_intra: bool = True,
        **kwargs: Any,  # K, frames in a chunk, num_spks … as for SpeechBrain's
    ) -> None:
        def new_block() -> nn.Module:
            return Dual_Computation_Block(
                intra_model(),
                inter_model(),
                out_channels,
                norm,
                skip_around_intra=skip_around_intra,
                linear_layer_after_inter_intra=linear_layer_after_inter_intra,
            )

        super().__init__(
            in_channels,
            out_channels,
            intra_model(),
            inter_model(),
            num_layers=0,
            norm=norm,
            **kwargs,
        )
        self.num_layers = num_layers
        self.dual_mdl = nn.ModuleList(new_block() for _ in range(num_layers))
