"""What is evaluated: a trained checkpoint, or an exported folder."""

import hashlib
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from speechbrain.utils.autocast import AMPConfig
from speechbrain.utils.distributed import infer_device

from custom_modules.checkpoints import TRAIN_FIRST
from custom_modules.errors import InputError
from custom_modules.manifest.pool import available_cores

#: Forward passes that run side by side on a CPU, at most; each has its memory.
MAX_LANES = 4


class Model:
    """A separator on its device, ready to be tested.

    On a CPU each mixture is one forward pass in one thread, and several run side
    by side: as fast as a batch in several threads, and what a mixture scores
    depends on nothing but itself.

    Arguments
    ---------
    estimate : callable
        ``[batch, time]`` → ``[batch, time, sources]``.
    modules : torch.nn.Module
        What ``estimate`` runs; moved to the device and set to evaluation.
    sample_rate : int
        Hz.
    device : str or torch.device
    dtype : torch.dtype
        Autocast's; float32 is none.

    Example
    -------
    >>> class Halve(torch.nn.Module):
    ...     def forward(self, mixture):
    ...         return torch.stack([mixture / 2, mixture / 2], 2)
    >>> model = Model(Halve(), Halve(), 8000)
    >>> ((examples, estimates),) = model.separate_all([("a", torch.ones(1, 3))])
    >>> estimates.shape
    torch.Size([1, 3, 2])
    """

    def __init__(
        self, estimate, modules, sample_rate, device="cpu", dtype=torch.float32
    ):
        self.estimate, self.sample_rate = estimate, sample_rate
        self.device, self.dtype = torch.device(device), dtype
        self.modules = modules.to(self.device).eval()

    @property
    def lanes(self):
        """How many batches are separated side by side."""
        on_cpu = self.device.type == "cpu"
        return min(available_cores(), MAX_LANES) if on_cpu else 1

    def batch_size(self, wanted):
        """Rows of a batch: as many as wanted on a GPU, on a CPU one."""
        return 1 if self.device.type == "cpu" else wanted

    def separate_all(self, batches):
        """Separates batches, in order.

        Arguments
        ---------
        batches : iterable of (object, torch.Tensor)
            Anything, and mixtures ``[batch, time]``.

        Yields
        ------
        object
            What came with the mixtures.
        torch.Tensor
            Estimates on the device, float32, ``[batch, time, sources]``.
        """
        if self.device.type != "cpu":
            for what, mixtures in batches:
                yield what, self._separate(mixtures)
            return
        torch.set_num_threads(1)
        with ThreadPoolExecutor(self.lanes) as lanes:
            running = deque()
            for what, mixtures in batches:
                running.append((what, lanes.submit(self._separate, mixtures)))
                if len(running) > self.lanes:
                    what, estimates = running.popleft()
                    yield what, estimates.result()
            for what, estimates in running:
                yield what, estimates.result()

    def _separate(self, mixtures):
        with (
            torch.inference_mode(),
            torch.autocast(
                self.device.type, self.dtype, enabled=self.dtype != torch.float32
            ),
        ):
            return self.estimate(mixtures.to(self.device)).float()

    def fingerprint(self):
        """See :func:`fingerprint`."""
        return fingerprint(self.modules)


def fingerprint(modules):
    """A digest of the parameters and settings of all modules.

    Arguments
    ---------
    modules : torch.nn.Module

    Returns
    -------
    str
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, module in modules.named_modules():
        settings = {
            key: value
            for key, value in sorted(vars(module).items())
            if isinstance(value, (int, float, str)) and key != "training"
        }
        digest.update(f"{name} {type(module).__name__} {settings}".encode())
    for name, value in modules.state_dict().items():
        digest.update(name.encode())
        if isinstance(value, torch.Tensor):
            samples = value.detach().cpu()
            if samples.is_floating_point():
                samples = samples.float()
            digest.update(np.ascontiguousarray(samples.numpy()).tobytes())
    return digest.hexdigest()


def check_trained(hparams):
    """Refuses a training without checkpoints, before anything is written.

    Arguments
    ---------
    hparams : dict
        As for :func:`trained_model`.

    Raises
    ------
    InputError
        If there is no checkpoint, or it does not fit the model.
    """
    checkpointer = _checkpointer_of_model(hparams)
    if not checkpointer.has_checkpoints():
        raise _untrained(checkpointer)
    checkpointer.check_fit("separator")


def trained_model(hparams, run_opts):
    """The best checkpoint of a training.

    Arguments
    ---------
    hparams : dict
        ``checkpointer``, ``modules``, ``sample_rate``.
    run_opts : speechbrain.utils.run_opts.RunOptions

    Returns
    -------
    Model
    epoch : int
        That the checkpoint is of.

    Raises
    ------
    InputError
        If there is no checkpoint.
    """
    checkpointer = _checkpointer_of_model(hparams)
    found = checkpointer.recover_if_possible(max_key="si_sdr")
    if found is None:
        raise _untrained(checkpointer)
    separator = hparams["modules"]["separator"]
    model = Model(separator, separator, hparams["sample_rate"], **placement(run_opts))
    return model, found.meta["epoch"]


def _checkpointer_of_model(hparams):
    """Only the model's: schedulers and counters are the training's."""
    checkpointer = hparams["checkpointer"]
    checkpointer.recoverables = {"separator": hparams["modules"]["separator"]}
    return checkpointer


def _untrained(checkpointer):
    return InputError(
        f"{checkpointer.checkpoints_dir}: no checkpoint to test; {TRAIN_FIRST}"
    )


def placement(run_opts):
    """Where and in what precision a model is tested.

    Arguments
    ---------
    run_opts : speechbrain.utils.run_opts.RunOptions
        ``--device`` and ``--eval_precision``, which is fp32 by default.

    Returns
    -------
    dict
        ``device`` and ``dtype``.
    """
    return {
        "device": run_opts.device or infer_device(),
        "dtype": AMPConfig.from_name(run_opts.eval_precision).dtype,
    }
