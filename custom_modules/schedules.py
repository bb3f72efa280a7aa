"""The learning rate of every step: a warm-up, then the scheduler of the hparams file.

SpeechBrain's schedulers are of two kinds. Those called with the epoch's loss, as
ReduceLROnPlateau, run once the epoch is over; those called with nothing but the
optimiser, as NoamScheduler and :class:`CosineDecay`, before each of its steps.
"""

import inspect
import math
from pathlib import Path
from typing import Any

import torch
from speechbrain.utils.checkpoints import mark_as_loader, mark_as_saver, register_checkpoint_hooks
from torch.optim import Optimizer


@register_checkpoint_hooks
class CosineDecay:
    """From ``lr`` down to ``final`` of it along half a cosine, in ``total_steps``.

    Left at None they are all steps of the training after its warm-up: the Brain counts
    them. Source: Loshchilov and Hutter 2017, "SGDR", equation 5, one period.
    """

    def __init__(self, lr: float, final: float = 0.01, total_steps: int | None = None) -> None:
        self.lr, self.final, self.total_steps = lr, final, total_steps
        self.n_steps = 0

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
        torch.save({"n_steps": self.n_steps}, path)

    @mark_as_loader
    def load(self, path: Path, end_of_epoch: bool = False) -> None:
        self.n_steps = torch.load(path, weights_only=True)["n_steps"]


def runs_per_step(scheduler: Any) -> bool:
    """Whether it is of the kind that is called with the optimiser, before each step."""
    return [*inspect.signature(scheduler).parameters] == ["opt"]


def set_rate(optimizer: Optimizer, lr: float) -> None:
    """SpeechBrain's function, but for a line in the log at every step."""
    for group in optimizer.param_groups:
        group["lr"] = lr
