"""Runs train.py and interferes with it at a chosen point.

python watched_training.py step:17 hparams.yaml …   dies there, as by ``kill -9``
python watched_training.py rank1:3 …        only the process of that rank does
python watched_training.py save:3 …         in the middle of the third file written
python watched_training.py record:FOLDER …  lists the mixtures of every epoch
python watched_training.py recipe:recognition …  of another recipe than separation

Several points may be named.
"""

import os
import runpy
import signal
import sys

import torch

from custom_modules.brain import Separation
from custom_modules.steps import ExactSteps


def kill_this_process():
    os.kill(os.getpid(), signal.SIGKILL)


def die_at_step(number):
    real, calls = ExactSteps.fit_batch, iter(range(1, int(number) + 1))

    def fit_batch(self, batch):
        if next(calls) == int(number):
            kill_this_process()
        return real(self, batch)

    ExactSteps.fit_batch = fit_batch


def die_in_rank_1(number):
    if os.environ["RANK"] == "1":
        die_at_step(number)


def die_in_save(number):
    real, calls = torch.save, iter(range(1, int(number) + 1))

    def save(obj, path, *args, **kwargs):
        real(obj, path, *args, **kwargs)
        if next(calls) == int(number):
            os.truncate(path, os.path.getsize(path) // 2)
            kill_this_process()

    torch.save = save


def record(folder):
    real = Separation.on_fit_batch_end

    def on_fit_batch_end(self, batch, *args):
        real(self, batch, *args)
        name = f"{folder}/{os.environ.get('RANK', 0)}.csv"
        with open(name, "a", encoding="utf-8") as stream:
            for i in range(self.share.mixtures):
                print(self.epoch, batch.id[i], batch.variant[i], sep=",", file=stream)

    Separation.on_fit_batch_end = on_fit_batch_end


POINTS = {"step": die_at_step, "rank1": die_in_rank_1, "save": die_in_save, "record": record}

if __name__ == "__main__":
    recipe = "separation"
    while not sys.argv[1].endswith(".yaml"):
        where, value = sys.argv.pop(1).split(":", 1)
        if where == "recipe":
            recipe = value
        else:
            POINTS[where](value)
    sys.argv[0] = f"recipes/{recipe}/train.py"
    runpy.run_path(sys.argv[0], run_name="__main__")
