"""Which variants a training draws from, epoch by epoch."""

from custom_modules.errors import InputError
from custom_modules.mmipc import VARIANTS

_KEYS = {"epoch", "variants", "lr_scheduler"}
_EXAMPLE = "write it as [{epoch: 1, variants: [C, R]}, {epoch: 3, variants: [SER, SE]}]"


class Curriculum:
    """A schedule of variants, easier ones first.

    Arguments
    ---------
    schedule : list of dict, optional
        Entries ``{epoch: 3, variants: [C, R]}``, the first of epoch 1, each valid
        until the next. One may say ``lr_scheduler: start``: before that epoch the
        rate stays as it is, because what is trained on becomes harder and the loss
        says little. By default everything is trained on at once.
    train_variants : iterable of str
        Nothing else is ever drawn.

    Raises
    ------
    InputError
        If the schedule is none, or one of its epochs has nothing to train on.

    Example
    -------
    >>> easy = {"epoch": 1, "variants": ["C", "R"]}
    >>> hard = {"epoch": 3, "variants": ["C", "SER"], "lr_scheduler": "start"}
    >>> curriculum = Curriculum([easy, hard])
    >>> [curriculum.variants_at(epoch) for epoch in (1, 2, 3, 9)]
    [('R', 'C'), ('R', 'C'), ('SER', 'C'), ('SER', 'C')]
    >>> [curriculum.scheduler_runs_at(epoch) for epoch in (2, 3)]
    [False, True]
    """

    def __init__(self, schedule=None, train_variants=VARIANTS):
        if schedule is None:
            schedule = [{"epoch": 1, "variants": train_variants}]
        self._check(schedule)
        self.scheduler_start = 1
        self.steps = []
        for entry in schedule:
            if entry.get("lr_scheduler") == "start":
                self.scheduler_start = entry["epoch"]
            allowed = set(entry["variants"]) & set(train_variants)
            if not allowed:
                raise InputError(
                    f"curriculum: epoch {entry['epoch']} has none of train_variants "
                    f"{list(train_variants)}; use --curriculum=null to train on them "
                    "from the first epoch"
                )
            variants = tuple(v for v in VARIANTS if v in allowed)
            self.steps.append((entry["epoch"], variants))

    def variants_at(self, epoch):
        """The variants to draw from.

        Arguments
        ---------
        epoch : int
            From 1; 0 is as 1.

        Returns
        -------
        tuple of str
        """
        begun = [variants for start, variants in self.steps if start <= max(epoch, 1)]
        return begun[-1]

    def all_variants(self):
        """Every variant that is drawn from in some epoch."""
        return tuple(v for v in VARIANTS if any(v in names for _, names in self.steps))

    def scheduler_runs_at(self, epoch):
        """Whether the learning rate may change at the end of an epoch."""
        return epoch >= self.scheduler_start

    @staticmethod
    def _check(schedule):
        """Refuses what is no schedule."""
        if not isinstance(schedule, list) or not schedule:
            raise InputError(f"curriculum {schedule!r}: no schedule; {_EXAMPLE}")
        for number, entry in enumerate(schedule, start=1):
            reason = _fault_of(entry)
            if reason:
                raise InputError(f"curriculum, entry {number}: {reason}; {_EXAMPLE}")
        epochs = [entry["epoch"] for entry in schedule]
        if epochs[0] != 1 or sorted(set(epochs)) != epochs:
            raise InputError(
                f"curriculum: epochs {epochs} must begin with 1 and rise; {_EXAMPLE}"
            )
        if sum("lr_scheduler" in entry for entry in schedule) > 1:
            raise InputError("curriculum: the LR scheduler can start only once")


def _fault_of(entry):
    """What is wrong with an entry of a schedule, or None."""
    if not isinstance(entry, dict) or not {"epoch", "variants"} <= set(entry) <= _KEYS:
        return f"{entry!r} must have epoch and variants, and may have lr_scheduler"
    if type(entry["epoch"]) is not int:
        return f"epoch {entry['epoch']!r} is no whole number"
    if entry.get("lr_scheduler", "start") != "start":
        return f"lr_scheduler: {entry['lr_scheduler']!r} can only be start"
    variants = entry["variants"]
    known = isinstance(variants, list | tuple) and set(variants) <= set(VARIANTS)
    if known and variants:
        return None
    return f"variants {variants!r} must be some of {', '.join(VARIANTS)}"
