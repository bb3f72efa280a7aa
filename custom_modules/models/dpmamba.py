"""DPMamba: a dual-path separator whose blocks are Mambas in both directions."""

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

from speechbrain.lobes.models.dual_path import Decoder, Encoder
from torch import Tensor

from custom_modules.errors import InputError, check_number
from custom_modules.models.mamba import MambaStack
from custom_modules.models.mamba_tasnet import predecessor_only
from custom_modules.models.masking import DualPathMaskNet, MaskingSeparator
from custom_modules.models.references import Predecessor, Settings, translate


class DPMamba(MaskingSeparator):
    """SepFormer with Mambas, within chunks and across, in place of transformers.

    Source: Jiang, Han and Mesgarani 2024, "Dual-path Mamba", section III.
    """

    def __init__(
        self,
        num_sources: int,
        N: int = 256,  # filters of the encoder
        kernel_size: int = 16,  # samples of a filter; the stride is half of it
        B: int = 256,  # channels of the Mambas
        num_layers: int = 8,  # each within chunks, then across
        n_mamba: int = 1,  # of each path in each layer
        chunk_size: int = 250,  # frames; chunks overlap by half
        skip_around_intra: bool = False,  # a residual connection around the first path
        d_state: int = 16,  # of each inner channel
        d_conv: int = 4,  # steps of the convolutions
        expand: int = 2,  # inner channels per channel
        bidirectional: bool = True,
        rms_norm: bool = True,
        checkpoint_blocks: bool = False,
        scan_backend: str = "auto",
        whole_frames: bool = False,
    ) -> None:
        sizes = {"num_sources": num_sources, "N": N, "B": B, "num_layers": num_layers}
        sizes |= {"n_mamba": n_mamba, "d_state": d_state, "d_conv": d_conv, "expand": expand}
        for name, size in sizes.items():
            check_number(f"--{name}", size, least=1, whole=True)
        for name, size in {"kernel_size": kernel_size, "chunk_size": chunk_size}.items():
            check_number(f"--{name}", size, least=2, whole=True)
        mambas = partial(
            MambaStack,
            B,
            n_mamba,
            bidirectional,
            rms_norm,
            checkpoint_blocks,
            d_state=d_state,
            d_conv=d_conv,
            expand=expand,
            scan_backend=scan_backend,
        )
        masknet = DualPathMaskNet(
            N,
            B,
            intra_model=mambas,
            inter_model=mambas,
            num_layers=num_layers,
            K=chunk_size,
            num_spks=num_sources,
            skip_around_intra=skip_around_intra,
            linear_layer_after_inter_intra=False,
        )
        decoder = Decoder(N, 1, kernel_size, stride=kernel_size // 2, bias=False)
        super().__init__(Encoder(kernel_size, N), masknet, decoder, whole_frames)


def from_reference(config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> DPMamba:
    """The reference's separator with its weights, or the predecessor's, in eval mode.

    As there, samples behind the last whole frame are 0, and ``n_mamba_dp`` Mambas are
    both paths' together. Raises InputError with the key that makes no model.
    """
    flags = "bidirectional rms_norm skip_around_intra"
    if "N_encoder_out" in config:
        names = "num_sources=num_spks N=N_encoder_out B=out_channels num_layers=n_dp kernel_size"
        names += " chunk_size n_mamba=n_mamba_dp d_state=ssm_dim d_conv=mamba_conv"
        names += " expand=mamba_expand"
        sizes = translate(config, names, flags, {"skip_n_block": (0,)})
    else:
        names = "num_sources=C N B=N num_layers kernel_size chunk_size n_mamba=n_mamba_dp"
        names += " d_state d_conv expand"
        sizes = translate(config, names, flags, predecessor_only(config))
    sizes["n_mamba"] //= 2
    if not sizes["n_mamba"]:
        raise InputError("n_mamba_dp=1: must be 2 or more, for both paths to have one")
    separator = DPMamba(**sizes, whole_frames=True)
    separator.load_state_dict(convert_state_dict(state_dict))
    return separator.eval()


def convert_state_dict(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames the parameters of the predecessor to ours, which are the reference's."""
    return {re.sub(r"^separator\.", "masknet.", k): v for k, v in state_dict.items()}


def _mambas_of_a_path(section: Settings, training: Settings) -> dict[str, Any]:
    """There both paths' are counted together."""
    both = section.number("n_mamba_dp", least=2, most=1000, whole=True)
    return {"n_mamba": both // 2, "whole_frames": True}


PREDECESSOR = {
    "dpmamba": Predecessor(
        "num_sources=C N B=N num_layers kernel_size chunk_size d_state d_conv expand",
        "bidirectional skip_around_intra",
        fixed={"rms_norm": True},
        more=_mambas_of_a_path,
        convert=convert_state_dict,
    )
}
