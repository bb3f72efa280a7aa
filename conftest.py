"""What every test needs, doctests included."""

import sys

import speechbrain  # noqa: F401
from speechbrain.utils.importutils import LazyModule

# Hypothesis reads __file__ of every loaded module, and SpeechBrain's lazy ones
# answer any attribute by importing packages that need not be installed.
for _module in list(sys.modules.values()):
    if isinstance(_module, LazyModule):
        _module.__file__ = None
