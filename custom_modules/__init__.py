"""The library behind the PolSESS separation recipes."""
