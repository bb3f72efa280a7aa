"""Process-wide settings that make PyTorch pleasant on a CPU.

Import nothing heavy here: some settings count only before torch is loaded.
"""

import ctypes
import logging
import os

_M_TRIM_THRESHOLD = -1  # glibc's numbers, malloc.h
_M_MMAP_THRESHOLD = -3
_ONE_GIB = 1 << 30


def prepare_process():
    """Sets what must be set before torch is imported. Scripts call it first.

    * Idle OpenMP threads sleep instead of spinning: with another job on a core,
      spinning made training steps up to 50 times slower.
    * Numba and matplotlib keep their notes on how they work to themselves, where a
      log file takes everything: Numba writes thousands of lines for a kernel.
    * SpeechBrain does not warn that torchvision, which nothing here needs, is missing.
    * glibc keeps large blocks instead of giving them back to the kernel after
      each use, whose page faults took up to half of a forward pass. Without
      glibc nothing happens.

    The environment's own ``OMP_WAIT_POLICY`` wins.

    Example
    -------
    >>> prepare_process()
    >>> "OMP_WAIT_POLICY" in os.environ
    True
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for name in ("numba", "matplotlib"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("speechbrain.utils.train_logger").addFilter(_is_of_use)
    keep_freed_blocks(_ONE_GIB)


def keep_freed_blocks(largest):
    """Has glibc keep freed blocks for reuse; without glibc nothing happens.

    Arguments
    ---------
    largest : int
        Bytes. Larger blocks go back to the kernel; at most 1 GiB. By itself glibc
        settles at 32 MiB.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, largest)
        mallopt(_M_TRIM_THRESHOLD, min(2 * largest, _ONE_GIB))  # glibc's own ratio


def _is_of_use(record):
    return "torchvision" not in record.getMessage()
