"""Recordings of any length through a model that was trained on seconds."""

from custom_modules.longform.stitching import CHUNK_SECONDS, LongForm

__all__ = ["CHUNK_SECONDS", "LongForm"]
