"""Parameters of a sweep file as Optuna's distributions."""

import json
import math
from dataclasses import dataclass

import optuna

from custom_modules.errors import InputError

_SCALARS = bool | int | float | str | None
_SUPPORTED = (
    "constant, categorical, uniform, int_uniform, q_uniform, log_uniform, "
    "log_uniform_values, q_log_uniform_values"
)


@dataclass(frozen=True)
class Parameter:
    """What a trial may choose from.

    Arguments
    ---------
    values : tuple, optional
        All that there are; None if it is a range.
    distribution : optuna.distributions.BaseDistribution, optional
        Of a range.
    quantum : int or float, optional
        What is drawn is rounded to a multiple of it. Optuna's own steps are not
        logarithmic.
    """

    values: tuple | None = None
    distribution: optuna.distributions.BaseDistribution | None = None
    quantum: int | float | None = None

    @property
    def is_constant(self):
        """Whether there is nothing to choose."""
        return self.values is not None and len(self.values) == 1

    def as_distribution(self):
        """For ``study.ask``.

        Returns
        -------
        optuna.distributions.BaseDistribution
        """
        if self.distribution is not None:
            return self.distribution
        return optuna.distributions.CategoricalDistribution(
            [_encode(value) for value in self.values]
        )

    def decode(self, chosen):
        """The value of what Optuna chose, which knows no lists."""
        if self.quantum is not None:  # as W&B does
            rounded = round(chosen / self.quantum) * self.quantum
            return rounded if isinstance(rounded, int) else float(f"{rounded:.12g}")
        if self.values is None:
            return chosen
        return next(v for v in self.values if _encode(v) == chosen)


def parse_parameter(where, spec):
    """Reads one entry of ``parameters``.

    Arguments
    ---------
    where : str
        File and name, for messages.
    spec : dict
        ``{value: 1}``, ``{values: [1, 2]}``, or ``{min: 1.0e-4, max: 1.0e-2,
        distribution: log_uniform_values}``.

    Returns
    -------
    Parameter

    Raises
    ------
    InputError
        If it is none of these, or a number is text (as ``1e-4`` is in YAML 1.1).

    Example
    -------
    >>> parse_parameter("a.yaml: lr", {"min": 1e-4, "max": 1e-2}).distribution
    FloatDistribution(high=0.01, log=False, low=0.0001, step=None)
    >>> parse_parameter("a.yaml: lr", {"min": "1e-4", "max": 1e-2})
    Traceback (most recent call last):
    custom_modules.errors.InputError: a.yaml: lr: min '1e-4' is no number; YAML reads \
1e-4 as text, write 1.0e-4
    """
    if not isinstance(spec, dict):
        raise InputError(f"{where}: must have value, values, or min and max")
    if "value" in spec:
        return Parameter(values=(spec["value"],))
    if "values" in spec:
        values = spec["values"]
        if not isinstance(values, list) or not values or "probabilities" in spec:
            raise InputError(f"{where}: values must be a list, without probabilities")
        return Parameter(values=tuple(values))
    if "min" not in spec or "max" not in spec:
        raise InputError(f"{where}: must have value, values, or min and max")
    distribution = _range(where, spec)
    if spec.get("distribution") == "q_log_uniform_values":
        return Parameter(distribution=distribution, quantum=_quantum(where, spec))
    return Parameter(distribution=distribution)


def _range(where, spec):
    """The distribution of a parameter with min and max."""
    low, high = (_number(where, key, spec[key]) for key in ("min", "max"))
    if low >= high:
        raise InputError(f"{where}: min {low} is not below max {high}")
    whole = isinstance(low, int) and isinstance(high, int)
    kind = spec.get("distribution", "int_uniform" if whole else "uniform")
    if kind == "int_uniform":
        return optuna.distributions.IntDistribution(int(low), int(high))
    if kind == "log_uniform":  # W&B's is given by exponents of e
        low, high = math.exp(low), math.exp(high)
    log = kind in ("log_uniform", "log_uniform_values", "q_log_uniform_values")
    if log and low <= 0:
        raise InputError(f"{where}: min must be above 0 for {kind}")
    if kind == "q_uniform":
        step = _quantum(where, spec)
        return optuna.distributions.FloatDistribution(low, high, step=step)
    if not log and kind != "uniform":
        raise InputError(f"{where}: distribution {kind!r} is none of {_SUPPORTED}")
    return optuna.distributions.FloatDistribution(low, high, log=log)


def _quantum(where, spec):
    quantum = _number(where, "q", spec.get("q", 1))
    if quantum <= 0:
        raise InputError(f"{where}: q {quantum} must be above 0")
    return quantum


def _number(where, key, value):
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(
            f"{where}: {key} {value!r} is no number; YAML reads 1e-4 as text, "
            "write 1.0e-4"
        )
    return value


def _encode(value):
    return value if isinstance(value, _SCALARS) else json.dumps(value)
