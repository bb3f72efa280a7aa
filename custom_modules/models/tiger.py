"""TIGER: a small separator of spectra, cut into bands that are narrow where speech is dense."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from custom_modules.errors import InputError, check_number
from custom_modules.models.gridnet import Spectrogram
from custom_modules.models.interleaved import Path
from custom_modules.models.layers import GlobalNorm, float32
from custom_modules.models.references import as_named_there, translate

#: The published bands, ``(number, Hz)`` from 0 Hz up; what is left is one more.
PUBLISHED_BANDS = ((40, 25), (10, 100), (8, 250), (8, 500))
#: What the reference adds to the variance within a band.
_BAND_EPS = 2**-23


class TIGER(nn.Module):
    """Masks each band's spectrum by what one block, run again and again, makes of them all.

    Source: Xu et al. 2025, "TIGER: Time-frequency interleaved gain extraction and
    reconstruction for efficient speech separation", section 3.
    """

    def __init__(
        self,
        num_sources: int,
        sample_rate: int,  # Hz, which the bands are cut by
        n_fft: int = 640,  # samples in a frame
        stride: int = 160,  # samples between frames
        bands: Sequence[Sequence[float]] = PUBLISHED_BANDS,
        N: int = 128,  # channels of a band's frame
        H: int = 256,  # channels within the multi-scale attention
        num_blocks: int = 4,  # times that the block runs; 8 is the large model
        num_layers: int = 5,  # scales, each half as long as the one before
        nhead: int = 4,
        qk_dim: int = 4,  # channels of a head's queries and keys
        sums_to_mixture: bool = True,  # all sources add up to the mixture, as published
        checkpoint_blocks: bool = False,  # computed again in the backward pass
    ) -> None:
        super().__init__()
        sizes = {"num_sources": num_sources, "n_fft": n_fft, "stride": stride, "N": N, "H": H}
        sizes |= {"num_blocks": num_blocks, "num_layers": num_layers, "nhead": nhead}
        _check_sizes(**sizes, qk_dim=qk_dim)
        if sums_to_mixture and num_sources == 1:
            raise InputError("--sums_to_mixture=True: one source would be the mixture itself")
        self.num_blocks, self.sums_to_mixture = num_blocks, sums_to_mixture
        self.num_sources, self.checkpoint_blocks = num_sources, checkpoint_blocks
        self.spectrogram = Spectrogram(n_fft, stride)
        self.widths = cut_bands(bands, sample_rate, n_fft // 2 + 1)
        self.encoders = nn.ModuleList(
            nn.Sequential(GlobalNorm(2 * width, _BAND_EPS), nn.Conv1d(2 * width, N, 1))
            for width in self.widths
        )
        self.along_bands = Path(N, H, num_layers, nhead, qk_dim)
        self.along_frames = Path(N, H, num_layers, nhead, qk_dim)
        self.again = nn.Sequential(nn.Conv2d(N, N, 1, groups=N), nn.PReLU())
        outputs = 4 * num_sources  # values and gates of real and imaginary masks
        self.decoders = nn.ModuleList(
            nn.Sequential(nn.PReLU(), nn.Conv1d(N, outputs * width, 1, groups=num_sources))
            for width in self.widths
        )

    def forward(self, mixture: Tensor) -> Tensor:
        """``[batch, time]``, at least one sample → ``[batch, time, sources]``."""
        spectrum = self.spectrogram(mixture).transpose(2, 3)  # [batch, parts, freqs, frames]
        parts = spectrum.split(self.widths, dim=2)
        pairs = zip(self.encoders, parts, strict=True)
        encoded = [encode(part.flatten(1, 2)) for encode, part in pairs]
        # [batch, channels, bands, frames]; the residual stream stays in float32
        bands = first = float32(torch.stack(encoded, dim=2))
        for number in range(self.num_blocks):
            if number:
                bands = float32(self.again(first + bands))
            bands = self._run(self.along_bands, bands.transpose(2, 3)).transpose(2, 3)
            bands = self._run(self.along_frames, bands)
        decoders = zip(self.decoders, bands.unbind(2), self.widths, strict=True)
        masks = [self._masks(decode(band), width) for decode, band, width in decoders]
        real, imaginary = torch.cat(masks, dim=3).unbind(1)  # [batch, sources, freqs, frames]
        re, im = spectrum.unsqueeze(2).unbind(1)
        masked = [real * re - imaginary * im, real * im + imaginary * re]
        estimates = torch.stack(masked, dim=2).flatten(1, 2)
        return self.spectrogram.invert(estimates.transpose(2, 3), mixture.shape[1])

    def _run(self, path: nn.Module, points: Tensor) -> Tensor:
        if self.checkpoint_blocks and torch.is_grad_enabled():
            return checkpoint(path, points, use_reentrant=False)
        return path(points)

    def _masks(self, decoded: Tensor, width: int) -> Tensor:
        """A band's complex masks, ``[batch, real and imaginary, sources, freqs, frames]``."""
        value, gate = float32(decoded).unflatten(1, (2, 2, self.num_sources, width)).unbind(1)
        masks = value * gate.sigmoid()
        if not self.sums_to_mixture:
            return masks
        total = torch.tensor([1.0, 0.0], device=masks.device)[:, None, None, None]
        return masks - (masks.sum(2, keepdim=True) - total) / self.num_sources


def cut_bands(bands: Sequence[Sequence[float]], sample_rate: int, n_freqs: int) -> list[int]:
    """Bins of each band, of which the last is what is left below half the rate.

    >>> cut_bands([(2, 1000), (1, 1500)], sample_rate=8000, n_freqs=161)
    [40, 40, 60, 21]
    """
    widths: list[int] = []
    for number, hertz in bands:
        width = math.floor(hertz / (sample_rate / 2) * n_freqs)
        if width < 1:
            raise InputError(f"--bands: {hertz:g} Hz are less than a bin; use a larger --n_fft")
        widths += [width] * int(number)
    left = n_freqs - sum(widths)
    if left < 0:
        top = sum(number * hertz for number, hertz in bands)
        raise InputError(
            f"--bands: reach {top:g} Hz, where --sample_rate={sample_rate} "
            f"ends at {sample_rate // 2}; leave the upper ones out"
        )
    if left > max(widths) + len(widths):  # more than their rounding and one more band
        hertz = (n_freqs - left) / n_freqs * sample_rate / 2
        raise InputError(
            f"--bands: end at {hertz:.0f} Hz, where --sample_rate={sample_rate} reaches "
            f"{sample_rate // 2}; cut what is above, too"
        )
    return [*widths, left] if left else widths


def _check_sizes(**sizes: int) -> None:
    """Refuses the first size that makes no model."""
    for name, size in sizes.items():
        check_number(f"--{name}", size, least=1, whole=True)
    for name, whole in (("nhead", "N"), ("num_sources", "N")):
        if sizes[whole] % sizes[name]:
            raise InputError(f"--{name}={sizes[name]}: must divide {whole}={sizes[whole]}")
    if sizes["stride"] >= sizes["n_fft"]:
        raise InputError(f"--stride={sizes['stride']}: must be below n_fft={sizes['n_fft']}")


def from_reference(config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> TIGER:
    """The reference's separator with its weights, in eval mode.

    Raises InputError with the key that makes no model.
    """
    names = "num_sources sample_rate n_fft=win stride N=out_channels H=in_channels num_blocks"
    names += " num_layers=upsampling_depth nhead=att_n_head qk_dim=att_hid_chan"
    unused = ("att_kernel_size", "att_stride")  # by the reference's code
    given = {key: value for key, value in config.items() if key not in unused}
    with as_named_there(names):
        separator = TIGER(**translate(given, names))
    separator.load_state_dict(convert_state_dict(state_dict))
    return separator.eval()


def convert_state_dict(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames the reference's parameters to ours; heads are modules of their own there.

    >>> convert_state_dict({"BN.3.1.bias": torch.ones(2)})
    {'encoders.3.1.bias': tensor([1., 1.])}
    """
    heads: dict[str, dict[int, Tensor]] = {}
    converted = {}
    for name, value in state_dict.items():
        for pattern, replacement in _RENAMED:
            name = re.sub(pattern, replacement, name)
        if head := re.search(r"(queries|keys|values|output)\.(\d+)", name):
            ours = name.replace(head[0], head[1])
            is_norm = ours.endswith(("gain", "offset"))
            heads.setdefault(ours, {})[int(head[2])] = value.view(1, -1) if is_norm else value
        else:
            converted[name] = value.flatten() if ".norm." in name else value
    for name, values in heads.items():
        converted[name] = torch.cat([values[number] for number in sorted(values)])
    return converted


#: The reference's names and ours; those of heads still with their number.
_RENAMED = [
    (r"^BN\.", "encoders."),
    (r"^mask\.", "decoders."),
    (r"^separator\.concat_block\.", "again."),
    (r"^separator\.freq_path\.", "along_bands."),
    (r"^separator\.frame_path\.", "along_frames."),
    (r"\.1\.attn_concat_proj\.", ".output.0."),
    (r"\.1\.Queries\.", ".queries."),
    (r"\.1\.Keys\.", ".keys."),
    (r"\.1\.Values\.", ".values."),
    (r"(queries|keys|values|output)\.(\d+)\.conv\.", r"\1.\2.linear."),
    (r"(queries|keys|values|output)\.(\d+)\.act\.weight", r"\1.\2.slope"),
    (r"(queries|keys|values|output)\.(\d+)\.norm\.gamma", r"\1.\2.gain"),
    (r"(queries|keys|values|output)\.(\d+)\.norm\.beta", r"\1.\2.offset"),
    (r"\.2\.gamma$", ".norm.weight"),
    (r"\.2\.beta$", ".norm.bias"),
    (r"^(along_bands|along_frames)\.0\.", r"\1.scales."),
    (r"\.proj_1x1\.", ".enter."),
    (r"\.spp_dw\.", ".coarser."),
    (r"\.globalatt\.fc1\.", ".together.0."),
    (r"\.globalatt\.dwconv\.", ".together.1."),
    (r"\.globalatt\.fc2\.", ".together.3."),
    (r"\.loc_glo_fus\.", ".selections."),
    (r"\.last_layer\.", ".joins."),
    (r"\.local_embedding\.", ".kept."),
    (r"\.global_act\.", ".gate."),
    (r"\.global_embedding\.", ".added."),
    (r"\.res_conv\.", ".leave."),
    (r"\.conv\.", ".0."),
    (r"(scales\..*)\.norm\.", r"\1.1."),
    (r"\.act\.", ".2."),
]
