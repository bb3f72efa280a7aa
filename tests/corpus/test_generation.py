"""Workers that die, and workers that refuse."""

import os

import pytest

from custom_modules.corpus.generation import mixture_maker
from custom_modules.corpus.sources import Setup
from custom_modules.errors import InputError


class Failing:
    """A mixer whose every mixture ends its process, or is refused."""

    def __init__(self, folder, dies, workers=2):
        self.setup = Setup(folder, 8000, 1.0, 1, workers)
        self.dies = dies

    def mixture(self, subset, index):
        if self.dies:
            os._exit(9)
        raise InputError(f"{subset} {index} is bad")


def test_killed_worker_is_told_in_one_line(tmp_path):
    with (
        pytest.raises(InputError, match=r"worker process died.*fewer --workers"),
        mixture_maker(Failing(tmp_path, dies=True), state=None) as make,
    ):
        list(make([("train", 0), ("train", 1)]))


@pytest.mark.parametrize("workers", [1, 2])
def test_refusal_crosses_the_process_border(tmp_path, workers):
    with (
        mixture_maker(Failing(tmp_path, dies=False, workers=workers), None) as make,
        pytest.raises(InputError, match="train 0 is bad"),
    ):
        list(make([("train", 0), ("train", 1)]))
