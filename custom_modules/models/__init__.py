"""Separators: waveform ``[batch, time]`` in, sources ``[batch, time, sources]`` out."""
