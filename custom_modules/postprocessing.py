"""What may be done to a separator's outputs before somebody listens: level, gate, observation."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from custom_modules.audio import from_db
from custom_modules.longform.polarity import upright
from custom_modules.longform.stitching import MixtureLevel

#: An output so far below the loudest one holds nobody.
GATE_DB = 20.0


def at_level_of(mixture: Tensor, estimates: Tensor, sample_rate: int) -> Tensor:
    """Estimates ``[time, sources]`` that sum to about the mixture ``[time]``.

    One gain for all, each with the sign of its correlation with the mixture, as recordings
    are written: a model's own level and signs say nothing.
    """
    estimates = upright(estimates, mixture)
    return estimates * MixtureLevel(sample_rate).gain(mixture, estimates.sum(1))


def is_gated(estimates: Tensor, below_db: float = GATE_DB) -> Tensor:
    """Which outputs ``[…, time, sources]`` are that far below the loudest: ``[…, sources]``.

    >>> is_gated(torch.tensor([[1.0, 0.09], [1.0, 0.09]]))
    tensor([False,  True])
    """
    levels = estimates.square().mean(-2).sqrt()
    return levels < from_db(-below_db) * levels.amax(-1, keepdim=True)


def gated(estimates: Tensor, below_db: float = GATE_DB) -> Tensor:
    """Outputs of which those are silent that :func:`is_gated` names."""
    return estimates.masked_fill(is_gated(estimates, below_db).unsqueeze(-2), 0)


def observed(estimates: Tensor, mixture: Tensor, observation_db: float) -> Tensor:
    """Adds the mixture ``[…, time]``, at that level, to each output ``[…, time, sources]``.

    A recogniser minds a separator's artefacts more than a little of the other voice: what is
    added back masks them (observation adding; Iwamoto et al. 2022, "How bad are artifacts?").

    >>> observed(torch.zeros(1, 2), torch.ones(1), observation_db=-20)
    tensor([[0.1000, 0.1000]])
    """
    return estimates + from_db(observation_db) * mixture.unsqueeze(-1)


class Observing(nn.Module):
    """A separator whose outputs are at the mixture's level, some of which is added back.

    ``estimate`` runs ``separator``: ``[batch, time]`` → ``[batch, time, sources]``.
    """

    def __init__(
        self,
        estimate: Callable[[Tensor], Tensor],
        separator: nn.Module,
        sample_rate: int,
        observation_db: float,
    ) -> None:
        super().__init__()
        self.estimate, self.separator = estimate, separator
        self.sample_rate, self.observation_db = sample_rate, float(observation_db)

    def forward(self, mixture: Tensor) -> Tensor:
        levelled = [
            at_level_of(heard, estimates, self.sample_rate)
            for heard, estimates in zip(mixture, self.estimate(mixture).float(), strict=True)
        ]
        return observed(torch.stack(levelled), mixture, self.observation_db)
