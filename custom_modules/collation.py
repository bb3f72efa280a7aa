"""From the items of a :class:`custom_modules.dataio.MixtureDataset` to batches."""

import numpy as np
import torch
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.utils.data_utils import batch_pad_right


def collate(items):
    """One example for each mixture and variant, padded to the longest.

    Arguments
    ---------
    items : list of dict
        From :class:`custom_modules.dataio.MixtureDataset`.

    Returns
    -------
    speechbrain.dataio.batch.PaddedBatch
        ``id``, ``environment`` and ``variant`` are lists; ``mixture`` is
        ``[batch, time]``, ``targets`` ``[batch, time, sources]``, both with
        relative lengths.
    """
    return PaddedBatch(
        [
            {
                "id": item["id"],
                "environment": item["environment"],
                "variant": variant,
                "mixture": mixture,
                "targets": item["targets"],
            }
            for item in items
            for variant, mixture in zip(item["variants"], item["mixtures"], strict=True)
        ],
        padding_func=_stack_or_pad,
    )


def _stack_or_pad(signals):
    """SpeechBrain's padding, without its copies where nothing is to be padded."""
    if len({signal.shape for signal in signals}) > 1:
        return batch_pad_right(signals)
    # numpy's, because torch's wakes all threads for what is a copy of memory
    stacked = np.stack([signal.numpy() for signal in signals])
    return torch.from_numpy(stacked), torch.ones(len(signals))
