"""Sweep files in W&B's format: what to run, what to vary, when to stop.

``wandb sweep`` and ``wandb agent`` read the same files. Source: W&B's "Sweep
configuration structure".
"""

import json
import math
import os
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from custom_modules.errors import InputError
from custom_modules.tuning.parameters import parse_parameter

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
    parameters : dict of str to custom_modules.tuning.parameters.Parameter
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
