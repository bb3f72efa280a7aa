"""From PolSESS's CSV tables to the manifests that training reads, and back.

:func:`polsess_prepare.prepare_polsess` goes this way: ``tables`` reads a CSV
(``cells`` its text) and ``paths`` keeps its file names inside the corpus;
``survey`` has the audio of every row looked at (``checks``, in the processes of
``pool``); ``duplicates`` finds what occurs twice; ``speakers`` adds who speaks;
``entries`` writes the manifest; ``report`` tells what was seen, and ``record``
remembers it. ``layout`` has the names that they share.

``reader`` is the way back, from a manifest to the training pipeline.
"""
