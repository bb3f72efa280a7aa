"""The page in a browser: recordings in, each speaker to hear, see and read."""
