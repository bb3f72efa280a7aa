"""SPMamba: a separator in the time-frequency domain, of bidirectional Mamba."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from custom_modules.models.gridnet import GridBlock, Spectrogram
from custom_modules.models.layers import deviation
from custom_modules.models.references import Predecessor, Settings


class SPMamba(nn.Module):
    """Separates complex spectrograms by TF-GridNet blocks with Mamba for LSTMs.

    ``checkpoint_blocks`` keeps, in training, only the inputs of each block's three
    parts: a fraction of the memory for a third more time. Source: Li et al. 2024,
    "SPMamba"; Wang et al. 2023, "TF-GridNet", section III.
    """

    def __init__(
        self,
        num_sources: int,
        n_fft: int = 256,  # samples in a frame
        stride: int = 64,  # samples between frames
        n_layers: int = 6,
        emb_dim: int = 16,  # channels of each time-frequency point
        emb_ks: int = 4,  # points that make one step of a Mamba
        emb_hs: int = 1,  # points between steps
        n_head: int = 4,
        qk_dim: int = 512,  # of queries and keys, over all frequencies, about
        eps: float = 1e-5,  # added to the variance by every norm
        checkpoint_blocks: bool = False,
        scan_backend: str = "auto",
    ) -> None:
        super().__init__()
        _check_sizes(
            num_sources=num_sources,
            n_fft=n_fft,
            stride=stride,
            n_layers=n_layers,
            emb_dim=emb_dim,
            emb_ks=emb_ks,
            emb_hs=emb_hs,
            n_head=n_head,
            qk_dim=qk_dim,
        )
        self.spectrogram = Spectrogram(n_fft, stride)
        self.encoder = nn.Sequential(
            nn.Conv2d(2, emb_dim, 3, padding=1), nn.GroupNorm(1, emb_dim, eps=eps)
        )
        grid = (emb_dim, emb_ks, emb_hs, n_fft // 2 + 1, n_head, qk_dim, eps)
        self.blocks = nn.ModuleList(
            GridBlock(*grid, scan_backend, checkpoint_blocks) for _ in range(n_layers)
        )
        self.decoder = nn.ConvTranspose2d(emb_dim, 2 * num_sources, 3, padding=1)

    def forward(self, mixture: Tensor) -> Tensor:
        """``[batch, time]``, at least one sample → ``[batch, time, sources]``."""
        scale = deviation(mixture)
        points = self.encoder(self.spectrogram(mixture / (scale + 1e-8)))
        # [batch, frames, freqs, channels]; the residual stream stays in float32
        points = points.permute(0, 2, 3, 1).float()
        for block in self.blocks:
            points = block(points)
        spectrograms = self.decoder(points.permute(0, 3, 1, 2))
        waveforms = self.spectrogram.invert(spectrograms, mixture.shape[1])
        return waveforms * scale.unsqueeze(2)


def _check_sizes(**sizes: int) -> None:
    """Raises ValueError with the first size that makes no model."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be 1 or more, not {size}")
    if sizes["stride"] >= sizes["n_fft"]:
        raise ValueError(
            f"stride must be below n_fft ({sizes['n_fft']}), for frames to overlap, "
            f"not {sizes['stride']}"
        )


def convert_state_dict(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames the parameters of the official SPMamba, or of one of its blocks, to ours.

    Heads that are modules of their own there are one here.

    >>> convert_state_dict({"blocks.0.intra_norm.gamma": torch.ones(1, 4, 1, 1)})
    {'blocks.0.along_freqs.norm.weight': tensor([1., 1., 1., 1.])}
    """
    heads: dict[str, dict[int, Tensor]] = {}
    converted = {}
    for name, value in state_dict.items():
        for pattern, replacement in _RENAMED:
            name = re.sub(pattern, replacement, name)
        head = re.search(r"(attention\.[a-z]+)_(\d+)", name)
        if head:
            name = name.replace(head[0], head[1])
            heads.setdefault(name, {})[int(head[2])] = value
        else:
            is_norm = name.endswith(("norm.weight", "norm.bias"))
            converted[name] = value.flatten() if is_norm else value
    for name, values in heads.items():
        converted[name] = _join_heads(name, [values[n] for n in sorted(values)])
    return converted


#: The official names and ours; those of heads still with their number.
_RENAMED = [
    (r"^conv\.", "encoder."),
    (r"^deconv\.", "decoder."),
    (r"\bintra_", "along_freqs."),
    (r"\binter_", "along_frames."),
    (r"norm\.gamma$", "norm.weight"),
    (r"norm\.beta$", "norm.bias"),
    (r"\b(forward|backward)_blocks\.0\.", r"\1_block."),
    (r"\battn_conv_Q_", "attention.queries_"),
    (r"\battn_conv_K_", "attention.keys_"),
    (r"\battn_conv_V_", "attention.values_"),
    (r"\battn_concat_proj\.", "attention.output_0."),
    (r"(attention\.\w+)\.0\.", r"\1.linear."),
    (r"(attention\.\w+)\.1\.weight$", r"\1.slope"),
    (r"(attention\.\w+)\.2\.gamma$", r"\1.gain"),
    (r"(attention\.\w+)\.2\.beta$", r"\1.offset"),
]


def _join_heads(key: str, values: list[Tensor]) -> Tensor:
    """Heads that follow each other in one tensor of ours."""
    if key.endswith(("gain", "offset")):  # [1, channels, 1, freqs] each
        return torch.stack([v.transpose(1, 2)[0] for v in values])
    joined = torch.cat(values)
    return joined.flatten(1) if key.endswith("linear.weight") else joined


def _sample_rate(section: Settings, training: Settings) -> dict[str, Any]:
    """Legacy files have it among the model's settings."""
    here = "sample_rate" in section.saved
    return {"sample_rate": section.get("sample_rate")} if here else {}


PREDECESSOR = {
    "spmamba": Predecessor(
        "num_sources=n_srcs n_head=attn_n_head qk_dim=attn_approx_qk_dim "
        "n_fft stride n_layers emb_dim emb_ks emb_hs eps",
        fixed={"window": "hann", "activation": "prelu"},
        half_kernel_stride=False,
        more=_sample_rate,
        convert=convert_state_dict,
    )
}
