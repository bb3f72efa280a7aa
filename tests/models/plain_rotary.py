"""Rotary positions, a pair of channels at a time."""

import torch


def rotated(x, frequencies):
    """``[time, channels]``, of which pairs are turned by their frequencies; others stay."""
    turned = x.clone()
    for pair, frequency in enumerate(frequencies):
        angle = torch.arange(len(x)) * frequency
        a, b = x[:, 2 * pair], x[:, 2 * pair + 1]
        turned[:, 2 * pair] = a * angle.cos() - b * angle.sin()
        turned[:, 2 * pair + 1] = b * angle.cos() + a * angle.sin()
    return turned
