"""What is refused before a tracker starts; the integration tests read its records."""

import pytest

from custom_modules.errors import InputError
from custom_modules.trackers import check_tracker, plain


def test_what_is_not_installed_is_refused():
    check_tracker("none")
    with pytest.raises(InputError, match="--tracker=paper: its package is not installed"):
        check_tracker("paper")


def test_objects_are_not_written_down():
    hparams = {"lr": 1.0e-3, "task": "SB", "opt_class": print, "__set_seed": None}
    assert plain(hparams) == {"lr": 0.001, "task": "SB"}
