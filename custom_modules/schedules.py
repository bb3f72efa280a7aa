"""The learning rate of every step: a warm-up, then the scheduler of the hparams file.

SpeechBrain's schedulers are called in several ways, which the names of their arguments
tell. Those that ask for the optimiser, as NoamScheduler and :class:`CosineDecay`, run
before each of its steps; the others, as ReduceLROnPlateau, once an epoch is over.
"""

import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from speechbrain.nnet.schedulers import (
    InverseSquareRootScheduler,
    NewBobScheduler,
    update_learning_rate,
)
from speechbrain.utils.checkpoints import mark_as_loader, mark_as_saver, register_checkpoint_hooks
from torch.optim import Optimizer

from custom_modules.errors import InputError


@register_checkpoint_hooks
class CosineDecay:
    """From ``lr`` down to ``final`` of it along half a cosine, in ``total_steps``.

    Left at None they are all steps of the training after its warm-up, from
    ``first_epoch`` on: the Brain counts them. Source: Loshchilov and Hutter 2017, "SGDR",
    equation 5, one period.
    """

    def __init__(self, lr: float, final: float = 0.01, total_steps: int | None = None) -> None:
        self.lr, self.final, self.total_steps = lr, final, total_steps
        self.n_steps, self.first_epoch = 0, 0

    def __call__(self, opt: Optimizer) -> tuple[float, float]:
        """Sets the rate of the next step; the rate before, and this one."""
        before = opt.param_groups[0]["lr"]
        self.n_steps += 1
        done = min(self.n_steps / (self.total_steps or 1), 1.0)
        height = (1 + math.cos(math.pi * done)) / 2
        set_rate(opt, self.lr * (self.final + (1 - self.final) * height))
        return before, opt.param_groups[0]["lr"]

    @mark_as_saver
    def save(self, path: Path) -> None:
        torch.save({"n_steps": self.n_steps, "first_epoch": self.first_epoch}, path)

    @mark_as_loader
    def load(self, path: Path, end_of_epoch: bool = False) -> None:
        saved = torch.load(path, weights_only=True)
        self.n_steps, self.first_epoch = saved["n_steps"], saved.get("first_epoch", 1)


#: What schedulers can ask for, before each step and after each epoch.
_PER_STEP = {"opt", "num_updates"}
_PER_EPOCH = {"optim_list", "current_epoch", "epoch", "current_loss", "metric_value"}


def check_scheduler(scheduler: Any) -> None:
    """Refuses what asks for something else; None leaves the rate alone."""
    asked = {"opt"} if scheduler is None else _asked_for(scheduler)
    if not asked or not (asked <= _PER_STEP or asked <= _PER_EPOCH):
        known = f"{', '.join(sorted(_PER_STEP))} or {', '.join(sorted(_PER_EPOCH))}"
        raise InputError(
            f"lr_scheduler: asks for {', '.join(sorted(asked)) or 'nothing'}; it can have {known}"
        )
    if isinstance(scheduler, InverseSquareRootScheduler):
        raise InputError(
            "lr_scheduler: what InverseSquareRootScheduler saves cannot be read back; take "
            "NoamScheduler"
        )


def runs_per_step(scheduler: Any) -> bool:
    """Whether it asks for the optimiser, and so is called before each step."""
    return scheduler is not None and "opt" in _asked_for(scheduler)


def rate_of_step(scheduler: Any, optimizer: Optimizer, step: int) -> None:
    """Lets a scheduler set the rate of a step, from 1 after the warm-up."""
    _call(scheduler, opt=optimizer, num_updates=step)


def rate_after_epoch(scheduler: Any, optimizer: Optimizer, epoch: int, loss: float) -> None:
    """Sets the rate of the next epoch, by the validation loss of this one."""
    if scheduler is None:
        return
    values = {"current_epoch": epoch, "epoch": epoch, "current_loss": loss, "metric_value": loss}
    if isinstance(scheduler, NewBobScheduler):  # its improvement is a share, of what is positive
        values["metric_value"] = 10 ** (loss / 10)
    _, rate = _call(scheduler, optim_list=[optimizer], **values)
    update_learning_rate(optimizer, rate)


def _asked_for(scheduler: Any) -> set[str]:
    return set(inspect.signature(_function(scheduler)).parameters)


def _function(scheduler: Any) -> Callable[..., Any]:
    """What is called: CyclicLRScheduler has a method for each step."""
    return getattr(scheduler, "on_batch_end", scheduler)


def _call(scheduler: Any, **values: Any) -> Any:
    asked = _asked_for(scheduler)
    return _function(scheduler)(**{n: value for n, value in values.items() if n in asked})


def set_rate(optimizer: Optimizer, lr: float) -> None:
    """SpeechBrain's function, but for a line in the log at every step."""
    for group in optimizer.param_groups:
        group["lr"] = lr
