"""Makes PolSESS-format corpora: sources, room acoustics, mixing.

Where to start reading: :mod:`custom_modules.corpus.generation` runs the whole,
:mod:`custom_modules.corpus.mixing` is the published procedure, and
:mod:`custom_modules.corpus.sources` says what a plug-in has to do.
"""
