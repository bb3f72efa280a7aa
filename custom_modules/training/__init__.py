"""How a training goes: curriculum, exact steps, stopping, averages, trackers."""
