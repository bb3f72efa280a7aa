"""From a corpus' tables and audio to the manifests that training reads.

:func:`polsess_prepare.prepare_polsess` goes this way: ``csv_tables`` reads a CSV, keeps
its file names inside the corpus and says who speaks; ``checks`` looks at the audio of
every row; ``duplicates`` finds what occurs twice; ``entries`` writes the manifest;
``report`` says what was seen, and remembers it. ``librimix`` does it for Libri2Mix.
"""
