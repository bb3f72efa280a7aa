"""What an epoch costs: time and memory."""

import sys
import time

import torch

try:
    import resource
except ImportError:  # Windows
    resource = None


class EpochCost:
    """Wall time and peak memory of an epoch, its interruptions not counted.

    Arguments
    ---------
    device : str or torch.device
        Whose memory is meant.
    spent : float
        Seconds that were spent on this epoch before a run was interrupted.

    Example
    -------
    >>> cost = EpochCost("cpu", spent=10.0)
    >>> cost.seconds() >= 10.0, cost.peak_memory_gb() > 0
    (True, True)
    """

    def __init__(self, device, spent=0.0):
        self.device = torch.device(device)
        self._start = time.monotonic() - spent
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def seconds(self):
        """Since the epoch began."""
        return time.monotonic() - self._start

    def peak_memory_gb(self):
        """Allocated on a GPU in this epoch, or held by the process since it began.

        Returns
        -------
        float
            GiB; NaN where it is not known.
        """
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**30
        if resource is None:
            return float("nan")
        unit = 1 if sys.platform == "darwin" else 2**10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
