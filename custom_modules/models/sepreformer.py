"""SepReformer: a U-Net of transformers that splits speakers early and rebuilds each."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from custom_modules.errors import InputError, check_number
from custom_modules.models.layers import GlobalNorm, float32, largest
from custom_modules.models.references import as_named_there
from custom_modules.models.reformer import Downsampling, FeedForward, Positions, SpeakerSplit, Stage
from custom_modules.models.reformer_names import NAMES, convert_config, convert_state_dict

_ENCODER_DEPTH, _DECODER_DEPTH = 2, 3  # pairs of a global and a local block in a stage


class SepReformer(nn.Module):
    """Separates encoded waveforms at several resolutions, without masks.

    With ``multi_stage``, in training only, it returns what each stage of the decoder begins
    with as well, as waveforms behind the estimates:
    :class:`custom_modules.objectives.MultiStageLoss` takes them. Source: Shin et al. 2024,
    "Separate and reconstruct: asymmetric encoder-decoder for speech separation".
    """

    def __init__(
        self,
        num_sources: int,
        N: int = 256,  # filters of the encoder
        kernel_size: int = 16,  # samples of a filter
        stride: int = 4,  # samples between frames
        emb_dim: int = 128,  # channels of the blocks
        num_stages: int = 4,  # each of half the frame rate of the one before
        n_head: int = 8,
        conv_size: int = 65,  # frames that a local block sees
        down_size: int = 5,  # frames that become one of half the rate
        max_distance: int = 2000,  # frames, of the coarsest; beyond, distances are alike
        dropout: float = 0.05,
        shared_split: bool = True,  # between resolutions
        multi_stage: bool = True,
        checkpoint_blocks: bool = False,  # feed-forward again in the backward pass
        whole_frames: bool = False,  # True, as in the reference: what fills none comes out as 0
    ) -> None:
        super().__init__()
        counts = {"num_sources": num_sources, "N": N, "kernel_size": kernel_size}
        counts |= {"stride": stride, "emb_dim": emb_dim, "num_stages": num_stages}
        counts |= {"n_head": n_head, "conv_size": conv_size, "down_size": down_size}
        counts |= {"max_distance": max_distance}
        _check_sizes(counts)
        self.num_sources, self.num_stages = num_sources, num_stages
        self.kernel_size, self.stride, self.whole_frames = kernel_size, stride, whole_frames
        self.encoder = nn.Conv1d(1, N, kernel_size, stride, bias=False)
        self.norm = GlobalNorm(N)
        self.bottleneck = nn.Linear(N, emb_dim, bias=False)
        self.positions = Positions(emb_dim // n_head, max_distance)
        stage = (emb_dim, n_head, conv_size, dropout)
        self.encoder_stages = nn.ModuleList(
            Stage(*stage, _ENCODER_DEPTH) for _ in range(num_stages + 1)
        )
        self.downsamplings = nn.ModuleList(
            Downsampling(emb_dim, down_size) for _ in range(num_stages)
        )
        self.splits = nn.ModuleList(
            SpeakerSplit(num_sources, emb_dim) for _ in range(1 if shared_split else num_stages + 1)
        )
        self.fusions = nn.ModuleList(nn.Linear(2 * emb_dim, emb_dim) for _ in range(num_stages))
        self.decoder_stages = nn.ModuleList(
            Stage(*stage, _DECODER_DEPTH, num_sources) for _ in range(num_stages)
        )
        self.head = Head(N, emb_dim, kernel_size, stride)
        # Of the stages of the decoder, the coarsest first
        self.stage_heads = nn.ModuleList(
            Head(N, emb_dim, kernel_size, stride) for _ in range(num_stages * multi_stage)
        )
        for module in self.modules():
            # They keep most, and know no running statistics, which would count twice.
            if isinstance(module, FeedForward):
                module.is_checkpointed = checkpoint_blocks

    def forward(self, mixture: Tensor) -> Tensor:
        """``[batch, time]``, at least one sample → ``[batch, time, sources]``.

        In training ``[batch, time, sources * (1 + stages)]``: behind the estimates those of
        the stages, the coarsest first.
        """
        batch, time = mixture.shape
        with torch.autocast(mixture.device.type, enabled=False):
            # In float16 the gradient of silence, which the norm raises, would overflow.
            encoded = F.gelu(self.encoder(self._fit_frames(float32(mixture)).unsqueeze(1)))
            normed = self.norm(encoded)
        features = self.bottleneck(normed.mT)  # [batch, frames, channels]
        output, before = self._separate(features)
        waveforms = [self.head(output)]
        if self.training:
            encoded = encoded.mT.repeat_interleave(self.num_sources, dim=0)
            for head, x in zip(self.stage_heads, before, strict=False):
                waveforms.append(head(_stretch(x, features.shape[1]), encoded))
        # [batch, outputs * sources, time]
        waves = torch.cat([w.unflatten(0, (batch, -1)) for w in waveforms], dim=1)
        return F.pad(waves, (0, largest(0, time - waves.shape[2])))[..., :time].mT

    def _fit_frames(self, mixture: Tensor) -> Tensor:
        """Pads with zeros, so that the frames reach the last sample, or cuts the last off."""
        over = mixture.shape[1] - self.kernel_size
        steps = (over + (0 if self.whole_frames else self.stride - 1)) // self.stride
        return F.pad(mixture, (0, largest(0, steps) * self.stride - over))

    def _separate(self, features: Tensor) -> tuple[Tensor, list[Tensor]]:
        """``[batch, frames, channels]`` → ``[batch * sources, frames, channels]``.

        And what each stage of the decoder begins with, at its frame rate, before it is joined.
        """
        frames = features.shape[1]
        x = F.pad(features, (0, 0, 0, -frames % 2**self.num_stages))
        positions = self.positions(x.shape[1] // 2**self.num_stages)
        skips = []
        for stage, downsampling in zip(self.encoder_stages, self.downsamplings, strict=False):
            skips.append(stage(x, positions))
            x = downsampling(skips[-1])
        *splits, split = self.splits if len(self.splits) > 1 else self._shared_splits()
        x = split(self.encoder_stages[-1](x, positions))
        before = []
        for fusion, stage in zip(self.fusions, self.decoder_stages, strict=True):
            before.append(x)
            skip = splits.pop()(skips.pop())
            x = fusion(torch.cat([_stretch(x, skip.shape[1]), skip], dim=2))
            x = stage(x, positions)
        return x[:, :frames], before

    def _shared_splits(self) -> Iterator[nn.Module]:
        return (self.splits[0] for _ in range(self.num_stages + 1))


class Head(nn.Module):
    """From channels back to waveforms."""

    def __init__(self, filters: int, channels: int, kernel_size: int, stride: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(channels, 4 * channels), nn.GLU(), nn.Linear(2 * channels, filters)
        )
        self.decoder = nn.ConvTranspose1d(filters, 1, kernel_size, stride, bias=False)

    def forward(self, x: Tensor, encoded: Tensor | None = None) -> Tensor:
        """``[items, frames, channels]`` → ``[items, time]``; a mask if it is for ``encoded``."""
        x = self.layers(x)
        if encoded is not None:
            x = F.relu(x) * encoded
        return self.decoder(x.mT).squeeze(1)


def _stretch(x: Tensor, frames: int) -> Tensor:
    """Repeats frames of ``[items, frames, channels]`` until there are so many."""
    return F.interpolate(x.mT, frames).mT


def _check_sizes(counts: Mapping[str, int]) -> None:
    """Refuses the first size that makes no model."""
    for name, count in counts.items():
        check_number(f"--{name}", count, least=1, whole=True)
    for name, other in (("n_head", "emb_dim"), ("stride", "kernel_size")):
        size, most = counts[name], counts[other]
        if name == "n_head" and most % size:
            raise InputError(f"--n_head={size}: must divide emb_dim={most}")
        if name == "stride" and size > most:
            raise InputError(f"--stride={size}: must be at most kernel_size={most}")
    for name in ("conv_size", "down_size"):
        if counts[name] % 2 == 0:
            raise InputError(f"--{name}={counts[name]}: must be odd, to have a middle")


def from_reference(config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> SepReformer:
    """The authors' separator with its weights, in eval mode.

    As there, samples behind the last whole frame are 0. Raises InputError with the key that
    makes no model.
    """
    sizes = convert_config(config)
    converted = convert_state_dict(state_dict, sizes["num_stages"])
    shared_split = "splits.1.norm.weight" not in converted
    multi_stage = "stage_heads.0.decoder.weight" in converted
    with as_named_there(NAMES):
        separator = SepReformer(
            **sizes, shared_split=shared_split, multi_stage=multi_stage, whole_frames=True
        )
    separator.load_state_dict(converted)
    return separator.eval()
