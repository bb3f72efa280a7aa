"""Mamba, with mamba_ssm's parameters and without its CUDA build."""

import math
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from custom_modules.selective_scan import check_backend, selective_scan

# Asked once: compilers cannot look into it.
_HAS_ONEDNN = torch.backends.mkldnn.is_available()


class Mamba(nn.Module):
    """The Mamba block; a ``mamba_ssm.Mamba`` state dict loads unchanged.

    Source: Gu and Dao 2023, "Mamba", section 3.4. Do not initialise this module again
    from outside: the bias of ``dt_proj`` sets the range of the step sizes.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: float = 2,  # inner channels per channel
        dt_rank: int | str = "auto",  # d_model / 16
        dt_min: float = 0.001,  # of the first step sizes, drawn log-uniformly
        dt_max: float = 0.1,
        dt_init: str = "random",  # or "constant": the weights of dt_proj
        dt_scale: float = 1.0,
        dt_init_floor: float = 1e-4,
        conv_bias: bool = True,
        bias: bool = False,
        scan_backend: str = "auto",
    ) -> None:
        super().__init__()
        check_backend(scan_backend)
        d_inner = int(expand * d_model)
        rank = math.ceil(d_model / 16) if dt_rank == "auto" else int(dt_rank)
        self.dt_rank, self.d_state, self.scan_backend = rank, d_state, scan_backend
        self.in_proj = Projection(d_model, 2 * d_inner, bias=bias)
        padding = d_conv - 1
        self.conv1d = nn.Conv1d(
            d_inner, d_inner, d_conv, padding=padding, groups=d_inner, bias=conv_bias
        )
        self.x_proj = Projection(d_inner, rank + 2 * d_state, bias=False)
        self.dt_proj = Projection(rank, d_inner)
        self._init_step_sizes(dt_init, dt_scale, (dt_min, dt_max), dt_init_floor)
        rates = torch.arange(1, d_state + 1, dtype=torch.float32)
        self.A_log = nn.Parameter(rates.log().repeat(d_inner, 1))
        self.D = nn.Parameter(torch.ones(d_inner))
        for parameter in (self.A_log, self.D):
            parameter._no_weight_decay = True  # type: ignore[attr-defined]
        self.out_proj = Projection(d_inner, d_model, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, time, d_model]`` to the same shape, at least one step."""
        if not x.shape[1]:
            raise ValueError(f"Mamba needs at least one step, not {list(x.shape)}")
        u, gate = self.in_proj(x).chunk(2, dim=2)
        return self.out_proj(self._mix(u, gate))

    def _mix(self, u: Tensor, gate: Tensor) -> Tensor:
        direction = (self.conv1d, self.x_proj, self.dt_proj, self.A_log, self.D)
        return self._scan(u, gate, direction)

    def _scan(self, u: Tensor, gate: Tensor, direction: tuple[Any, ...]) -> Tensor:
        """Convolves and scans along time, ``[batch, time, inner]`` twice to the same shape."""
        conv1d, x_proj, dt_proj, A_log, D = direction
        u = F.silu(convolve_causally(u, conv1d))
        steps, B, C = x_proj(u).split([self.dt_rank, self.d_state, self.d_state], dim=2)
        y = selective_scan(
            u.transpose(1, 2),
            dt_proj(steps, bias=False).transpose(1, 2),
            -torch.exp(A_log.float()),
            B.transpose(1, 2),
            C.transpose(1, 2),
            D.float(),
            z=gate.transpose(1, 2),
            delta_bias=dt_proj.bias.float(),
            delta_softplus=True,
            backend=self.scan_backend,
        )
        assert isinstance(y, Tensor)  # without the last state
        return y.transpose(1, 2)

    def _init_step_sizes(
        self, dt_init: str, dt_scale: float, limits: tuple[float, float], floor: float
    ) -> None:
        """Draws step sizes, and the bias whose softplus they are."""
        spread = dt_scale * self.dt_rank**-0.5
        if dt_init == "random":
            nn.init.uniform_(self.dt_proj.weight, -spread, spread)
        elif dt_init == "constant":
            nn.init.constant_(self.dt_proj.weight, spread)
        else:
            raise ValueError(f"dt_init must be random or constant, not {dt_init!r}")
        low, high = map(math.log, limits)
        steps = torch.empty_like(self.dt_proj.bias).uniform_(low, high)
        steps = steps.exp().clamp(min=floor)
        with torch.no_grad():
            self.dt_proj.bias.copy_(steps + torch.log(-torch.expm1(-steps)))
        self.dt_proj.bias._no_reinit = True  # type: ignore[attr-defined]


def convolve_causally(u: Tensor, conv1d: nn.Conv1d) -> Tensor:
    """Convolves each channel along time, ``[batch, time, inner]`` to the same shape."""
    # In two dimensions PyTorch convolves channels-last memory as it lies, on
    # CPU three times as fast as in one dimension.
    image = u.transpose(1, 2).unsqueeze(2)
    # Through two dimensions, for DDP to find the gradient laid out like the weight.
    kernel = conv1d.weight.flatten(1)[:, None, None]
    padding = (0, kernel.shape[3] - 1)
    image = F.conv2d(image, kernel, conv1d.bias, padding=padding, groups=len(kernel))
    return image[:, :, 0, : u.shape[1]].transpose(1, 2)


class Projection(nn.Linear):
    """A linear layer that takes sequences to oneDNN's convolution on CPUs.

    PyTorch's own goes to MKL, on AMD's processors half as fast:
    ``recipes/benchmark/spmamba_speed.py``, line ``linear``.
    """

    def forward(self, x: Tensor, bias: bool = True) -> Tensor:
        """``[…, in_features]`` → ``[…, out_features]``; ``bias``, if there is one."""
        added = self.bias if bias else None
        if not suits_onednn(x):
            return F.linear(x, self.weight, added)
        image, kernel = x.transpose(1, 2).unsqueeze(2), self.weight[:, :, None, None]
        return F.conv2d(image, kernel, added).squeeze(2).transpose(1, 2)


def suits_onednn(x: Tensor) -> bool:
    """Whether :class:`Projection` convolves: float64 goes to a slow loop there, traces do not."""
    if torch.jit.is_tracing():
        return False
    if x.dim() != 3 or x.device.type != "cpu" or x.dtype != torch.float32:
        return False
    return _HAS_ONEDNN and bool(torch.backends.mkldnn.enabled)


class BidirectionalMamba(nn.Module):
    """Two Mamba blocks, one of them backwards in time (SPMamba, section 3.2)."""

    def __init__(self, d_model: int, **kwargs: Any) -> None:  # as for Mamba
        super().__init__()
        self.forward_block = _ResidualMamba(d_model, **kwargs)
        self.backward_block = _ResidualMamba(d_model, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, time, d_model]`` → ``[batch, time, 2 d_model]``."""
        backward = self.backward_block(x.flip(1)).flip(1)
        return torch.cat([self.forward_block(x), backward], dim=2)


class BiMamba(Mamba):
    """Mamba in both directions between one pair of projections (BiMamba v2).

    Each direction convolves and scans with parameters of its own, the backward one over
    the reversed sequence and the reversed gate. The mean of both is projected. Source:
    Zhu et al. 2024, "Vision Mamba", section 3.3, with the names of its parameters.
    """

    def __init__(self, d_model: int, **kwargs: Any) -> None:  # as for Mamba
        super().__init__(d_model, **kwargs)
        backward = Mamba(d_model, **kwargs)  # but for its projections in and out
        self.conv1d_b, self.x_proj_b = backward.conv1d, backward.x_proj
        self.dt_proj_b = backward.dt_proj
        self.A_b_log, self.D_b = backward.A_log, backward.D

    def _mix(self, u: Tensor, gate: Tensor) -> Tensor:
        backward = (self.conv1d_b, self.x_proj_b, self.dt_proj_b, self.A_b_log, self.D_b)
        reverse = self._scan(u.flip(1), gate.flip(1), backward).flip(1)
        return (super()._mix(u, gate) + reverse) / 2


class MambaStack(nn.Module):
    """Residual blocks of a norm and a Mamba, and a norm behind the last.

    The residual stream is float32 whatever autocast says. ``checkpoint_blocks`` keeps, in
    training, only the inputs of blocks: a fraction of the memory for a third more time.
    """

    def __init__(
        self,
        d_model: int,
        n_layers: int,
        bidirectional: bool = True,
        rms_norm: bool = True,  # False: layer norms
        checkpoint_blocks: bool = False,
        **kwargs: Any,  # as for Mamba
    ) -> None:
        super().__init__()
        self.checkpoint_blocks = checkpoint_blocks
        mixer = BiMamba if bidirectional else Mamba
        norm = nn.RMSNorm if rms_norm else nn.LayerNorm
        layers = [_ResidualMamba(d_model, mixer, norm, **kwargs) for _ in range(n_layers)]
        with torch.no_grad():  # so that the stream's variance does not grow with depth
            for layer in layers:
                layer.mixer.out_proj.weight /= n_layers**0.5
        self.layers = nn.ModuleList(layers)
        self.norm_f = norm(d_model, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, time, d_model]`` to the same shape."""
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        is_checkpointed = self.checkpoint_blocks and torch.is_grad_enabled()
        for layer in self.layers:
            x = checkpoint(layer, x, use_reentrant=False) if is_checkpointed else layer(x)
        return self.norm_f(x)


class _ResidualMamba(nn.Module):
    def __init__(
        self,
        d_model: int,
        mixer: type[Mamba] = Mamba,
        norm: type[nn.RMSNorm] | type[nn.LayerNorm] = nn.RMSNorm,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        self.norm = norm(d_model, eps=1e-5)
        self.mixer = mixer(d_model, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mixer(self.norm(x))


def adam(
    parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
    lr: float,
    weight_decay: float = 0,
    decay_states: bool = False,
) -> torch.optim.Adam:
    """Adam that leaves out of weight decay what Mamba's authors mark; also of groups."""
    given = list(parameters)
    named = [x if isinstance(x, dict) else {"params": [x]} for x in given]
    settings = [{k: v for k, v in group.items() if k != "params"} for group in named]
    groups: list[dict[str, Any]] = []
    for known, group in zip(settings, named, strict=True):
        for parameter in group["params"]:
            is_spared = not decay_states and getattr(parameter, "_no_weight_decay", False)
            wanted = known | ({"weight_decay": 0} if is_spared else {})
            place = next((x for x in groups if x["settings"] == wanted), None)
            if place is None:
                groups.append(place := {"params": [], "settings": wanted})
            place["params"].append(parameter)
    groups.sort(key=lambda group: group["settings"].get("weight_decay") == 0)  # spared ones last
    groups = [{"params": group["params"], **group["settings"]} for group in groups]
    return torch.optim.Adam(groups, lr=lr, weight_decay=weight_decay)
