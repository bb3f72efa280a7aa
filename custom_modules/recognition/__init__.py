"""Recognisers behind one interface, Polish text as it is compared, word errors."""
