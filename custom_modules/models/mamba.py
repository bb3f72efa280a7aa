"""Mamba, with mamba_ssm's parameters and without its CUDA build."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from custom_modules.selective_scan import check_backend, selective_scan

# Asked once: compilers cannot look into it.
_HAS_ONEDNN = torch.backends.mkldnn.is_available()


class Mamba(nn.Module):
    """The Mamba block; a ``mamba_ssm.Mamba`` state dict loads unchanged.

    ``A_log`` and ``D`` carry the attribute ``_no_weight_decay``, as their authors
    mark them. Do not initialise this module again from outside: the bias of
    ``dt_proj`` sets the range of the step sizes.

    Source: Gu and Dao 2023, "Mamba: Linear-time sequence modeling with selective
    state spaces", section 3.4.

    Arguments
    ---------
    d_model : int
        Channels of input and output.
    d_state : int
        Size of each channel's state.
    d_conv : int
        Kernel of the causal depthwise convolution, in steps.
    expand : float
        Inner channels per channel.
    dt_rank : int or "auto"
        Rank of the projection to step sizes; ``"auto"`` is ``d_model / 16``.
    dt_min, dt_max, dt_init_floor : float
        Step sizes are initialised log-uniformly in this range, and cut below.
    dt_init : str
        ``"random"`` or ``"constant"`` weights of ``dt_proj``.
    dt_scale : float
        Scale of these weights.
    conv_bias, bias : bool
        Whether the convolution and the two outer projections have a bias.
    scan_backend : str
        See :func:`custom_modules.selective_scan.selective_scan`.

    Example
    -------
    >>> mamba = Mamba(8, expand=4)
    >>> mamba(torch.randn(3, 50, 8)).shape
    torch.Size([3, 50, 8])
    """

    def __init__(
        self,
        d_model,
        d_state=16,
        d_conv=4,
        expand=2,
        dt_rank="auto",
        dt_min=0.001,
        dt_max=0.1,
        dt_init="random",
        dt_scale=1.0,
        dt_init_floor=1e-4,
        conv_bias=True,
        bias=False,
        scan_backend="auto",
    ):
        super().__init__()
        check_backend(scan_backend)
        d_inner = int(expand * d_model)
        self.dt_rank = math.ceil(d_model / 16) if dt_rank == "auto" else dt_rank
        self.d_state = d_state
        self.scan_backend = scan_backend
        self.in_proj = Projection(d_model, 2 * d_inner, bias=bias)
        self.conv1d = nn.Conv1d(
            d_inner,
            d_inner,
            d_conv,
            groups=d_inner,
            padding=d_conv - 1,
            bias=conv_bias,
        )
        self.x_proj = Projection(d_inner, self.dt_rank + 2 * d_state, bias=False)
        self.dt_proj = Projection(self.dt_rank, d_inner)
        self._init_step_sizes(dt_init, dt_scale, (dt_min, dt_max), dt_init_floor)
        rates = torch.arange(1, d_state + 1, dtype=torch.float32)
        self.A_log = nn.Parameter(rates.log().repeat(d_inner, 1))
        self.D = nn.Parameter(torch.ones(d_inner))
        self.A_log._no_weight_decay = self.D._no_weight_decay = True
        self.out_proj = Projection(d_inner, d_model, bias=bias)

    def forward(self, x):
        """``[batch, time, d_model]`` to the same shape.

        Raises
        ------
        ValueError
            If there is not a single step.
        """
        if not x.shape[1]:
            raise ValueError(f"Mamba needs at least one step, not {list(x.shape)}")
        u, gate = self.in_proj(x).chunk(2, dim=2)
        u = F.silu(self._convolve(u))  # [batch, time, inner]
        steps, B, C = self.x_proj(u).split(
            [self.dt_rank, self.d_state, self.d_state], dim=2
        )
        y = selective_scan(
            u.transpose(1, 2),
            self.dt_proj(steps, bias=False).transpose(1, 2),
            -torch.exp(self.A_log.float()),
            B.transpose(1, 2),
            C.transpose(1, 2),
            self.D.float(),
            z=gate.transpose(1, 2),
            delta_bias=self.dt_proj.bias.float(),
            delta_softplus=True,
            backend=self.scan_backend,
        )
        return self.out_proj(y.transpose(1, 2))

    def _convolve(self, u):
        """Convolves along time, causally, ``[batch, time, inner]``."""
        # In two dimensions PyTorch convolves channels-last memory as it lies, on
        # CPU three times as fast as in one dimension.
        image = u.transpose(1, 2).unsqueeze(2)
        # Through two dimensions, for DDP to find the gradient laid out like the weight.
        kernel = self.conv1d.weight.flatten(1)[:, None, None]
        padding = (0, self.conv1d.padding[0])
        image = F.conv2d(
            image, kernel, self.conv1d.bias, padding=padding, groups=len(kernel)
        )
        return image[:, :, 0, : u.shape[1]].transpose(1, 2)

    def _init_step_sizes(self, dt_init, dt_scale, limits, floor):
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
        self.dt_proj.bias._no_reinit = True


class Projection(nn.Linear):
    """A linear layer that takes sequences to oneDNN's convolution on CPUs.

    PyTorch's own goes to MKL on most of them, which on AMD's processors takes about
    twice as long: ``recipes/benchmark/spmamba.py`` has the ratio for a whole model.

    Arguments
    ---------
    *args, **kwargs
        As for ``torch.nn.Linear``.

    Example
    -------
    >>> Projection(8, 5)(torch.randn(3, 50, 8)).shape
    torch.Size([3, 50, 5])
    """

    def forward(self, x, bias=True):
        """``[…, in_features]`` → ``[…, out_features]``.

        Arguments
        ---------
        x : torch.Tensor
            ``[batch, time, in_features]``, for the convolution.
        bias : bool
            Whether to add it, if there is one.
        """
        added = self.bias if bias else None
        if not suits_onednn(x):
            return F.linear(x, self.weight, added)
        image, kernel = x.transpose(1, 2).unsqueeze(2), self.weight[:, :, None, None]
        return F.conv2d(image, kernel, added).squeeze(2).transpose(1, 2)


def suits_onednn(x):
    """Whether :class:`Projection` convolves: float64 goes to a slow loop there.

    Arguments
    ---------
    x : torch.Tensor

    Returns
    -------
    bool

    Example
    -------
    >>> suits_onednn(torch.randn(8, 5)), suits_onednn(torch.randn(1, 8, 5).double())
    (False, False)
    """
    if x.dim() != 3 or x.device.type != "cpu" or x.dtype != torch.float32:
        return False
    return _HAS_ONEDNN and torch.backends.mkldnn.enabled


class BidirectionalMamba(nn.Module):
    """Two Mamba blocks, one of them backwards in time, side by side.

    Each normalises its input (RMS) and adds what it makes of it to it; the two
    results are concatenated.

    Source: Li et al. 2024, "SPMamba: State-space model is all you need in speech
    separation", section 3.2.

    Arguments
    ---------
    d_model : int
        Channels of the input; the output has twice as many.
    **kwargs
        As for :class:`Mamba`.

    Example
    -------
    >>> BidirectionalMamba(8)(torch.randn(3, 50, 8)).shape
    torch.Size([3, 50, 16])
    """

    def __init__(self, d_model, **kwargs):
        super().__init__()
        self.forward_block = _ResidualMamba(d_model, **kwargs)
        self.backward_block = _ResidualMamba(d_model, **kwargs)

    def forward(self, x):
        """``[batch, time, d_model]`` → ``[batch, time, 2 d_model]``."""
        backward = self.backward_block(x.flip(1)).flip(1)
        return torch.cat([self.forward_block(x), backward], dim=2)


class _ResidualMamba(nn.Module):
    def __init__(self, d_model, **kwargs):
        super().__init__()
        self.norm = nn.RMSNorm(d_model, eps=1e-5)
        self.mixer = Mamba(d_model, **kwargs)

    def forward(self, x):
        return x + self.mixer(self.norm(x))


def adam(parameters, lr, weight_decay=0, decay_states=False):
    """Adam that leaves out of weight decay what Mamba's authors mark.

    Arguments
    ---------
    parameters : iterable of torch.nn.Parameter
    lr : float
        Learning rate.
    weight_decay : float
    decay_states : bool
        Whether ``A_log`` and ``D`` decay like all others.

    Returns
    -------
    torch.optim.Adam

    Example
    -------
    >>> optimizer = adam(Mamba(4).parameters(), lr=1e-3, weight_decay=0.1)
    >>> [(len(g["params"]), g["weight_decay"]) for g in optimizer.param_groups]
    [(7, 0.1), (2, 0)]
    """
    decayed, spared = [], []
    for parameter in parameters:
        is_spared = not decay_states and getattr(parameter, "_no_weight_decay", False)
        (spared if is_spared else decayed).append(parameter)
    groups = [{"params": decayed}]
    if spared:
        groups.append({"params": spared, "weight_decay": 0})
    return torch.optim.Adam(groups, lr=lr, weight_decay=weight_decay)
