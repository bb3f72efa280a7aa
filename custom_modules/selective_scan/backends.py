"""The one function of this package, and the table of backends that it takes from."""

import functools
import importlib
import logging
import math
from typing import NamedTuple

import torch
from torch import Tensor

from custom_modules.errors import InputError
from custom_modules.selective_scan.chunked import chunked_scan
from custom_modules.selective_scan.operator import Scan
from custom_modules.selective_scan.reference import reference_scan

logger = logging.getLogger(__name__)

_NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")
_announced: set[str] = set()


class BackendError(InputError, RuntimeError):
    """A backend that cannot be used; a command ends with it in one line."""


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """The recurrence of a selective state space model, for each channel::

        h[t] = exp(delta[t] A) h[t-1] + delta[t] B[t] u[t]
        y[t] = (C[t] · h[t] + D u[t]) silu(z[t])

    The arguments are those of mamba_ssm's ``selective_scan_fn`` (Gu and Dao 2023,
    "Mamba", algorithm 2): ``u``, ``delta`` and ``z`` are ``[batch, dim, time]``, A is
    ``[dim, state]``, B and C are ``[batch, state, time]`` or, for channels in equal
    groups, ``[batch, groups, state, time]``, D and ``delta_bias`` are ``[dim]``; the
    last state, returned behind the output on demand, is ``[batch, dim, state]``.
    States and exponentials are float32 whatever autocast says (float64 where ``u``
    is). The gradient cannot be differentiated again, except with ``"reference"``.

    ``"torch"`` works anywhere: compiled by Numba for float32 and less on CPUs
    (``"numba"``), where that is installed, and else in PyTorch's own operations
    (``"eager"``). ``"triton"`` and, if installed, ``"mamba_ssm"`` are for CUDA;
    ``"reference"`` is a plain loop for tests. ``"auto"`` takes the fastest that works;
    the log says once which.
    """
    tensors = (u, delta, A, B, C, D, z, delta_bias)
    _check_kinds(*tensors)
    _check_shapes(*tensors)
    scan = _BACKENDS[choose(backend, u, A.shape[1], return_last_state)].scan
    if B.dim() == 3:
        output, state = scan(*tensors, delta_softplus)
    else:
        output, state = _scan_groups(scan, tensors, delta_softplus)
    return (output, state) if return_last_state else output


def _check_kinds(u: Tensor, *others: Tensor | None) -> None:
    """Raises at the first argument that is no real tensor on the device of u."""
    for name, x in zip(_NAMES, (u, *others), strict=True):
        if x is None and name in ("D", "z", "delta_bias"):
            continue
        if not isinstance(x, Tensor) or not x.is_floating_point():
            kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise TypeError(f"{name} must be a tensor of real floats, not {kind}")
        if x.device != u.device:
            raise ValueError(f"{name} is on {x.device}, but u on {u.device}")


def _check_shapes(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, *others: Tensor | None
) -> None:
    """Raises ValueError at the first argument whose shape does not fit."""
    if u.dim() != 3 or not u.numel():
        raise ValueError(f"u must be [batch, dim, time] and not empty, not {list(u.shape)}")
    if A.dim() != 2 or not A.shape[1]:
        raise ValueError(f"A must be [dim, state], not {list(A.shape)}")
    (batch, dim, time), state = u.shape, A.shape[1]
    groups = list(B.shape[1:2]) if B.dim() == 4 else []
    if groups and (groups[0] < 1 or dim % groups[0]):
        raise ValueError(f"{dim} channels cannot be cut into {groups[0]} groups")
    signal, projection = [batch, dim, time], [batch, *groups, state, time]
    expected = [signal, [dim, state], projection, projection, [dim], signal, [dim]]
    given = (delta, A, B, C, *others)
    for name, x, shape in zip(_NAMES[1:], given, expected, strict=True):
        if x is not None and list(x.shape) != shape:
            raise ValueError(f"{name} must be {shape}, not {list(x.shape)}")


def _scan_groups(scan: Scan, tensors: tuple, delta_softplus: bool) -> tuple[Tensor, Tensor]:
    """Scans group after group: channels next to each other share B and C."""
    u, B = tensors[0], tensors[3]
    groups, results = B.shape[1], []
    width = u.shape[1] // groups
    for group in range(groups):
        channels, every = slice(group * width, (group + 1) * width), slice(None)
        # By the number of axes: D and delta_bias; A; u, delta and z; B and C.
        where = (channels, channels, (every, channels), (every, group))
        parts = [None if x is None else x[where[x.dim() - 1]] for x in tensors]
        results.append(scan(*parts, delta_softplus))
    output, state = (torch.cat(parts, 1) for parts in zip(*results, strict=True))
    return output, state


# Imported where they are called, as compilers follow imports but no cached function.
def _scan_by_numba(*arguments: Tensor | bool | None) -> tuple[Tensor, Tensor]:
    from custom_modules.selective_scan.compiled import compiled_scan

    return compiled_scan(*arguments)


def _scan_by_triton(*arguments: Tensor | bool | None) -> tuple[Tensor, Tensor]:
    from custom_modules.selective_scan.fused import fused_scan

    return fused_scan(*arguments)


@torch.compiler.disable
def _scan_by_mamba_ssm(u, delta, A, B, C, D, z, delta_bias, delta_softplus):
    """mamba_ssm's own, whose signals and parameters must be of certain dtypes."""
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    A, D, delta_bias = (None if x is None else x.float() for x in (A, D, delta_bias))
    delta, B, C, z = (None if x is None else x.to(u.dtype) for x in (delta, B, C, z))
    return selective_scan_fn(
        u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state=True
    )


class _Backend(NamedTuple):
    scan: Scan
    label: str = ""  # in the log, where the name does not say enough
    modules: tuple[str, ...] = ()  # that must be importable
    package: str = ""  # that they need, in words
    device: str = ""  # type of the only one; empty for any
    has_float64: bool = False
    most_states: float = math.inf
    differentiates_state: bool = True


_BACKENDS = {
    "mamba_ssm": _Backend(
        _scan_by_mamba_ssm,
        modules=("selective_scan_cuda", "mamba_ssm.ops.selective_scan_interface"),
        package="mamba_ssm with its CUDA extension",
        device="cuda",
        most_states=256,
        differentiates_state=False,
    ),
    "triton": _Backend(
        _scan_by_triton,
        modules=("custom_modules.selective_scan.fused",),
        package="the package triton",
        device="cuda",
    ),
    "numba": _Backend(
        _scan_by_numba,
        "torch, compiled by Numba (once, on first use)",
        modules=("custom_modules.selective_scan.compiled",),
        package="the package numba",
        device="cpu",
        most_states=256,
    ),
    "eager": _Backend(chunked_scan, "torch, not compiled", has_float64=True),
    "reference": _Backend(reference_scan, has_float64=True),
}
#: What ``auto`` tries first on a kind of device, the fastest first.
_FASTEST = {"cuda": ("mamba_ssm", "triton")}
#: What ``torch`` is, and ``auto`` tries last.
_TORCH = ("numba", "eager")
_DEVICES = {"cuda": "on a CUDA device", "cpu": "on a CPU"}


def check_backend(backend: str) -> None:
    """Raises ValueError for a name that means nothing, before anything is computed."""
    names = ("auto", "torch", *_BACKENDS)
    if backend not in names:
        known = ", ".join(names)
        raise ValueError(f"no selective scan backend {backend!r}; there are {known}")


def choose(backend: str, u: Tensor, states: int, return_last_state: bool) -> str:
    """The entry of the table that a name means for inputs and so many states.

    Raises ValueError for an unknown name, BackendError where it cannot be used.
    """
    check_backend(backend)
    if backend in _BACKENDS:
        reason = _obstacle(backend, u, states, return_last_state)
        if reason:
            raise BackendError(
                f"the selective scan's backend {backend} {reason}; auto takes one that works"
            )
        return backend
    fastest = _FASTEST.get(u.device.type, ()) if backend == "auto" else ()
    names = (*fastest, *_TORCH)
    name = next(x for x in names if not _obstacle(x, u, states, return_last_state))
    if backend == "auto":
        _announce(name)
    return name


@torch.compiler.assume_constant_result  # compilers call it while they trace
def _announce(name: str) -> None:
    if name not in _announced:
        _announced.add(name)
        logger.info("selective scan: backend %s", _BACKENDS[name].label or name)


def _obstacle(name: str, u: Tensor, states: int, return_last_state: bool) -> str | None:
    """Why a backend cannot be used for such inputs; None if it can."""
    backend = _BACKENDS[name]
    if u.dtype == torch.float64 and not backend.has_float64:
        return "computes in float32, but the input is float64"
    elsewhere = backend.device not in ("", u.device.type)
    if elsewhere and not (name == "triton" and _triton_is_interpreted()):
        return f"needs tensors {_DEVICES[backend.device]}, not {u.device}"
    if states > backend.most_states:
        return f"holds {backend.most_states} states, not {states}"
    differentiates = return_last_state and torch.is_grad_enabled()
    if differentiates and not backend.differentiates_state:
        return "does not differentiate the last state"
    return None if _is_there(name) else f"needs {backend.package}"


@torch.compiler.assume_constant_result  # compilers need not look into imports
def _is_there(name: str) -> bool:
    return _can_import(_BACKENDS[name].modules)


@functools.cache
def _can_import(modules: tuple[str, ...]) -> bool:
    try:
        for module in modules:
            importlib.import_module(module)
    except Exception:  # a package of a wrong version raises anything
        return False
    return True


def _triton_is_interpreted() -> bool:
    """Whether Triton's interpreter, which needs no GPU, is switched on."""
    if not _is_there("triton"):
        return False
    return importlib.import_module("triton").knobs.runtime.interpret
