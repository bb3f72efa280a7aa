"""SPMamba: a separator in the time-frequency domain, of bidirectional Mamba.

Start reading at :class:`SPMamba`; :func:`convert_state_dict` takes weights of the
official implementation.
"""

import re

import torch
import torch.nn.functional as F
from torch import nn

from custom_modules.models.gridnet import GridBlock


class SPMamba(nn.Module):
    """Separates complex spectrograms by TF-GridNet blocks with Mamba for LSTMs.

    Silence is separated into silence, and mixtures of any length come out as long
    as they are.

    Source: Li et al. 2024, "SPMamba: State-space model is all you need in speech
    separation"; Wang et al. 2023, "TF-GridNet", section III.

    Arguments
    ---------
    num_sources : int
        Sources to estimate.
    n_fft : int
        Samples in a frame, under a Hann window.
    stride : int
        Samples between frames.
    n_layers : int
        Blocks.
    emb_dim : int
        Channels of each time-frequency point.
    emb_ks, emb_hs : int
        How many points make one step of a Mamba, and how many lie between steps.
    n_head : int
        Attention heads.
    qk_dim : int
        Size of queries and keys, over all frequencies, approximately.
    eps : float
        Added to the variance by every normalisation.
    checkpoint_blocks : bool
        In training, keep only the inputs of each block's three parts and compute
        the rest again in the backward pass: a fraction of the memory for a third
        more time.
    scan_backend : str
        See :func:`custom_modules.selective_scan.selective_scan`.

    Raises
    ------
    ValueError
        If a size is less than 1, or frames do not overlap.

    Example
    -------
    >>> separator = SPMamba(2, n_fft=64, stride=32, n_layers=1, emb_dim=4, qk_dim=33)
    >>> separator(torch.randn(3, 1001)).shape
    torch.Size([3, 1001, 2])
    >>> separator(torch.zeros(1, 1)).abs().max()
    tensor(0., grad_fn=<MaxBackward1>)
    """

    def __init__(
        self,
        num_sources,
        n_fft=256,
        stride=64,
        n_layers=6,
        emb_dim=16,
        emb_ks=4,
        emb_hs=1,
        n_head=4,
        qk_dim=512,
        eps=1e-5,
        checkpoint_blocks=False,
        scan_backend="auto",
    ):
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
        self.n_fft, self.stride = n_fft, stride
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        self.encoder = nn.Sequential(
            nn.Conv2d(2, emb_dim, 3, padding=1), nn.GroupNorm(1, emb_dim, eps=eps)
        )
        n_freqs = n_fft // 2 + 1
        self.blocks = nn.ModuleList(
            GridBlock(
                emb_dim,
                emb_ks,
                emb_hs,
                n_freqs,
                n_head,
                qk_dim,
                eps,
                scan_backend,
                checkpoint_blocks,
            )
            for _ in range(n_layers)
        )
        self.decoder = nn.ConvTranspose2d(emb_dim, 2 * num_sources, 3, padding=1)

    def forward(self, mixture):
        """Separates a batch of mixtures.

        Arguments
        ---------
        mixture : torch.Tensor
            Waveforms, ``[batch, time]``, at least one sample long.

        Returns
        -------
        torch.Tensor
            Estimated sources, ``[batch, time, sources]``.
        """
        scale = _deviation(mixture)
        points = self.encoder(self._spectrogram(mixture / (scale + 1e-8)))
        # [batch, frames, freqs, channels]; the residual stream stays in float32
        points = points.permute(0, 2, 3, 1).float()
        for block in self.blocks:
            points = block(points)
        spectrograms = self.decoder(points.permute(0, 3, 1, 2))
        return self._waveforms(spectrograms, mixture.shape[1]) * scale.unsqueeze(2)

    def _spectrogram(self, mixture):
        """``[batch, time]`` → ``[batch, real and imaginary, frames, freqs]``."""
        with torch.autocast(mixture.device.type, enabled=False):
            mixture = mixture.float()
            # Frames at the edges see the signal reflected, if it is long enough.
            missing = self.n_fft // 2 + 1 - mixture.shape[1]
            if missing > 0:
                mixture = F.pad(mixture, (0, missing))
            spectrogram = torch.stft(
                mixture,
                self.n_fft,
                self.stride,
                window=self.window,
                return_complex=True,
            )
            return torch.view_as_real(spectrogram).permute(0, 3, 2, 1)

    def _waveforms(self, spectrograms, time):
        """``[batch, 2 sources, frames, freqs]`` → ``[batch, time, sources]``."""
        with torch.autocast(spectrograms.device.type, enabled=False):
            parts = spectrograms.float().unflatten(1, (-1, 2))
            parts = parts.permute(0, 1, 4, 3, 2).contiguous()
            waveforms = torch.istft(
                torch.view_as_complex(parts).flatten(0, 1),
                self.n_fft,
                self.stride,
                window=self.window,
                length=max(time, self.n_fft // 2 + 1),
            )
        return waveforms.unflatten(0, parts.shape[:2])[:, :, :time].transpose(1, 2)


def _check_sizes(**sizes):
    """Raises ValueError with the first size that makes no model."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be 1 or more, not {size}")
    if sizes["stride"] >= sizes["n_fft"]:
        raise ValueError(
            f"stride must be below n_fft ({sizes['n_fft']}), for frames to overlap, "
            f"not {sizes['stride']}"
        )


def _deviation(mixture):
    """Standard deviation of each mixture, ``[batch, 1]``; one sample has none."""
    mixture = mixture.float()
    if mixture.shape[1] == 1:
        return mixture.abs()
    return mixture.std(dim=1, keepdim=True)


def convert_state_dict(state_dict):
    """Renames the parameters of the official SPMamba to those of ours.

    The predecessor of this project has the same names. Heads that are modules of
    their own there are one here, and 1 × 1 convolutions are linear layers:

    ==========================================  ==================================
    official                                    ours
    ==========================================  ==================================
    ``conv.*``, ``deconv.*``                    ``encoder.*``, ``decoder.*``
    ``intra_*``, ``inter_*``                    ``along_freqs.*``, ``along_frames.*``
    ``*_norm.gamma``, ``*_norm.beta``           ``norm.weight``, ``norm.bias``
    ``forward_blocks.0``, ``backward_blocks.0`` ``forward_block``, ``backward_block``
    ``attn_conv_Q_<head>``, ``K``, ``V``        ``attention.queries``, ``.keys``, …
    ``attn_concat_proj``                        ``attention.output``
    ==========================================  ==================================

    Arguments
    ---------
    state_dict : dict of str to torch.Tensor
        Of ``SPMamba``, or of one of its blocks; not modified.

    Returns
    -------
    dict of str to torch.Tensor

    Example
    -------
    >>> convert_state_dict({"blocks.0.intra_norm.gamma": torch.ones(1, 4, 1, 1)})
    {'blocks.0.along_freqs.norm.weight': tensor([1., 1., 1., 1.])}
    """
    heads, converted = {}, {}
    for name, value in state_dict.items():
        found = _HEAD.fullmatch(name)
        if found:
            block, kind, head, parameter = found.groups()
            module = f"{block}attention.{_HEAD_MODULES[kind]}"
            key = f"{module}.{_HEAD_PARAMETERS[parameter]}"
            heads.setdefault(key, {})[int(head or 0)] = value
        else:
            for pattern, replacement in _RENAMED:
                name = re.sub(pattern, replacement, name)
            is_norm = name.endswith(("norm.weight", "norm.bias"))
            converted[name] = value.flatten() if is_norm else value
    for key, values in heads.items():
        values = [values[head] for head in sorted(values)]
        converted[key] = _join_heads(key, values)
    return converted


_RENAMED = [
    (r"^conv\.", "encoder."),
    (r"^deconv\.", "decoder."),
    (r"\bintra_", "along_freqs."),
    (r"\binter_", "along_frames."),
    (r"norm\.gamma$", "norm.weight"),
    (r"norm\.beta$", "norm.bias"),
    (r"\b(forward|backward)_blocks\.0\.", r"\1_block."),
]
_HEAD = re.compile(
    r"(.*)attn_(?:conv_)?([QKV]|concat_proj)(?:_(\d+))?\."
    r"(0\.weight|0\.bias|1\.weight|2\.gamma|2\.beta)"
)
_HEAD_MODULES = {"Q": "queries", "K": "keys", "V": "values", "concat_proj": "output"}
_HEAD_PARAMETERS = {
    "0.weight": "linear.weight",
    "0.bias": "linear.bias",
    "1.weight": "slope",
    "2.gamma": "gain",
    "2.beta": "offset",
}


def _join_heads(key, values):
    """Heads that follow each other in one tensor of ours."""
    if key.endswith(("gain", "offset")):  # [1, channels, 1, freqs] each
        return torch.stack([v.transpose(1, 2)[0] for v in values])
    joined = torch.cat(values)
    return joined.flatten(1) if key.endswith("linear.weight") else joined
