"""Runs train.py and kills its own process, as ``kill -9`` would, at a chosen point.

python die_while_training.py step:17 hparams.yaml --key=value …
python die_while_training.py save:3 …    in the middle of the third file written
"""

import os
import runpy
import signal
import sys

import torch

from custom_modules.brain import Separation


def kill_this_process():
    os.kill(os.getpid(), signal.SIGKILL)


def die_at_step(number):
    real, calls = Separation.fit_batch, iter(range(1, number + 1))

    def fit_batch(self, batch):
        if next(calls) == number:
            kill_this_process()
        return real(self, batch)

    Separation.fit_batch = fit_batch


def die_in_save(number):
    real, calls = torch.save, iter(range(1, number + 1))

    def save(obj, path, *args, **kwargs):
        real(obj, path, *args, **kwargs)
        if next(calls) == number:
            os.truncate(path, os.path.getsize(path) // 2)
            kill_this_process()

    torch.save = save


if __name__ == "__main__":
    where, number = sys.argv.pop(1).split(":")
    {"step": die_at_step, "save": die_in_save}[where](int(number))
    sys.argv[0] = "recipes/separation/train.py"
    runpy.run_path(sys.argv[0], run_name="__main__")
