"""What is refused before a tracker starts; the integration tests read its records."""

import pytest

from custom_modules.errors import InputError
from custom_modules.trackers import check_tracker, plain


@pytest.mark.parametrize(
    ("tracker", "mode", "message"),
    [
        ("wandb", "sometimes", "--wandb_mode=sometimes: choose one of online, offline"),
        ("paper", "online", "--tracker=paper: choose one of none, tensorboard, wandb"),
    ],
)
def test_what_does_not_exist_is_refused(tracker, mode, message):
    check_tracker("none", "offline")
    with pytest.raises(InputError, match=message):
        check_tracker(tracker, mode)


def test_objects_are_not_written_down():
    hparams = {"lr": 1.0e-3, "task": "SB", "opt_class": print, "__set_seed": None}
    assert plain(hparams) == {"lr": 0.001, "task": "SB"}
