"""When a training has nothing more to gain."""

import math

import yaml
from speechbrain.utils.checkpoints import (
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)
from speechbrain.utils.epoch_loop import EpochCounterWithStopper

from custom_modules.errors import InputError


@register_checkpoint_hooks
class StoppingEpochCounter(EpochCounterWithStopper):
    """SpeechBrain's counter that stops early, for a value in dB to be maximised.

    SpeechBrain's counts a value as better that is above ``(1 - 1e-6) × best``.
    With positive values that is below the best: one that stays the same would
    never stop. Here only what is above the best is better. The patience may be
    changed between runs.

    Arguments
    ---------
    limit : int
        Epochs at most.
    patience : int, optional
        Epochs without a better value after which to stop. By default never.
    warmup : int
        Epochs that are not judged, such as those before a curriculum is complete.

    Raises
    ------
    InputError
        If a number does not fit.

    Example
    -------
    >>> counter = StoppingEpochCounter(100, patience=2, warmup=1)
    >>> values = iter([9.0, 3.0, 5.0, 5.0, 4.0, 6.0])
    >>> for epoch in counter:
    ...     counter.update_metric(next(values))
    >>> epoch, counter.best_score
    (5, 5.0)
    """

    def __init__(self, limit, patience=None, warmup=0):
        for name, value, least in (("patience", patience, 1), ("warmup", warmup, 0)):
            if name == "patience" and value is None:
                continue
            if type(value) is not int or value < least:
                raise InputError(
                    f"--early_stopping_{name}={value}: must be a whole number from "
                    f"{least}" + (", or null" if name == "patience" else "")
                )
        patience = math.inf if patience is None else patience
        super().__init__(limit, patience, warmup, direction="max")
        self.min_delta = 0
        self.best_limit = warmup

    @mark_as_saver
    def _save(self, path):
        super()._save(path)

    @mark_as_loader
    def _recover(self, path, end_of_epoch=True):
        with open(path, encoding="utf-8") as stream:
            saved = yaml.safe_load(stream)
        if not isinstance(saved, dict):  # by a counter that does not stop
            self.current = saved if end_of_epoch else saved - 1
            return
        super()._recover(path, end_of_epoch)
        self.best_limit = max(self.best_limit, self.limit_warmup)
        self.should_stop = self.current - self.best_limit >= self.limit_to_stop
