"""Scans without a compiler."""

import sys
from contextlib import contextmanager

import pytest

from custom_modules.selective_scan import backends


@contextmanager
def without_numba():
    """Kernels, which each exported model compiles anew for seconds, are not there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "numba", None)
        backends._can_import.cache_clear()
        yield
    backends._can_import.cache_clear()
