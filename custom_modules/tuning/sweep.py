"""Sweep files in W&B's format: what to run, what to vary, when to stop.

``wandb sweep`` and ``wandb agent`` read the same files. Source: W&B's "Sweep
configuration structure".
"""

import difflib
import json
import math
import os
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

import optuna
import yaml

from custom_modules.errors import InputError
from custom_modules.hparams import (
    RUN_OPTIONS,
    check_overrides,
    read_hparams,
    resolve,
    split_arguments,
)

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


def check_search(sweep, arguments):
    """Checks that a sweep, and what is passed on to its trials, fits its program.

    Arguments
    ---------
    sweep : custom_modules.tuning.sweep.Sweep
    arguments : list of str
        Of the command line, for every trial.

    Returns
    -------
    int or None
        Epochs of a trial, if an hparams file says so.

    Raises
    ------
    InputError
        If the program or the hparams file is missing, or a key is not one of its.
    """
    if not Path(sweep.program).is_file():
        raise InputError(
            f"{sweep.path}: program {sweep.program} is not there; run tune.py from "
            "the folder that it is relative to"
        )
    hparams_file = sweep.hparams_file()
    if hparams_file is None:
        return None
    known = read_hparams(hparams_file)
    for name in sweep.parameters:
        if name not in known and name not in RUN_OPTIONS:
            near = difflib.get_close_matches(name, [*known, *RUN_OPTIONS], n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise InputError(f"{sweep.path}: {hparams_file} has no key {name!r}{hint}")
    _, _, overrides = split_arguments([hparams_file, *arguments])
    if "output_folder" in overrides or "output_folder" in sweep.parameters:
        raise InputError("each trial has its own output_folder; use --tuning_folder")
    overrides = check_overrides(hparams_file, overrides)
    constants = {name: v for name, v in sweep.constants().items() if name in known}
    settled = resolve(hparams_file, constants | overrides)
    epochs = settled.get("number_of_epochs")
    return epochs if isinstance(epochs, int) else None


METHODS = ("bayes", "random", "grid")
DEFAULT_COMMAND = ["${env}", "${interpreter}", "${program}", "${args}"]
_VARIABLE = re.compile(r"\$\{envvar:([A-Za-z0-9_]*)\}")


@dataclass
class Sweep:
    """What a sweep file says.

    Arguments
    ---------
    path : pathlib.Path
        The file.
    method : str
        One of :data:`METHODS`.
    metric : str
        A column of ``history.csv``.
    maximize : bool
        Whether more of it is better.
    program : str
        A Python script, which takes ``--output_folder`` and writes ``history.csv``
        there.
    command : list of str
        With W&B's macros ``${program}``, ``${args}`` …
    parameters : dict of str to custom_modules.tuning.sweep.Parameter
    early_terminate : dict, optional
        ``{type: hyperband, min_iter: 10, eta: 3}``.
    run_cap : int, optional
        How many trials.
    """

    path: Path
    method: str
    metric: str
    maximize: bool
    program: str
    parameters: dict
    command: list = field(default_factory=lambda: list(DEFAULT_COMMAND))
    early_terminate: dict | None = None
    run_cap: int | None = None

    @property
    def name(self):
        """Of the file, without its extension."""
        return self.path.stem

    def hparams_file(self):
        """The hparams file that the command names, or None."""
        found = [part for part in self.command if part.endswith((".yaml", ".yml"))]
        return found[0] if found else None

    def searched(self):
        """The parameters with more than one value."""
        return {n: p for n, p in self.parameters.items() if not p.is_constant}

    def constants(self):
        """The values of the others, by name."""
        return {n: p.values[0] for n, p in self.parameters.items() if p.is_constant}

    def decode(self, params):
        """The values of what Optuna chose for a trial.

        Arguments
        ---------
        params : dict
            Of an Optuna trial.

        Returns
        -------
        dict
            In the order of the sweep file, so far as it knows them.
        """
        searched = self.searched()
        return {n: p.decode(params[n]) for n, p in searched.items() if n in params}

    def combinations(self):
        """How many trials a grid has.

        Raises
        ------
        InputError
            If a parameter is continuous.
        """
        endless = [name for name, p in self.parameters.items() if p.values is None]
        if endless:
            raise InputError(
                f"{self.path}: method grid needs values of {', '.join(endless)}, "
                "not min and max"
            )
        return math.prod(len(p.values) for p in self.parameters.values())

    def command_line(self, values, more=()):
        """The command of a trial.

        Arguments
        ---------
        values : dict
            Of all parameters.
        more : iterable of str
            Arguments to append.

        Returns
        -------
        list of str
        """
        pairs = [f"{name}={_as_text(value)}" for name, value in values.items()]
        macros = {
            "${env}": [],
            "${interpreter}": [sys.executable],
            "python": [sys.executable],
            "${program}": [self.program],
            "${args}": [f"--{pair}" for pair in pairs],
            "${args_no_boolean_flags}": [f"--{pair}" for pair in pairs],
            "${args_no_hyphens}": pairs,
            "${args_json}": [json.dumps(values)],
        }
        words = [word for part in self.command for word in macros.get(part, [part])]
        words = [_VARIABLE.sub(lambda m: os.environ.get(m[1], ""), w) for w in words]
        return [*words, *more]


def read_sweep(path):
    """Reads a sweep file.

    Arguments
    ---------
    path : str or pathlib.Path

    Returns
    -------
    Sweep

    Raises
    ------
    InputError
        If it is no sweep file, or asks for what Optuna cannot do.

    Example
    -------
    >>> sweep = read_sweep("hparams/sweeps/dprnn_stage1.yaml")
    >>> sweep.method, sweep.metric, sweep.hparams_file()
    ('bayes', 'valid_si_sdr', 'hparams/dprnn.yaml')
    >>> sweep.command_line({"lr": 1e-3, "seed": 7})[-2:]
    ['--lr=0.001', '--seed=7']
    """
    tree = _read(path)
    missing = [
        k for k in ("program", "method", "metric", "parameters") if k not in tree
    ]
    if missing:
        raise InputError(f"{path}: lacks {', '.join(missing)}; is it a sweep file?")
    if tree["method"] not in METHODS:
        raise InputError(f"{path}: method {tree['method']!r} is none of {METHODS}")
    metric = tree["metric"]
    if not isinstance(metric, dict) or "name" not in metric:
        raise InputError(f"{path}: metric must have a name and a goal")
    if metric.get("goal", "minimize") not in ("minimize", "maximize"):
        raise InputError(f"{path}: goal {metric['goal']!r}: minimize or maximize")
    if not isinstance(tree["parameters"], dict) or not tree["parameters"]:
        raise InputError(f"{path}: parameters must name at least one")
    return Sweep(
        path=Path(path),
        method=tree["method"],
        metric=metric["name"],
        maximize=metric.get("goal") == "maximize",
        program=tree["program"],
        parameters={
            name: parse_parameter(f"{path}: {name}", spec)
            for name, spec in tree["parameters"].items()
        },
        command=[str(part) for part in tree.get("command", DEFAULT_COMMAND)],
        early_terminate=_checked_termination(path, tree.get("early_terminate")),
        run_cap=tree.get("run_cap"),
    )


def _read(path):
    """A mapping, by the rules of YAML 1.1 that W&B reads it with."""
    try:
        tree = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise InputError(f"{path}: cannot be read ({reason})") from error
    except yaml.YAMLError as error:
        reason = str(error).split("\n")[0]
        raise InputError(f"{path}: is no sweep file of W&B's ({reason})") from error
    if not isinstance(tree, dict):
        raise InputError(f"{path}: holds no keys; is it a sweep file?")
    return tree


def _checked_termination(path, spec):
    """``early_terminate`` if it is one that can be done."""
    if spec is None:
        return None
    if not isinstance(spec, dict) or spec.get("type") != "hyperband":
        raise InputError(f"{path}: early_terminate can only be of type hyperband")
    if ("min_iter" in spec) == ("max_iter" in spec):
        raise InputError(f"{path}: early_terminate needs min_iter, or max_iter and s")
    for key in ("min_iter", "max_iter", "s", "eta"):
        if key in spec and (type(spec[key]) is not int or spec[key] < 1):
            raise InputError(f"{path}: early_terminate: {key} must be a whole number")
    return spec


def _as_text(value):
    return value if isinstance(value, str) else json.dumps(value)
