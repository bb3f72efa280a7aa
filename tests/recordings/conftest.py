"""The model of known signals, for all tests of this folder that have no other."""

import pytest

from custom_modules.inference import PolSESSSeparation
from tests.recordings.halves import Halves


@pytest.fixture
def model():
    return PolSESSSeparation(
        {"separator": Halves()},
        {"sample_rate": 8000, "num_spks": 2},
        run_opts={"device": "cpu"},
        chunk_seconds=2,
    )
