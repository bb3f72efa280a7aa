"""Which mixtures make a step, on one device or on many.

A step of the optimiser takes ``batch_size × processes × accumulated batches``
mixtures, in an order that depends on seed and epoch alone. However they are
dealt out, every mixture weighs the same, also in the last, incomplete step.
"""

from dataclasses import dataclass

from speechbrain.dataio.sampler import ReproducibleRandomSampler
from torch.utils.data import Sampler


@dataclass(frozen=True)
class Share:
    """What one process contributes to a step of the optimiser.

    Arguments
    ---------
    mixtures : int
        How many of its batch count; 0 if it has none to take and repeats one,
        because all processes must go along.
    weight : float
        Multiplies the mean loss of its batch, so that the gradients that the
        processes average are those of the mean over all mixtures of the step.
    first, last : bool
        Whether this batch begins, and whether it completes the step.
    """

    mixtures: int
    weight: float
    first: bool = True
    last: bool = True


class TrainBatches(Sampler):
    """Batches of a process: the same mixtures per step, whatever their number.

    ``processes × accumulation`` batches of ``batch_size`` make the step that one
    batch of that many mixtures would make on one process.

    Arguments
    ---------
    dataset : custom_modules.dataio.MixtureDataset
        Says which of its mixtures an epoch has.
    batch_size : int
        Mixtures per process and batch.
    seed : int
        Orders them, together with the epoch.
    rank, processes : int
        This process, and how many there are.
    accumulation : int
        Batches per step of the optimiser.

    Example
    -------
    >>> class Five:
    ...     def indices_at(self, epoch):
    ...         return [0, 1, 2, 3, 4]
    >>> parts = [TrainBatches(Five(), 2, 42, rank, processes=2) for rank in (0, 1)]
    >>> [len(set(sum(step, []))) for step in zip(*parts)]
    [4, 1]
    >>> parts[0].share(2), parts[1].share(2)
    (Share(mixtures=1, weight=2.0, first=True, last=True), \
Share(mixtures=0, weight=0.0, first=True, last=True))
    """

    def __init__(self, dataset, batch_size, seed, rank=0, processes=1, accumulation=1):
        self.dataset, self.batch_size, self.seed = dataset, batch_size, seed
        self.rank, self.processes, self.accumulation = rank, processes, accumulation
        self.set_epoch(1)

    def set_epoch(self, epoch):
        """Orders the mixtures of an epoch.

        Arguments
        ---------
        epoch : int
        """
        indices = self.dataset.indices_at(epoch)
        sampler = ReproducibleRandomSampler(indices, seed=self.seed, epoch=epoch)
        self.order = [indices[place] for place in sampler]

    def __len__(self):
        return -(-len(self.order) // (self.batch_size * self.processes))

    def __iter__(self):
        for number in range(len(self)):
            batch = self._of_all(number)
            yield batch[self.rank :: self.processes] or batch[:1]

    def share(self, step):
        """What the batch of a step counts for.

        Arguments
        ---------
        step : int
            From 1, as ``Brain.step``.

        Returns
        -------
        Share
        """
        number = step - 1
        first = number - number % self.accumulation
        last = min(first + self.accumulation, len(self)) - 1
        total = sum(len(self._of_all(n)) for n in range(first, last + 1))
        own = len(self._of_all(number)[self.rank :: self.processes])
        weight = own * self.processes / total
        return Share(own, weight, first=number == first, last=number == last)

    def _of_all(self, number):
        """The mixtures that all processes take together in a batch."""
        size = self.batch_size * self.processes
        return self.order[number * size : (number + 1) * size]
