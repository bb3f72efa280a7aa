"""Recordings to be separated: files in, files out."""
