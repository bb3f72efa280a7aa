"""Recognisers of each tool, made once."""

import pytest

from tests.recognition import tiny_models


@pytest.fixture(scope="session")
def specs(tmp_path_factory):
    """Kind of model → what names it on a command line."""
    root = tmp_path_factory.mktemp("recognisers")
    return {
        "ctc": f"transformers:{tiny_models.wav2vec2(root / 'wav2vec2')}",
        "seq2seq": f"transformers:{tiny_models.whisper(root / 'hf_whisper')}",
        "whisper": f"whisper:{tiny_models.faster_whisper(root / 'whisper')},beam_size=1",
        "speechbrain": f"speechbrain:{tiny_models.speechbrain(root / 'speechbrain')}",
    }
