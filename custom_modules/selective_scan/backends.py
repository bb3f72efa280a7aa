"""Which backends there are, what stands in the way of each, and which is taken."""

import functools
import importlib
import logging

import torch

from custom_modules.errors import InputError
from custom_modules.selective_scan.chunked import chunked_scan
from custom_modules.selective_scan.reference import reference_scan

logger = logging.getLogger(__name__)

#: What ``auto`` tries on a kind of device, the fastest first, before ``torch``.
_FASTEST = {"cuda": ("mamba_ssm", "triton")}
#: The kernels of mamba_ssm and of numba hold no more states.
_MAX_STATES = 256

#: Where the functions are whose packages may be missing.
_OPTIONAL = {
    "numba": ("custom_modules.selective_scan.compiled", "compiled_scan"),
    "triton": ("custom_modules.selective_scan.fused", "fused_scan"),
    "mamba_ssm": ("mamba_ssm.ops.selective_scan_interface", "selective_scan_fn"),
}

#: Behind the backend's name in the log.
_REMARKS = {
    "numba": ", compiled by Numba (once, on first use)",
    "eager": ", not compiled",
}
_announced = set()


class BackendError(InputError, RuntimeError):
    """A backend that cannot be used; a command ends with it in one line."""


def check_backend(backend):
    """Refuses names that mean nothing, before anything is computed.

    Arguments
    ---------
    backend : str

    Raises
    ------
    ValueError
        If there is no such backend; names those there are.

    Example
    -------
    >>> check_backend("torch")
    """
    names = ("auto", "torch", *_SCANS)
    if backend not in names:
        known = ", ".join(names)
        raise ValueError(f"no selective scan backend {backend!r}; there are {known}")


def find_scan(backend, tensors, return_last_state):
    """The function of a backend, or of the one that ``auto`` takes.

    Arguments
    ---------
    backend : str
        As for :func:`custom_modules.selective_scan.selective_scan`.
    tensors : list of torch.Tensor or None
        Its arguments from ``u`` to ``delta_bias``.
    return_last_state : bool

    Returns
    -------
    callable
        Takes the tensors and ``delta_softplus``, returns output and last state.

    Raises
    ------
    ValueError
        If there is no such backend.
    BackendError
        If it cannot be used for these tensors; says why.
    """
    check_backend(backend)
    if backend == "auto":
        return _SCANS[_choose(tensors, return_last_state)]
    if backend == "torch":
        return _SCANS[_half_of_torch(tensors)]
    reason = _obstacle(backend, tensors, return_last_state)
    if reason:
        raise BackendError(
            f"the selective scan's backend {backend} {reason}; "
            "auto takes one that works"
        )
    return _SCANS[backend]


def _choose(tensors, return_last_state):
    """The fastest way that works, announced when it is first taken."""
    candidates = (*_FASTEST.get(tensors[0].device.type, ()), "torch")
    works = (x for x in candidates if not _obstacle(x, tensors, return_last_state))
    backend = next(works)
    way = _half_of_torch(tensors) if backend == "torch" else backend
    _announce(backend, way)
    return way


@torch.compiler.assume_constant_result  # compilers call it while they trace
def _announce(backend, way):
    if way not in _announced:
        _announced.add(way)
        logger.info("selective scan: backend %s%s", backend, _REMARKS.get(way, ""))


def _half_of_torch(tensors):
    """What ``torch`` is for these tensors: ``numba`` where it works, or ``eager``."""
    return "eager" if _obstacle("numba", tensors) else "numba"


def _obstacle(backend, tensors, return_last_state=False):
    """Why a backend cannot be used for these tensors; None if it can."""
    if backend in ("torch", "eager", "reference"):
        return None
    u, states = tensors[0], tensors[2].shape[1]
    if u.dtype == torch.float64:
        return "computes in float32, but the input is float64"
    if backend == "numba":
        return _obstacle_to_numba(u, states)
    if backend == "triton":
        if not u.is_cuda and not _interprets_triton():
            return f"needs tensors on a CUDA device, not {u.device}"
        return None if _is_there("triton") else "needs the package triton"
    if not u.is_cuda:
        return f"needs tensors on a CUDA device, not {u.device}"
    if states > _MAX_STATES:
        return f"holds {_MAX_STATES} states, not {states}"
    if return_last_state and torch.is_grad_enabled():
        return "does not differentiate the last state"
    found = _is_there("mamba_ssm")
    return None if found else "needs mamba_ssm with its CUDA extension"


def _obstacle_to_numba(u, states):
    if u.device.type != "cpu":
        return f"needs tensors on a CPU, not {u.device}"
    if states > _MAX_STATES:
        return f"holds {_MAX_STATES} states, not {states}"
    return None if _is_there("numba") else "needs the package numba"


@torch.compiler.assume_constant_result  # compilers need not look into imports
def _is_there(backend):
    return _load(backend) is not None


@functools.cache
def _load(backend):
    """A backend's function; None where its package is missing or broken."""
    module, function = _OPTIONAL[backend]
    try:
        if backend == "mamba_ssm":
            importlib.import_module("selective_scan_cuda")
        return getattr(importlib.import_module(module), function)
    except Exception:  # a package of a wrong version raises anything
        return None


def _interprets_triton():
    """Whether Triton's interpreter, which needs no GPU, is switched on."""
    return _is_there("triton") and _knob_is_set()


def _knob_is_set():
    return importlib.import_module("triton").knobs.runtime.interpret


# Imported where they are called, as compilers follow imports but no cached function.
def _scan_by_numba(*arguments):
    from custom_modules.selective_scan.compiled import compiled_scan

    return compiled_scan(*arguments)


def _scan_by_triton(*arguments):
    from custom_modules.selective_scan.fused import fused_scan

    return fused_scan(*arguments)


@torch.compiler.disable
def _scan_by_mamba_ssm(u, delta, A, B, C, D, z, delta_bias, delta_softplus):
    """mamba_ssm's own, whose signals and parameters must be of certain dtypes."""
    A, D, delta_bias = (None if x is None else x.float() for x in (A, D, delta_bias))
    delta, B, C, z = (None if x is None else x.to(u.dtype) for x in (delta, B, C, z))
    return _load("mamba_ssm")(
        u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state=True
    )


_SCANS = {
    "mamba_ssm": _scan_by_mamba_ssm,
    "triton": _scan_by_triton,
    "numba": _scan_by_numba,
    "eager": chunked_scan,
    "reference": reference_scan,
}
