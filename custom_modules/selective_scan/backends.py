"""Which backends there are, what stands in the way of each, and which is taken."""

import functools
import importlib
import logging

import torch

from custom_modules.errors import InputError
from custom_modules.selective_scan.chunked import chunked_scan
from custom_modules.selective_scan.reference import reference_scan

logger = logging.getLogger(__name__)

#: What ``auto`` tries on a GPU, the fastest first; elsewhere it takes ``torch``.
_ON_CUDA = ("mamba_ssm", "triton")
#: mamba_ssm's kernels hold no more states.
_MAMBA_SSM_STATES = 256

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
    if backend not in ("auto", *_SCANS):
        known = ", ".join(["auto", *_SCANS])
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
        backend = _choose(tensors, return_last_state)
    reason = _obstacle(backend, tensors, return_last_state)
    if reason:
        raise BackendError(
            f"the selective scan's backend {backend} {reason}; "
            "auto takes one that works"
        )
    return _SCANS[backend]


def _choose(tensors, return_last_state):
    """The fastest backend that works, announced when it is first taken."""
    backend = "torch"
    if tensors[0].is_cuda:
        works = (
            name for name in _ON_CUDA if not _obstacle(name, tensors, return_last_state)
        )
        backend = next(works, "torch")
    if not torch.compiler.is_compiling() and backend not in _announced:
        _announced.add(backend)
        logger.info("selective scan: backend %s", backend)
    return backend


def _obstacle(backend, tensors, return_last_state):
    """Why a backend cannot be used for these tensors; None if it can."""
    if backend in ("torch", "reference"):
        return None
    u, A = tensors[0], tensors[2]
    if u.dtype == torch.float64:
        return "computes in float32, but the input is float64"
    if backend == "triton":
        if not u.is_cuda and not _interprets_triton():
            return f"needs tensors on a CUDA device, not {u.device}"
        return None if _fused_scan() else "needs the package triton"
    if not u.is_cuda:
        return f"needs tensors on a CUDA device, not {u.device}"
    if A.shape[1] > _MAMBA_SSM_STATES:
        return f"holds {_MAMBA_SSM_STATES} states, not {A.shape[1]}"
    if return_last_state and torch.is_grad_enabled():
        return "does not differentiate the last state"
    return None if _mamba_ssm_scan() else "needs mamba_ssm with its CUDA extension"


@functools.cache
def _fused_scan():
    """The Triton backend's function; None where Triton is not installed."""
    try:
        return importlib.import_module("custom_modules.selective_scan.fused").fused_scan
    except ImportError:
        return None


def _interprets_triton():
    """Whether Triton's interpreter, which needs no GPU, is switched on."""
    return _fused_scan() is not None and _knob_is_set()


def _knob_is_set():
    return importlib.import_module("triton").knobs.runtime.interpret


@functools.cache
def _mamba_ssm_scan():
    """mamba_ssm's function; None where it or its extension is missing or broken."""
    try:
        importlib.import_module("selective_scan_cuda")
        interface = importlib.import_module("mamba_ssm.ops.selective_scan_interface")
    except (ImportError, OSError):
        return None
    return interface.selective_scan_fn


def _scan_by_triton(*arguments):
    return _fused_scan()(*arguments)


@torch.compiler.disable
def _scan_by_mamba_ssm(u, delta, A, B, C, D, z, delta_bias, delta_softplus):
    """mamba_ssm's own, whose signals and parameters must be of certain dtypes."""
    A, D, delta_bias = (None if x is None else x.float() for x in (A, D, delta_bias))
    delta, B, C, z = (None if x is None else x.to(u.dtype) for x in (delta, B, C, z))
    return _mamba_ssm_scan()(
        u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state=True
    )


_SCANS = {
    "mamba_ssm": _scan_by_mamba_ssm,
    "triton": _scan_by_triton,
    "torch": chunked_scan,
    "reference": reference_scan,
}
