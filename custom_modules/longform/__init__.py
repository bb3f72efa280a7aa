"""Recordings of any length and rate through a model that was trained on seconds."""

from custom_modules.audio import resample_blocks
from custom_modules.longform.stitching import CHUNK_SECONDS, LongForm

__all__ = ["CHUNK_SECONDS", "LongForm", "resample_blocks"]
