"""TF-Locoformer: attention for what is far in time and frequency, convolutions for the near."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from custom_modules.errors import InputError, check_number
from custom_modules.models.gridnet import Spectrogram
from custom_modules.models.layers import GlobalNorm, deviation, sinusoids
from custom_modules.models.locoformer import LocoformerBlock
from custom_modules.models.references import as_named_there, rename, translate


class TFLocoformer(nn.Module):
    """Maps complex spectrograms, without masks, at a level of one.

    Source: Saijo et al. 2024, "TF-Locoformer: transformer with local modeling by
    convolution for speech separation and enhancement".
    """

    def __init__(
        self,
        num_sources: int,
        n_fft: int = 256,  # samples in a frame
        stride: int = 64,  # samples between frames
        n_layers: int = 4,
        emb_dim: int = 96,  # channels of each time-frequency point
        norm_groups: int | None = 4,  # of channels, by an RMS of their own; None: layer norms
        n_heads: int = 4,
        attention_dim: int = 128,  # channels of all heads
        ffn_dim: int | Sequence[int] = (128, 128),  # before and after attention, or after only
        ffn_kernel: int = 8,  # points
        ffn_stride: int = 1,  # points
        frequency_first: bool = True,
        dropout: float = 0.0,
        eps: float = 1e-5,
        checkpoint_blocks: bool = False,  # computed again in the backward pass
    ) -> None:
        super().__init__()
        ffn_dims = [ffn_dim] if isinstance(ffn_dim, int) else list(ffn_dim)
        sizes = {"num_sources": num_sources, "n_fft": n_fft, "stride": stride}
        sizes |= {"n_layers": n_layers, "emb_dim": emb_dim, "n_heads": n_heads}
        sizes |= {"attention_dim": attention_dim, "ffn_kernel": ffn_kernel}
        sizes |= {"norm_groups": 1 if norm_groups is None else norm_groups}
        _check_sizes(sizes | {"ffn_stride": ffn_stride}, ffn_dims)
        self.checkpoint_blocks = checkpoint_blocks
        self.spectrogram = Spectrogram(n_fft, stride)
        self.encoder = nn.Sequential(
            nn.Conv2d(2, emb_dim, 3, padding=1), GlobalNorm(emb_dim, eps=eps)
        )
        convs = (ffn_dims, ffn_kernel, ffn_stride)
        self.blocks = nn.ModuleList(
            LocoformerBlock(
                emb_dim, norm_groups, n_heads, attention_dim, *convs, frequency_first, dropout, eps
            )
            for _ in range(n_layers)
        )
        self.rotary_freqs: Tensor
        self.rotary_frames: Tensor
        for axis in ("freqs", "frames"):
            self.register_buffer(f"rotary_{axis}", sinusoids(attention_dim // n_heads))
        self.decoder = nn.ConvTranspose2d(emb_dim, 2 * num_sources, 3, padding=1)
        for name, parameter in self.named_parameters():  # gains stay 1
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, mixture: Tensor) -> Tensor:
        """``[batch, time]``, at least one sample → ``[batch, time, sources]``."""
        level = deviation(mixture)
        spectra = self.spectrogram(mixture / (level + 1e-8))  # silence is divided, too
        waveforms = self.spectrogram.invert(self.separate(spectra), mixture.shape[1])
        return waveforms * level.unsqueeze(2)

    def separate(self, spectra: Tensor) -> Tensor:
        """``[batch, real and imaginary, frames, freqs]`` → ``[batch, 2 sources, …]``."""
        # [batch, frames, freqs, channels]; the residual stream stays in float32
        points = self.encoder(spectra).permute(0, 2, 3, 1)
        rotary = (self.rotary_freqs, self.rotary_frames)
        is_checkpointed = self.checkpoint_blocks and torch.is_grad_enabled()
        for block in self.blocks:
            if is_checkpointed:
                points = checkpoint(block, points, *rotary, use_reentrant=False)
            else:
                points = block(points, *rotary)
        return self.decoder(points.permute(0, 3, 1, 2))


def _check_sizes(sizes: Mapping[str, int], ffn_dims: Sequence[int]) -> None:
    """Refuses the first size that makes no model, by its key."""
    for name, size in sizes.items():
        check_number(f"--{name}", size, least=1, whole=True)
    for size in ffn_dims:
        check_number("--ffn_dim", size, least=1, whole=True)
    if len(ffn_dims) not in (1, 2):
        raise InputError(f"--ffn_dim={ffn_dims}: must be one number or two")
    emb_dim, groups = sizes["emb_dim"], sizes["norm_groups"]
    n_heads, attention_dim = sizes["n_heads"], sizes["attention_dim"]
    if emb_dim % groups:
        raise InputError(f"--norm_groups={groups}: must divide emb_dim={emb_dim}")
    if attention_dim % (2 * n_heads):
        raise InputError(
            f"--attention_dim={attention_dim}: must be twice n_heads={n_heads}, or a multiple "
            "of that, for the channels of a head are turned in pairs"
        )
    for stride, whole, words in (
        ("stride", "n_fft", "must be below"),
        ("ffn_stride", "ffn_kernel", "must not be above"),
    ):
        if sizes[stride] > sizes[whole] - (words == "must be below"):
            raise InputError(f"--{stride}={sizes[stride]}: {words} {whole}={sizes[whole]}")


def from_reference(config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> TFLocoformer:
    """The authors' separator with its weights, in eval mode.

    ``config`` are the arguments of their separator and, as ``n_fft`` and ``hop_length``,
    of their STFT; without these, it is ``n_freqs`` that says, and frames overlap by half.
    Raises InputError with the key that makes no model.
    """
    config = {**_DEFAULTS, **{k: v for k, v in config.items() if k not in _IGNORED}}
    options = _convolutions(config)
    for key in ("dropout", "eps"):
        options[key] = config.pop(key)
        check_number(key, options[key], least=0, most=1)
    if "n_fft" not in config:
        check_number("n_freqs", config.get("n_freqs"), least=2, whole=True)
        config["n_fft"] = 2 * (config["n_freqs"] - 1)
    check_number("n_fft", config["n_fft"], least=2, whole=True)
    config.setdefault("hop_length", config["n_fft"] // 2)
    only: dict[str, tuple[Any, ...]] = {"n_freqs": (config["n_fft"] // 2 + 1,)}
    only |= {"norm_type": ("rmsgroupnorm", "layernorm"), "tf_order": ("ft", "tf")}
    sizes = translate(config, _NAMES, only=only)
    if config["norm_type"] == "layernorm":
        sizes["norm_groups"] = None
    options["frequency_first"] = config["tf_order"] == "ft"
    with as_named_there(_NAMES):
        separator = TFLocoformer(**sizes, **options)
    separator.load_state_dict(convert_state_dict(state_dict))
    return separator.eval()


def _convolutions(config: dict[str, Any]) -> dict[str, Any]:
    """Takes what says how many there are, one kind and width for each."""
    lists = []
    for key in ("ffn_type", "ffn_hidden_dim"):
        value = config.pop(key, None)
        if value is None:
            raise InputError(f"{key}: is missing in the configuration")
        lists.append(list(value) if isinstance(value, list | tuple) else [value])
    kinds, dims = lists
    if kinds != ["swiglu_conv1d"] * len(dims):
        raise InputError(f"ffn_type={kinds}: must be swiglu_conv1d for each of ffn_hidden_dim")
    if len(dims) not in (1, 2) or not all(isinstance(dim, int) and dim > 0 for dim in dims):
        raise InputError(f"ffn_hidden_dim={dims}: must be one whole number from 1, or two")
    return {"ffn_dim": dims}


_NAMES = (
    "num_sources=num_spk n_layers emb_dim n_heads attention_dim n_fft stride=hop_length "
    "norm_groups=num_groups ffn_kernel=conv1d_kernel ffn_stride=conv1d_shift"
)
_DEFAULTS = {"norm_type": "rmsgroupnorm", "num_groups": 4, "tf_order": "ft", "n_heads": 4}
_DEFAULTS |= {"attention_dim": 128, "conv1d_shift": 1, "dropout": 0.0, "eps": 1e-5}
_IGNORED = ("flash_attention", "input", "output", "input_dim")


def convert_state_dict(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames the parameters of the authors' separator to ours.

    >>> convert_state_dict({"deconv.bias": 1, "blocks.0.freq_path.ffn.1.conv1d.bias": 2})
    {'decoder.bias': 1, 'blocks.0.along_freqs.before.0.1.conv.bias': 2}
    """
    return rename(state_dict, _RENAMED)


#: Their names and ours; their lists of convolutions are stored from the last to the first.
_RENAMED = [
    (r"^(\w+\.)*?(?=(conv|deconv|blocks)\.)", ""),
    (r"^conv\.", "encoder."),
    (r"^deconv\.", "decoder."),
    (r"^blocks\.\d+\.freq_path\.attn\.rope\.freqs$", "rotary_freqs"),
    (r"^blocks\.\d+\.frame_path\.attn\.rope\.freqs$", "rotary_frames"),
    (r"\.(freq|frame)_path\.", r".along_\1s."),
    (r"\.ffn_norm\.0\.", ".after.0."),
    (r"\.ffn_norm\.1\.", ".before.0.0."),
    (r"\.ffn\.0\.", ".after.1."),
    (r"\.ffn\.1\.", ".before.0.1."),
    (r"conv1d\.(weight|bias)$", r"conv.\1"),
    (r"\.attn_norm\.", ".norm."),
    (r"\.attn\.", ".attention."),
    (r"\.aggregate_heads\.0\.", ".output."),
    (r"\.gamma$", ".gain"),
]
