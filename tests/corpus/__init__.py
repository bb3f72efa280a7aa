"""Tests of the corpus generator."""
