"""What every test needs, doctests included."""

import sys

import pytest
import speechbrain  # noqa: F401
import torch
from hypothesis import settings
from speechbrain.utils.importutils import LazyModule

from tests.draws import DRAWS

# A shared machine may stall any example; how long one takes is not tested.
settings.register_profile("repeatable", deadline=None, derandomize=DRAWS == 0)
settings.load_profile("repeatable")

# Hypothesis reads __file__ of every loaded module, and SpeechBrain's lazy ones
# answer any attribute by importing packages that need not be installed.
for _module in list(sys.modules.values()):
    if isinstance(_module, LazyModule):
        _module.__file__ = None


@pytest.fixture(autouse=True)
def repeatable_draws():
    """What a test draws depends on no other test, nor on chance."""
    torch.manual_seed(DRAWS)
