"""Whether a device that was asked for can be used."""

import torch

from custom_modules.errors import InputError


def check_device(device):
    """Refuses a device that is not there.

    Arguments
    ---------
    device : str
        As ``torch.device`` takes it.

    Raises
    ------
    InputError
        If it is not there.

    Example
    -------
    >>> check_device("cpu")
    >>> check_device("gpu")
    Traceback (most recent call last):
    custom_modules.errors.InputError: --device=gpu: is none; use cpu, cuda or cuda:1
    """
    try:
        found = torch.device(device)
    except RuntimeError:
        raise InputError(
            f"--device={device}: is none; use cpu, cuda or cuda:1"
        ) from None
    # Not by a tensor there: each process of many would take memory of the first GPU.
    if found.type == "cuda":
        count = torch.cuda.device_count()
        if (found.index or 0) >= count:
            raise InputError(
                f"--device={device}: {count} CUDA devices are in reach; "
                "leave the option out, or use cpu"
            )
        return
    try:
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"--device={device}: cannot be used ({reason})") from error
