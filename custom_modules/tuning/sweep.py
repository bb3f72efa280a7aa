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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from custom_modules.errors import InputError, check_number
from custom_modules.hparams import (
    RUN_OPTIONS,
    check_overrides,
    read_hparams,
    resolve,
    split_arguments,
)

METHODS = ("bayes", "random", "grid")
DEFAULT_COMMAND = ["${env}", "${interpreter}", "${program}", "${args}"]

_VARIABLE = re.compile(r"\$\{envvar:([A-Za-z0-9_]*)\}")
_SCALARS = bool | int | float | str | None
_SUPPORTED = (
    "constant, categorical, uniform, int_uniform, q_uniform, log_uniform, "
    "log_uniform_values, q_log_uniform_values"
)


@dataclass(frozen=True)
class Parameter:
    """What a trial may choose from: values or a range."""

    values: tuple | None = None
    distribution: BaseDistribution | None = None  # of a range
    #: What is drawn is rounded to a multiple; Optuna's own steps are not logarithmic.
    quantum: float | None = None

    @property
    def is_constant(self) -> bool:
        return self.values is not None and len(self.values) == 1

    @property
    def choices(self) -> list[bool | int | float | str | None]:
        """The values as Optuna takes them, which knows no lists."""
        return [_encode(value) for value in self.values or ()]

    def as_distribution(self) -> BaseDistribution:
        """For ``study.ask``."""
        return self.distribution or CategoricalDistribution(self.choices)

    def decode(self, chosen: Any) -> Any:
        """The value of what Optuna chose."""
        if self.quantum is not None:  # as W&B does
            rounded = round(chosen / self.quantum) * self.quantum
            return rounded if isinstance(rounded, int) else float(f"{rounded:.12g}")
        if self.values is None:
            return chosen
        return next(v for v in self.values if _encode(v) == chosen)


@dataclass
class Sweep:
    """What a sweep file says."""

    path: Path
    method: str  # one of METHODS
    metric: str  # a column of history.csv
    maximize: bool
    program: str  # takes --output_folder and writes history.csv there
    parameters: dict[str, Parameter]
    #: With W&B's macros, ``${program}``, ``${args}`` …
    command: list[str] = field(default_factory=lambda: list(DEFAULT_COMMAND))
    early_terminate: dict[str, Any] | None = None
    run_cap: int | None = None  # trials

    @property
    def name(self) -> str:
        return self.path.stem

    def hparams_file(self) -> str | None:
        """The hparams file that the command names."""
        files = (part for part in self.command if part.endswith((".yaml", ".yml")))
        return next(files, None)

    def searched(self) -> dict[str, Parameter]:
        """The parameters with more than one value."""
        return {n: p for n, p in self.parameters.items() if not p.is_constant}

    def constants(self) -> dict[str, Any]:
        """The values of the others, by name."""
        constant = {n: p for n, p in self.parameters.items() if p.is_constant}
        return {n: p.values[0] for n, p in constant.items() if p.values}

    def decode(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The values of an Optuna trial's parameters, in the order of the file."""
        searched = self.searched()
        return {n: p.decode(params[n]) for n, p in searched.items() if n in params}

    def combinations(self) -> int:
        """How many trials a grid has; refuses a range, which has no end."""
        ranges = [name for name, p in self.parameters.items() if p.values is None]
        if ranges:
            raise InputError(
                f"{self.path}: method grid needs values of {', '.join(ranges)}, "
                "not min and max"
            )
        return math.prod(len(p.values or ()) for p in self.parameters.values())

    def command_line(
        self, values: Mapping[str, Any], more: Iterable[str] = ()
    ) -> list[str]:
        """The command of a trial, with ``more`` arguments at its end."""
        pairs = [f"{name}={_as_text(value)}" for name, value in values.items()]
        macros: dict[str, list[str]] = {
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


def read_sweep(path: str | Path) -> Sweep:
    """Reads a sweep file; refuses what is none, or what Optuna cannot do.

    >>> sweep = read_sweep("hparams/sweeps/dprnn_stage1.yaml")
    >>> sweep.method, sweep.metric, sweep.hparams_file()
    ('bayes', 'valid_si_sdr', 'hparams/dprnn.yaml')
    >>> sweep.command_line({"lr": 1e-3, "seed": 7})[-2:]
    ['--lr=0.001', '--seed=7']
    """
    tree = _read(path)
    needed = ("program", "method", "metric", "parameters")
    if missing := [key for key in needed if key not in tree]:
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


def parse_parameter(where: str, spec: Any) -> Parameter:
    """Reads one entry of ``parameters``; messages say ``where`` it is.

    >>> parse_parameter("a.yaml: lr", {"min": 1e-4, "max": 1e-2}).distribution
    FloatDistribution(high=0.01, log=False, low=0.0001, step=None)
    """
    if isinstance(spec, dict) and "value" in spec:
        return Parameter(values=(spec["value"],))
    if isinstance(spec, dict) and "values" in spec:
        values = spec["values"]
        if not isinstance(values, list) or not values or "probabilities" in spec:
            raise InputError(f"{where}: values must be a list, without probabilities")
        return Parameter(values=tuple(values))
    if not isinstance(spec, dict) or "min" not in spec or "max" not in spec:
        raise InputError(f"{where}: must have value, values, or min and max")
    distribution = _range(where, spec)
    if spec.get("distribution") == "q_log_uniform_values":
        return Parameter(distribution=distribution, quantum=_quantum(where, spec))
    return Parameter(distribution=distribution)


def check_search(sweep: Sweep, arguments: Sequence[str]) -> int | None:
    """Checks that a sweep, and the ``arguments`` of its trials, fit its program.

    Returns the epochs of a trial, if an hparams file says so.
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
    epochs = resolve(hparams_file, constants | overrides).get("number_of_epochs")
    return epochs if isinstance(epochs, int) else None


def _read(path: str | Path) -> dict[str, Any]:
    """A mapping, by the rules of YAML 1.1 that W&B reads it with."""
    try:
        tree = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise InputError(f"{path}: cannot be read ({reason})") from error
    except yaml.YAMLError as error:
        reason = str(error).split("\n")[0]
        raise InputError(f"{path}: is not a sweep file of W&B's ({reason})") from error
    if not isinstance(tree, dict):
        raise InputError(f"{path}: holds no keys; is it a sweep file?")
    return tree


def _range(where: str, spec: Mapping[str, Any]) -> BaseDistribution:
    low, high = (_number(where, key, spec[key]) for key in ("min", "max"))
    if low >= high:
        raise InputError(f"{where}: min {low} is not below max {high}")
    whole = isinstance(low, int) and isinstance(high, int)
    kind = spec.get("distribution", "int_uniform" if whole else "uniform")
    if kind == "int_uniform":
        return IntDistribution(int(low), int(high))
    if kind == "log_uniform":  # W&B's is given by exponents of e
        low, high = math.exp(low), math.exp(high)
    log = kind in ("log_uniform", "log_uniform_values", "q_log_uniform_values")
    if log and low <= 0:
        raise InputError(f"{where}: min must be above 0 for {kind}")
    if kind == "q_uniform":
        return FloatDistribution(low, high, step=_quantum(where, spec))
    if not log and kind != "uniform":
        raise InputError(f"{where}: distribution {kind!r} is none of {_SUPPORTED}")
    return FloatDistribution(low, high, log=log)


def _quantum(where: str, spec: Mapping[str, Any]) -> float:
    quantum = _number(where, "q", spec.get("q", 1))
    check_number(f"{where}: q", quantum, above=0)
    return quantum


def _number(where: str, key: str, value: Any) -> float:
    if isinstance(value, str):
        raise InputError(
            f"{where}: {key} {value!r} is not a number; YAML reads 1e-4 as text, "
            "write 1.0e-4"
        )
    check_number(f"{where}: {key}", value)
    return value


def _checked_termination(path: str | Path, spec: Any) -> dict[str, Any] | None:
    """``early_terminate`` if it is one that can be done."""
    if spec is None:
        return None
    if not isinstance(spec, dict) or spec.get("type") != "hyperband":
        raise InputError(f"{path}: early_terminate can only be of type hyperband")
    if ("min_iter" in spec) == ("max_iter" in spec):
        raise InputError(f"{path}: early_terminate needs min_iter, or max_iter and s")
    for key in {"min_iter", "max_iter", "s", "eta"} & set(spec):
        check_number(f"{path}: early_terminate: {key}", spec[key], least=1, whole=True)
    return spec


def _encode(value: Any) -> bool | int | float | str | None:
    return value if isinstance(value, _SCALARS) else json.dumps(value)


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
