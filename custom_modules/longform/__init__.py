"""Recordings of any length through a model that was trained on seconds."""
