"""The signs of sources: SI-SDR does not see them, the sum of what is heard does."""

import torch
from torch import Tensor


class Polarity:
    """The signs of a signal's sources, from chunk to chunk.

    A source goes on with the sign that was written of it. If ``fitted``, none is ever
    against the mixture in all that was heard; else it begins as the model returns it.
    """

    def __init__(self, fitted: bool) -> None:
        self.fitted = fitted
        self.products: Tensor | float = 0.0  # of each source with the mixture

    def signs(self, mixture: Tensor, estimates: Tensor, written: Tensor) -> Tensor:
        """Takes in a chunk ``[time]``, its sources ``[time, sources]``, what is written of it."""
        overlap = len(written)
        # A coefficient, so that quiet sources go on as well.
        agreement = torch.cosine_similarity(written, estimates[:overlap], dim=0)
        goes_on = agreement.abs() > 0.5
        if not self.fitted:
            return torch.where(goes_on, agreement.sign(), 1.0)
        products = mixture[overlap:] @ estimates[overlap:]
        goes_on &= self.products + agreement.sign() * products >= 0
        signs = torch.where(goes_on, agreement.sign(), torch.where(products < 0, -1.0, 1.0))
        self.products = self.products + signs * products
        return signs


def upright(signals: Tensor, mixture: Tensor) -> Tensor:
    """Signals ``[time, sources]``, those against the mixture ``[time]`` negated.

    >>> upright(torch.tensor([[0.5, -0.5]]), torch.tensor([1.0]))
    tensor([[0.5000, 0.5000]])
    """
    return torch.where(mixture @ signals < 0, -signals, signals)
