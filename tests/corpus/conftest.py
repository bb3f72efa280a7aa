"""Settings of the corpus tests."""

from hypothesis import settings

# A shared machine may stall any example; how long one takes is not tested.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")
