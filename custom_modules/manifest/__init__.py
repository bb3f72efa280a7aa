"""From PolSESS's CSV tables to the manifests that training reads.

``tables`` reads a CSV, ``paths`` keeps its file names inside the corpus,
``checks`` looks at the audio, ``duplicates`` at what occurs twice, ``entries``
writes the manifest, ``report`` tells what was seen and ``record`` remembers
it. :func:`polsess_prepare.prepare_polsess` calls them in this order.
"""
