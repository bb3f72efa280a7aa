"""Timing several ways of doing the same in one run."""

import statistics
import time

REPEATS = 3


def time_alternately(ways, repeats=REPEATS):
    """Median seconds of each way; every other round runs backwards.

    Arguments
    ---------
    ways : dict of str to callable
    repeats : int
        Rounds that count. One more goes before them, to warm caches.

    Returns
    -------
    dict of str to float
    """
    seconds = {way: [] for way in ways}
    for repeat in range(repeats + 1):
        for way in list(ways) if repeat % 2 else reversed(ways):
            start = time.perf_counter()
            ways[way]()
            if repeat:
                seconds[way].append(time.perf_counter() - start)
    return {way: statistics.median(spent) for way, spent in seconds.items()}


def verdict(figure, goal, lower=False):
    """Whether a goal was reached, in words.

    Arguments
    ---------
    figure : float
    goal : float
    lower : bool
        Whether less is better.

    Returns
    -------
    str
    """
    reached = figure <= goal if lower else figure >= goal
    return f"goal {goal}: {'reached' if reached else 'MISSED'}"
