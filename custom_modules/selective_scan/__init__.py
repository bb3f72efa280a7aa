"""The selective scan of Mamba: one function, several backends, one result."""

from custom_modules.selective_scan.backends import BackendError, check_backend, selective_scan

__all__ = ["BackendError", "check_backend", "selective_scan"]
