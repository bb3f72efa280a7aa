"""Sweep files in W&B's format: what to run, what to vary, when to stop.

``wandb sweep`` and ``wandb agent`` read the same files. Source: W&B's "Sweep
configuration structure".
"""

import json
import math
import os
import re
import reprlib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import yaml
from optuna import distributions

from custom_modules.errors import InputError, check_number
from custom_modules.hparams import RUN_OPTIONS, check_overrides, resolve, split_arguments
from custom_modules.layout import corpus_names
from custom_modules.limits import check_values
from custom_modules.yaml_trees import read_yaml

METHODS = ("bayes", "random", "grid")
MOST_EXPONENT = 700  # of e, in a float
DEFAULT_COMMAND = ["${env}", "${interpreter}", "${program}", "${args}"]

_VARIABLE = re.compile(r"\$\{envvar:([A-Za-z0-9_]*)\}")
_SCALARS = bool | int | float | str | None
#: Key → whether a value fits, and what it must be.
_SHAPES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "program": (lambda x: isinstance(x, str), "must be text"),
    "method": (METHODS.__contains__, f"is none of {METHODS}"),
    "metric": (
        lambda x: (
            isinstance(x, dict)
            and isinstance(x.get("name"), str)
            and x.get("goal", "minimize") in ("minimize", "maximize")
        ),
        "must have a name and a goal, minimize or maximize",
    ),
    "parameters": (
        lambda x: isinstance(x, dict) and bool(x) and all(isinstance(n, str) for n in x),
        "must name at least one, each by text",
    ),
    "command": (
        lambda x: isinstance(x, list) and bool(x) and all(isinstance(w, str | int) for w in x),
        "must be a list of words",
    ),
}
_SUPPORTED = (
    "constant, categorical, uniform, int_uniform, q_uniform, log_uniform, "
    "log_uniform_values, q_log_uniform_values"
)


class _Loader(yaml.SafeLoader):
    """A date stays the text that it is."""

    yaml_implicit_resolvers: ClassVar = {
        first: [pair for pair in pairs if not pair[0].endswith(":timestamp")]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


#: What may be another when a search goes on.
_HARMLESS = {
    *("num_workers", "tracker", "wandb_mode", "wandb_project", "save_audio"),
    *("skip_prep", "check", "manifest_folder", "ckpt_interval_minutes"),
}


@dataclass(frozen=True)
class Parameter:
    """What a trial may choose from: values or a range."""

    distribution: distributions.BaseDistribution
    values: tuple = ()  # of a range, none
    #: What is drawn is rounded to a multiple, a whole one of a whole number.
    quantum: float | None = None

    @property
    def is_constant(self) -> bool:
        return len(self.values) == 1

    @property
    def choices(self) -> list[Any]:
        """The values as Optuna takes them, which knows no lists."""
        return [_encode(value) for value in self.values]

    def decode(self, chosen: Any) -> Any:
        """The value of what Optuna chose."""
        if self.quantum is not None:  # as W&B does
            rounded = round(chosen / self.quantum) * self.quantum
            return rounded if isinstance(rounded, int) else float(f"{rounded:.12g}")
        return self.values[self.choices.index(chosen)] if self.values else chosen


@dataclass
class Sweep:
    """What a sweep file says."""

    path: Path
    method: str  # one of METHODS
    metric: str  # a column of history.csv
    maximize: bool
    program: str  # takes --output_folder and writes history.csv there
    parameters: dict[str, Parameter]
    command: list[str]  # with W&B's macros, ``${program}``, ``${args}`` …
    early_terminate: dict[str, Any] | None
    run_cap: int | None  # trials

    @property
    def name(self) -> str:
        return self.path.stem

    def hparams_file(self) -> str | None:
        """The hparams file that the command names."""
        return next((p for p in self.command if p.endswith((".yaml", ".yml"))), None)

    def searched(self) -> dict[str, Parameter]:
        """The parameters with more than one value."""
        return {n: p for n, p in self.parameters.items() if not p.is_constant}

    def constants(self) -> dict[str, Any]:
        """The values of the others, by name."""
        return {n: p.values[0] for n, p in self.parameters.items() if p.is_constant}

    def common(self, arguments: Sequence[str]) -> dict[str, str]:
        """What trials can be compared by: what they share, with these ``arguments``.

        A corpus goes by its name, as it may be moved.
        """
        file = self.hparams_file()
        given: dict[str, Any] = {"": [*arguments]}
        if file:  # with what the environment says
            given = check_overrides(file, split_arguments([file, *arguments])[2])
        shared = {"metric": self.metric, **self.constants(), **given}
        if "data_folder" in shared:
            shared["data_folder"] = corpus_names(shared["data_folder"])
        return {key: str(value) for key, value in shared.items() if key not in _HARMLESS}

    def decode(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The values of an Optuna trial's parameters, in the order of the file."""
        searched = self.searched()
        return {n: p.decode(params[n]) for n, p in searched.items() if n in params}

    def combinations(self) -> int:
        """How many trials a grid has; refuses a range, which has no end."""
        if ranges := [name for name, p in self.parameters.items() if not p.values]:
            names = ", ".join(ranges)
            raise InputError(f"{self.path}: method grid needs values of {names}")
        return math.prod(len(p.values) for p in self.parameters.values())

    def command_line(self, values: Mapping[str, Any], more: Iterable[str] = ()) -> list[str]:
        """The command of a trial, with ``more`` arguments at its end."""
        pairs = [
            f"{name}={value if isinstance(value, str) else json.dumps(value)}"
            for name, value in values.items()
        ]
        options = [f"--{pair}" for pair in pairs]
        macros: dict[str, list[str]] = {
            "${env}": [],
            "${interpreter}": [sys.executable],
            "python": [sys.executable],
            "${program}": [self.program],
            "${args}": options,
            "${args_no_boolean_flags}": options,
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
    tree = {"command": DEFAULT_COMMAND, "run_cap": None, "early_terminate": None} | tree
    for key, (fits, words) in _SHAPES.items():
        if not fits(tree[key]):
            raise InputError(f"{path}: {key} {reprlib.repr(tree[key])} {words}")
    if tree["run_cap"] is not None:
        check_number(f"{path}: run_cap", tree["run_cap"], least=1, whole=True)
    _check_termination(path, tree["early_terminate"])
    metric, parameters = tree["metric"], tree["parameters"]
    return Sweep(
        path=Path(path),
        method=tree["method"],
        metric=metric["name"],
        maximize=metric.get("goal") == "maximize",
        program=tree["program"],
        parameters={n: parse_parameter(f"{path}: {n}", spec) for n, spec in parameters.items()},
        command=[str(part) for part in tree["command"]],
        early_terminate=tree["early_terminate"],
        run_cap=tree["run_cap"],
    )


def parse_parameter(where: str, spec: Any) -> Parameter:
    """Reads one entry of ``parameters``; messages say ``where`` it is.

    >>> parse_parameter("a.yaml: lr", {"min": 1e-4, "max": 1e-2}).distribution
    FloatDistribution(high=0.01, log=False, low=0.0001, step=None)
    """
    spec = spec if isinstance(spec, dict) else {}
    if "value" in spec or "values" in spec:
        values = [spec["value"]] if "value" in spec else spec["values"]
        if not isinstance(values, list) or not values or "probabilities" in spec:
            raise InputError(f"{where}: values must be a list, without probabilities")
        try:
            json.dumps(values, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise InputError(f"{where}: {values} cannot be given to a trial ({error})") from error
        choices = distributions.CategoricalDistribution([_encode(value) for value in values])
        return Parameter(choices, tuple(values))
    if "min" not in spec or "max" not in spec:
        raise InputError(f"{where}: must have value, values, or min and max")
    is_rounded = str(spec.get("distribution")).startswith("q_")
    quantum = _number(where, "q", spec.get("q", 1), above=0) if is_rounded else None
    return Parameter(_range(where, spec), quantum=quantum)


def check_search(sweep: Sweep, arguments: Sequence[str]) -> int | None:
    """Checks that a sweep, and the ``arguments`` of its trials, fit its program.

    Returns the epochs of a trial, if an hparams file says so.
    """
    if not Path(sweep.program).is_file():
        raise InputError(f"{sweep.path}: {sweep.program} is not there; run tune.py where it is")
    hparams_file = sweep.hparams_file()
    if hparams_file is None:
        return None
    _, run_arguments, overrides = split_arguments([hparams_file, *arguments])
    if lone := {"debug", "test_only"} & {argument.lstrip("-") for argument in run_arguments}:
        raise InputError(f"--{lone.pop()}: leaves no value to compare trials by; leave it out")
    if "output_folder" in overrides or "output_folder" in sweep.parameters:
        raise InputError("each trial has its own output_folder; use --tuning_folder")
    names = [name for name in sweep.parameters if name not in RUN_OPTIONS]
    check_overrides(hparams_file, dict.fromkeys(names))
    constants = {n: value for n, value in sweep.constants().items() if n in names}
    check_values(constants | overrides)
    values = check_overrides(hparams_file, constants | overrides)
    epochs = resolve(hparams_file, values).get("number_of_epochs")
    return epochs if isinstance(epochs, int) else None


def _read(path: str | Path) -> dict[str, Any]:
    """A mapping, by the rules of YAML 1.1 that W&B reads it with."""
    read_yaml(path)  # in bounds
    try:
        return yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)  # a SafeLoader
    except (ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: is not a sweep file ({reason})") from error


def _range(where: str, spec: Mapping[str, Any]) -> distributions.BaseDistribution:
    low, high = (_number(where, key, spec[key]) for key in ("min", "max"))
    if low >= high:
        raise InputError(f"{where}: min {low} is not below max {high}")
    whole = isinstance(low, int) and isinstance(high, int)
    kind = spec.get("distribution", "int_uniform" if whole else "uniform")
    if kind == "int_uniform":
        for key in ("min", "max"):
            check_number(f"{where}: {key}", spec[key], whole=True)
        return distributions.IntDistribution(int(low), int(high))
    if kind in ("uniform", "q_uniform"):
        return distributions.FloatDistribution(low, high)
    if kind not in ("log_uniform", "log_uniform_values", "q_log_uniform_values"):
        raise InputError(f"{where}: distribution {kind!r} is none of {_SUPPORTED}")
    if kind == "log_uniform":  # W&B's is given by exponents of e
        check_number(f"{where}: max", high, most=MOST_EXPONENT)
        low, high = math.exp(low), math.exp(high)
    if low <= 0:
        raise InputError(f"{where}: min must be above 0 for {kind}")
    return distributions.FloatDistribution(low, high, log=True)


def _number(where: str, key: str, value: Any, above: float | None = None) -> float:
    if isinstance(value, str):
        raise InputError(f"{where}: {key} {value!r} is text; write 1e-4 as 1.0e-4")
    check_number(f"{where}: {key}", value, above=above)
    return value


def _check_termination(path: str | Path, spec: Any) -> None:
    """Refuses an ``early_terminate`` that cannot be done."""
    if spec is None:
        return
    where = f"{path}: early_terminate"
    if not isinstance(spec, dict) or spec.get("type") != "hyperband":
        raise InputError(f"{where} can only be of type hyperband")
    if ("min_iter" in spec) == ("max_iter" in spec):
        raise InputError(f"{where} needs min_iter, or max_iter and s")
    for key, most in {"min_iter": None, "max_iter": None, "s": 64, "eta": None}.items():
        if key in spec:
            check_number(f"{where}: {key}", spec[key], least=1, most=most, whole=True)


def _encode(value: Any) -> Any:
    return value if isinstance(value, _SCALARS) else json.dumps(value)
