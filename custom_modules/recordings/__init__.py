"""Recordings to be separated: finding, reading, writing and reporting on them."""
