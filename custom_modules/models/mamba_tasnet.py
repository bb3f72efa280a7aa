"""Mamba-TasNet: masks for a learned encoder, made by Mamba in both directions."""

import re
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from speechbrain.lobes.models.dual_path import Decoder, Encoder
from torch import Tensor, nn

from custom_modules.errors import check_number
from custom_modules.models.mamba import MambaStack
from custom_modules.models.masking import MaskingSeparator
from custom_modules.models.references import Predecessor, Settings, stride_of, translate


class MambaTasNet(MaskingSeparator):
    """ConvTasNet with Mambas, over the whole mixture, in place of convolutions.

    Source: Jiang et al. 2024, "Speech Slytherin", section III-A.
    """

    def __init__(
        self,
        num_sources: int,
        N: int = 256,  # filters of the encoder
        kernel_size: int = 16,  # samples of a filter; the stride is half of it
        B: int = 256,  # channels of the Mambas
        n_layers: int = 16,  # Mambas
        d_state: int = 16,  # of each inner channel
        d_conv: int = 4,  # steps of the convolutions
        expand: int = 2,  # inner channels per channel
        bidirectional: bool = True,
        rms_norm: bool = True,
        norm_eps: float = 1e-8,  # added to the variance of the encoder's frames
        checkpoint_blocks: bool = False,
        scan_backend: str = "auto",
        whole_frames: bool = False,
    ) -> None:
        sizes = {"num_sources": num_sources, "N": N, "B": B, "n_layers": n_layers}
        sizes |= {"d_state": d_state, "d_conv": d_conv, "expand": expand}
        for name, size in sizes.items():
            check_number(f"--{name}", size, least=1, whole=True)
        check_number("--kernel_size", kernel_size, least=2, whole=True)
        mambas = MambaStack(
            B,
            n_layers,
            bidirectional,
            rms_norm,
            checkpoint_blocks,
            d_state=d_state,
            d_conv=d_conv,
            expand=expand,
            scan_backend=scan_backend,
        )
        super().__init__(
            Encoder(kernel_size, N),
            MambaMaskNet(num_sources, N, B, mambas, norm_eps),
            Decoder(N, 1, kernel_size, stride=kernel_size // 2, bias=False),
            whole_frames,
        )


class MambaMaskNet(nn.Module):
    """A norm of each frame, a bottleneck, Mambas, and a mask for each source."""

    def __init__(
        self, num_sources: int, channels: int, bottleneck: int, mambas: nn.Module, norm_eps: float
    ) -> None:
        super().__init__()
        self.num_sources = num_sources
        self.layer_norm = nn.LayerNorm(channels, eps=norm_eps)
        self.bottleneck = nn.Linear(channels, bottleneck, bias=False)
        self.mamba_net = mambas
        self.mask_linear = nn.Linear(bottleneck, num_sources * channels, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """``[batch, channels, frames]`` → ``[sources, batch, channels, frames]``."""
        # In float16 the 1e-8 of the norm would be 0.
        features = features.to(torch.promote_types(features.dtype, torch.float32))
        frames = self.layer_norm(features.transpose(1, 2))
        masks = F.relu(self.mask_linear(self.mamba_net(self.bottleneck(frames))))
        return masks.unflatten(2, (self.num_sources, -1)).permute(2, 0, 3, 1)


def from_reference(config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> MambaTasNet:
    """The reference's separator with its weights, or the predecessor's, in eval mode.

    As there, samples behind the last whole frame are 0. Raises InputError with the key
    that makes no model.
    """
    flags = "bidirectional rms_norm"
    if "N_encoder_out" in config:
        names = "num_sources=num_spks N=N_encoder_out B=out_channels n_layers=n_mamba kernel_size"
        names += " d_state=ssm_dim d_conv=mamba_conv expand=mamba_expand"
        sizes = translate(config, names, flags)
    else:
        names = "num_sources=C N B=bot_dim n_layers=n_mamba kernel_size d_state d_conv expand"
        sizes = {"norm_eps": 1e-5, **translate(config, names, flags, predecessor_only(config))}
    separator = MambaTasNet(**sizes, whole_frames=True)
    separator.load_state_dict(convert_state_dict(state_dict))
    return separator.eval()


def predecessor_only(config: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    """What the predecessor's configurations hold beside sizes: our residuals are float32."""
    return {"stride": stride_of(config), "residual_in_fp32": (False, True)}


def convert_state_dict(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames the parameters of the reference, or of the predecessor, to ours.

    >>> convert_state_dict({"mamba_net.norm_f.weight": 1})
    {'masknet.mamba_net.norm_f.weight': 1}
    """
    converted = {}
    for name, value in state_dict.items():
        for pattern, replacement in _RENAMED:
            name = re.sub(pattern, replacement, name)
        if name.startswith("masknet.layer_norm."):
            value = value.flatten()
        elif name in ("masknet.bottleneck.weight", "masknet.mask_linear.weight"):
            value = value.flatten(1)
        converted[name] = value
    return converted


#: Names of the reference and of the predecessor, and ours.
_RENAMED = [
    (r"^(layer_norm|bottleneck|mamba_net|mask_linear)\.", r"masknet.\1."),
    (r"layer_norm\.gamma$", "layer_norm.weight"),
    (r"layer_norm\.beta$", "layer_norm.bias"),
    (r"bottleneck_conv1x1\.conv\.", "bottleneck."),
    (r"mask_conv1x1\.conv\.", "mask_linear."),
]


def _its_own(section: Settings, training: Settings) -> dict[str, Any]:
    """PyTorch's epsilon, and silence behind the last whole frame."""
    return {"norm_eps": 1e-5, "whole_frames": True}


PREDECESSOR = {
    "mamba_tasnet": Predecessor(
        "num_sources=C N B=bot_dim n_layers=n_mamba kernel_size d_state d_conv expand",
        "bidirectional",
        fixed={"rms_norm": True},
        more=_its_own,
        convert=convert_state_dict,
    )
}
