"""Sharing pieces of work among processes, in order."""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

from custom_modules.workers import begin_worker

#: Rows per piece: enough that handing them over costs nothing beside reading
#: their files, few enough that the progress bar moves.
PIECE = 128


def available_cores():
    """How many cores this process may use.

    Returns
    -------
    int
    """
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        return os.cpu_count() or 1


def map_pieces(function, items, workers):
    """Applies a function to slices of a list, in order.

    Arguments
    ---------
    function : callable
        Takes a list of items, returns a list of results. With more than one
        worker it must be picklable and must not touch torch: on Linux the
        processes are forked, and torch's threads do not survive that.
    items : list
        What to work on.
    workers : int
        Number of processes; with 1, everything happens in this one.

    Yields
    ------
    object
        The results, one after the other.

    Example
    -------
    >>> def double(numbers):
    ...     return [2 * number for number in numbers]
    >>> list(map_pieces(double, [1, 2, 3], workers=1))
    [2, 4, 6]
    """
    pieces = [items[i : i + PIECE] for i in range(0, len(items), PIECE)]
    if workers <= 1 or len(pieces) <= 1:
        for piece in pieces:
            yield from function(piece)
        return
    pool = ProcessPoolExecutor(
        min(workers, len(pieces)),
        mp_context=process_context(),
        initializer=begin_worker,
    )
    try:
        for results in pool.map(function, pieces):
            yield from results
    finally:
        # Also when interrupted: do not finish what nobody waits for.
        pool.shutdown(cancel_futures=True)


def process_context():
    """How worker processes start.

    Returns
    -------
    multiprocessing.context.BaseContext
    """
    # Forked workers start at once; spawned ones would first import all that
    # the training script imports.
    methods = multiprocessing.get_all_start_methods()
    return multiprocessing.get_context("fork" if "fork" in methods else None)
