"""A corpus to pack, where its pack goes, and files of it that are small."""

import pytest

from custom_modules import packs
from custom_modules.manifest import arrow_files, packing
from tests.manifest.packed import FRAMES, make_corpus


@pytest.fixture
def small_files(monkeypatch):
    """Several Arrow files, and several batches in each."""
    monkeypatch.setattr(packing, "SHARD_BYTES", 10 * (2 * FRAMES + 44))
    monkeypatch.setattr(arrow_files, "BATCH_BYTES", 3 * (2 * FRAMES + 44))
    packs.forget()


@pytest.fixture
def corpus(tmp_path):
    return make_corpus(tmp_path / "Tiny")


@pytest.fixture
def target(tmp_path):
    return tmp_path / "packed"
