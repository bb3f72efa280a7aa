"""From a test set to batches, so that no batch changes what a mixture scores.

A model that normalises over time, as ConvTasNet does, sees padding; and the
kernels of a library round differently for batches of other sizes. So a batch
holds mixtures of one length only, and the number of its rows depends on the
test set alone, not on what is scored of it: missing rows are filled with copies.
"""

from collections import Counter
from typing import NamedTuple

import torch

from custom_modules.mmipc import variants_of

#: How many examples may wait for others of their length.
MAX_WAITING = 64


class Example(NamedTuple):
    """A mixture in one variant.

    Arguments
    ---------
    id : str
    variant : str
    mixture : torch.Tensor
        ``[time]``.
    targets : torch.Tensor
        ``[time, sources]``; the same tensor for all variants of a mixture.
    """

    id: str
    variant: str
    mixture: torch.Tensor
    targets: torch.Tensor


def read_examples(dataset, wanted):
    """Reads mixtures, each layer once, whatever the number of variants.

    Arguments
    ---------
    dataset : custom_modules.dataio.MixtureDataset
        With ``draw=False``.
    wanted : dict of str to collection of str
        Id of a mixture → the variants of it.

    Yields
    ------
    Example
    """
    place = {name: index for index, name in enumerate(dataset.data_ids)}
    for name, variants in wanted.items():
        item = dataset[place[name]]
        for variant, mixture in zip(item["variants"], item["mixtures"], strict=True):
            if variant in variants:
                yield Example(name, variant, mixture, item["targets"])


def rows_by_length(manifest, batch_size):
    """How many rows a batch of each length has.

    Arguments
    ---------
    manifest : Mapping
        The whole test set.
    batch_size : int
        At most.

    Returns
    -------
    dict of int to int
        Samples → rows; never more than the test set has of that length.
    """
    if batch_size == 1:
        return {}
    available = Counter()
    for entry in manifest.values():
        samples = round(entry["duration"] * entry["sample_rate"])
        available[samples] += len(variants_of(entry["environment"]))
    return {samples: min(batch_size, n) for samples, n in available.items()}


def batches_of_one_length(examples, rows):
    """Groups examples by length.

    Arguments
    ---------
    examples : iterable of Example
    rows : dict of int to int
        From :func:`rows_by_length`; 1 for what is missing.

    Yields
    ------
    examples : list of Example
    mixtures : torch.Tensor
        ``[rows, time]``; beyond the examples, copies of the last one.

    Example
    -------
    >>> examples = [Example("a", "C", torch.ones(n), None) for n in (5, 9, 5, 5)]
    >>> batches = batches_of_one_length(examples, {5: 2, 9: 2})
    >>> [(len(batch), tuple(mixtures.shape)) for batch, mixtures in batches]
    [(2, (2, 5)), (1, (2, 9)), (1, (2, 5))]
    """
    waiting = {}
    for example in examples:
        group = waiting.setdefault(len(example.mixture), [])
        group.append(example)
        full = rows.get(len(example.mixture), 1)
        if len(group) == full:
            yield _fill(waiting.pop(len(example.mixture)), full)
        elif sum(map(len, waiting.values())) >= MAX_WAITING:
            oldest = next(iter(waiting))
            yield _fill(waiting.pop(oldest), rows.get(oldest, 1))
    for samples, group in waiting.items():
        yield _fill(group, rows.get(samples, 1))


def _fill(examples, rows):
    mixtures = [example.mixture for example in examples]
    mixtures += mixtures[-1:] * (rows - len(mixtures))
    return examples, torch.stack(mixtures)
