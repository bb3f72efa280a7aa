"""Random numbers that depend on what they are for, not on what was drawn before."""

import hashlib

import numpy as np


def generator(*key):
    """A random generator of its own for each key.

    Arguments
    ---------
    *key : int or str
        What the numbers are for, such as ``(seed, "train", 17)``.

    Returns
    -------
    numpy.random.Generator

    Example
    -------
    >>> first = int(generator(42, "train", 0).integers(1000))
    >>> first == int(generator(42, "train", 0).integers(1000))
    True
    >>> first == int(generator(42, "train", 1).integers(1000))
    False
    """
    digest = hashlib.blake2b(repr(key).encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


def shuffled(items, *key):
    """The items in an order that depends on the key and on the items alone.

    Each item is ranked by a hash of its own, so that adding one item to a list
    leaves the order of the others as it was.

    Arguments
    ---------
    items : iterable of str
        In any order.
    *key : int or str
        What the order is for.

    Returns
    -------
    list of str

    Example
    -------
    >>> shuffled(["a", "b", "c"], 1) == shuffled(["c", "a", "b"], 1)
    True
    """
    return sorted(items, key=lambda item: (_rank(item, key), item))


def _rank(item, key):
    return hashlib.blake2b(repr((key, item)).encode(), digest_size=8).hexdigest()
