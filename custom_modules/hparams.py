"""From a command line to an experiment: hparams file, environment, overrides.

Precedence: hparams file < ``POLSESS_DATA_ROOT`` (for ``data_folder``) < command
line. Every mistake ends in one line, see :mod:`custom_modules.errors`. The files
themselves are read in :mod:`custom_modules.hparams`.
"""

import contextlib
import dataclasses
import difflib
import io
import os
import sys
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import torch
from hyperpyyaml import load_hyperpyyaml, resolve_references
from hyperpyyaml.core import recursive_update
from ruamel.yaml import YAML, YAMLError
from ruamel.yaml.representer import RoundTripRepresenter
from ruamel.yaml.scalarfloat import ScalarFloat
from speechbrain.utils.distributed import main_process_only
from speechbrain.utils.logger import get_logger
from speechbrain.utils.run_opts import HELP_TEXTS, RunOptions

from custom_modules.errors import InputError
from custom_modules.files import atomic_path


class _Representer(RoundTripRepresenter):
    """Writes 1e-05 as 1.0e-05, or readers of YAML 1.1 would take it for text."""

    def represent_float(self, data):
        return self._with_point(super().represent_float(data))

    def represent_scalar_float(self, data):
        return self._with_point(super().represent_scalar_float(data))

    @staticmethod
    def _with_point(node):
        mantissa, e, exponent = node.value.lower().partition("e")
        if e:
            point = "" if "." in mantissa else ".0"
            sign = "" if exponent[0] in "+-" else "+"
            node.value = f"{mantissa}{point}e{sign}{exponent}"
        return node


_Representer.add_representer(float, _Representer.represent_float)
_Representer.add_representer(ScalarFloat, _Representer.represent_scalar_float)


def split_base(hparams_file):
    """Resolves the ``base`` of an hparams file that is derived from another one.

    ``base: ../dprnn.yaml`` takes that file, found beside this one, as if the other
    keys of this file were given on the command line. Bases may have bases.

    Arguments
    ---------
    hparams_file : str

    Returns
    -------
    hparams_file : str
        The file that has no base.
    overrides : dict
        What the files derived from it change.

    Raises
    ------
    InputError
        If a file cannot be read, is its own base, or changes a key that its base
        lacks.

    Example
    -------
    >>> path, overrides = split_base("hparams/tuned/dprnn.yaml")
    >>> path, overrides["lr"]
    ('hparams/dprnn.yaml', 0.00125)
    """
    chain = [(str(hparams_file), read_yaml(hparams_file))]
    while "base" in chain[-1][1]:
        path, tree = chain[-1]
        base = os.path.normpath(Path(path).parent / str(tree.pop("base")))
        if not Path(base).is_file():
            raise InputError(f"{path}: its base {base} does not exist")
        if any(Path(base).samefile(known) for known, _ in chain):
            raise InputError(f"{path}: is its own base; name another file")
        chain.append((base, read_yaml(base)))
    (root, known), *derived = reversed(chain)
    overrides = {}
    for path, tree in derived:
        for key in set(tree) - set(known):
            raise InputError(f"{path}: {root} has no key {key!r} to change")
        overrides |= tree
    return root, overrides


def read_hparams(hparams_file):
    """As :func:`read_yaml`, with what its bases hold.

    Arguments
    ---------
    hparams_file : str

    Returns
    -------
    dict
    """
    base, overrides = split_base(hparams_file)
    tree = read_yaml(base)
    tree.update(overrides)
    return tree


def read_yaml(hparams_file):
    """The top level of an hparams file, nothing in it constructed.

    Arguments
    ---------
    hparams_file : str

    Returns
    -------
    dict

    Raises
    ------
    InputError
        If it cannot be read, is not YAML, or is not a mapping.
    """
    try:
        tree = YAML().load(Path(hparams_file).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise InputError(f"{hparams_file}: cannot be read ({reason})") from error
    except YAMLError as error:
        raise InputError(
            f"{hparams_file}: not valid YAML ({_one_line(error)})"
        ) from error
    if not isinstance(tree, dict):
        raise InputError(f"{hparams_file}: holds no keys; is it an hparams file?")
    return tree


def load_hparams(hparams_file, overrides):
    """Loads a HyperPyYAML file; what does not fit ends in one line.

    Arguments
    ---------
    hparams_file : str
    overrides : dict

    Returns
    -------
    dict

    Raises
    ------
    InputError
        If a placeholder is left, or an object cannot be made from its values.
    """
    base, derived = split_base(hparams_file)
    with _in_one_line(hparams_file), open(base, encoding="utf-8") as stream:
        return load_hyperpyyaml(stream, derived | dict(overrides))


def resolve(hparams_file, overrides):
    """An hparams file with its references resolved, nothing in it constructed.

    Arguments
    ---------
    hparams_file : str
    overrides : dict

    Returns
    -------
    dict

    Raises
    ------
    InputError
        If a placeholder is left, or a reference leads nowhere.
    """
    base, derived = split_base(hparams_file)
    with _in_one_line(hparams_file), open(base, encoding="utf-8") as stream:
        return YAML().load(resolve_references(stream, derived | dict(overrides)))


@main_process_only
def write_hparams(hparams_file, overrides, target):
    """Writes an hparams file with other values; its references stay references.

    What SpeechBrain writes beside results has them resolved: changed there, ``lr``
    would reach no optimiser. In this file, every key is an option as in the recipe's.

    Arguments
    ---------
    hparams_file : str
    overrides : dict
    target : str or pathlib.Path
        Only the first process writes it.

    Raises
    ------
    InputError
        If the file cannot be read, or the target cannot be written.
    """
    base, derived = split_base(hparams_file)
    round_trip = YAML()
    round_trip.Representer = _Representer
    round_trip.width = 4096
    tree = round_trip.load(Path(base).read_text(encoding="utf-8"))
    recursive_update(tree, derived | dict(overrides))
    target = Path(target)
    with atomic_path(target) as path, open(path, "w", encoding="utf-8") as stream:
        if not (target.exists() and target.samefile(base)):  # a rerun from itself
            is_derived = base != str(hparams_file)
            origin = f"{hparams_file}, based on {base}" if is_derived else base
            print(f"# From {origin}, {date.today()}", file=stream)
        round_trip.dump(tree, stream)


@contextmanager
def _in_one_line(hparams_file):
    """What HyperPyYAML, and the objects that it makes, say of unfitting values."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if "PLACEHOLDER" in str(error):
            key = str(error).split("'")[1]
            or_else = ", or POLSESS_DATA_ROOT" if key == "data_folder" else ""
            raise InputError(
                f"{hparams_file}: set --{key}={key.upper()}{or_else}"
            ) from error
        reason = _one_line(error) or type(error).__name__
        raise InputError(f"{hparams_file}: {reason}") from error


def _one_line(error):
    return " ".join(str(error).split())


__all__ = [
    "RUN_OPTIONS",
    "check_overrides",
    "load_experiment",
    "load_hparams",
    "read_hparams",
    "read_run_options",
    "read_yaml",
    "resolve",
    "settle_precision",
    "split_arguments",
    "split_base",
    "write_hparams",
]

logger = get_logger(__name__)

#: What a training leaves in its results folder.
HPARAMS_FILE = "hyperparams.yaml"

DATA_ROOT_VARIABLE = "POLSESS_DATA_ROOT"

#: Options of SpeechBrain's own command line.
RUN_OPTIONS = frozenset(HELP_TEXTS) | {"jit_module_keys", "compile_module_keys"}


#: What --debug trains on unless the command line says otherwise.
DEBUG_SIZES = {"batch_size": 2, "segment_seconds": 1.0}


def split_arguments(argv, run_options=RUN_OPTIONS):
    """Splits a command line into hparams file, run options and overrides.

    SpeechBrain's own parser joins values at ``=`` and takes prefixes of its
    options for the options; here neither happens.

    Arguments
    ---------
    argv : list of str
        The arguments after the script's name, ``--key=value`` or ``--key value``. A
        results folder stands for the hparams file in it.
    run_options : set of str
        Names that are no overrides.

    Returns
    -------
    hparams_file : str
    run_arguments : list of str
        For ``speechbrain.parse_arguments``, the hparams file first.
    overrides : dict
        Parsed by the rules of YAML 1.2, so that ``1e-4`` is a number.

    Raises
    ------
    InputError
        If there is no hparams file, or an argument that belongs to nothing.

    Example
    -------
    >>> split_arguments(["a.yaml", "--lr=1e-4", "--debug", "--variants", "[C, R]"])
    ('a.yaml', ['a.yaml', '--debug'], {'lr': 0.0001, 'variants': ['C', 'R']})
    """
    if not argv or argv[0].startswith("--"):
        raise InputError("the first argument must be an hparams file; see --help")
    hparams_file, *rest = argv
    if (Path(hparams_file) / HPARAMS_FILE).is_file():
        hparams_file = str(Path(hparams_file) / HPARAMS_FILE)
    run_arguments, overrides = [hparams_file], {}
    while rest:
        option = rest.pop(0)
        if not option.startswith("--"):
            raise InputError(
                f"argument {option!r} belongs to no option; write --key=value"
            )
        values = []
        while rest and not rest[0].startswith("--"):
            values.append(rest.pop(0))
        key, equals, value = option[2:].partition("=")
        if key in run_options:
            run_arguments += [option, *values]
        elif len(values) + bool(equals) != 1:
            raise InputError(
                f"option --{key} is unknown, or takes one value: --{key}=value"
            )
        else:
            overrides[key] = _parse_value(value if equals else values[0])
    return hparams_file, run_arguments, overrides


def load_experiment(argv):
    """Everything that a training or evaluation script needs to start.

    Arguments
    ---------
    argv : list of str
        The arguments after the script's name.

    Returns
    -------
    hparams_file : str
        The file, or the one that it is based on.
    hparams : dict
        The loaded hparams.
    run_opts : speechbrain.utils.run_opts.RunOptions
    overrides : dict
        What a derived file, the environment and the command line changed.

    Raises
    ------
    InputError
        If the file, an override or a value does not fit.
    """
    hparams_file, run_arguments, overrides = split_arguments(argv)
    run_opts = read_run_options(run_arguments)
    limit = _step_limit(run_opts.optimizer_step_limit)
    run_opts = dataclasses.replace(run_opts, optimizer_step_limit=limit)
    # From here on a derived file is its base and so many more overrides: what is
    # written beside the results needs no other file.
    hparams_file, derived = split_base(hparams_file)
    # Run options that are keys of the file, too, belong to what is recorded of a run.
    known = read_hparams(hparams_file)
    both = {k: run_opts[k] for k in run_opts.overridden_args if k in known}
    overrides = _environment(known) | _own_folder() | both | overrides
    overrides = check_overrides(hparams_file, derived | overrides)
    if run_opts.debug:
        # A few batches must not overwrite what a real run has written, and must fit
        # where the run itself would not: a batch of the baselines takes over 24 GB.
        small = {k: v for k, v in DEBUG_SIZES.items() if k in known}
        overrides = small | overrides
        overrides["output_folder"] = (
            f"{resolve(hparams_file, overrides)['output_folder']}/debug"
        )
    hparams = load_hparams(hparams_file, overrides)
    settle_precision(hparams, run_opts)
    if run_opts.ckpt_interval_steps > 0:
        hparams["ckpt_interval_minutes"] = 0  # SpeechBrain takes one of the two
    return hparams_file, hparams, run_opts, overrides


def read_run_options(arguments):
    """SpeechBrain's own options.

    Arguments
    ---------
    arguments : list of str
        From :func:`split_arguments`.

    Returns
    -------
    speechbrain.utils.run_opts.RunOptions

    Raises
    ------
    InputError
        If a value does not fit, or the device is not there.
    """
    said = io.StringIO()  # its parser would print its usage
    try:
        with contextlib.redirect_stderr(said):
            run_opts = RunOptions.from_command_line_args(arguments)[1]
    except SystemExit:
        reason = said.getvalue().strip().rpartition("error: ")[2]
        raise InputError(f"{reason}; see --help") from None
    if "device" in run_opts.overridden_args:
        check_device(run_opts.device)
    return run_opts


def _step_limit(value):
    """What SpeechBrain's own parser leaves a string."""
    try:
        limit = None if value is None else int(value)
    except ValueError:
        limit = 0
    if limit is not None and limit < 1:
        raise InputError(
            f"--optimizer_step_limit={value}: must be a whole number from 1"
        )
    return limit


def _environment(tree):
    """What the environment says of a file's keys."""
    if "data_folder" in tree and os.environ.get(DATA_ROOT_VARIABLE):
        return {"data_folder": os.environ[DATA_ROOT_VARIABLE]}
    return {}


def _own_folder():
    """A folder for each run of ``wandb agent``, or they would resume one another."""
    run, sweep = os.environ.get("WANDB_RUN_ID"), os.environ.get("WANDB_SWEEP_ID")
    if not run or not sweep:
        return {}
    return {"output_folder": f"results/sweeps/{sweep.split('/')[-1]}/{run}"}


def check_overrides(hparams_file, overrides):
    """Adds what the environment says and refuses keys that the file lacks.

    Arguments
    ---------
    hparams_file : str
        A HyperPyYAML file.
    overrides : dict
        From :func:`split_arguments`.

    Returns
    -------
    dict

    Raises
    ------
    InputError
        If the file cannot be read or lacks a key, whose nearest is named; or a
        number is given as something else.
    """
    tree = read_hparams(hparams_file)
    overrides = _environment(tree) | overrides
    for key, value in overrides.items():
        if key not in tree:
            near = difflib.get_close_matches(key, [*tree, *RUN_OPTIONS], n=1)
            hint = f"did you mean --{near[0]}?" if near else "see its top-level keys"
            raise InputError(f"{hparams_file}: no key {key!r} to override; {hint}")
        kinds = bool if isinstance(tree[key], bool) else int | float
        if isinstance(tree[key], kinds) and isinstance(value, str):
            kind = "neither True nor False" if kinds is bool else "not a number"
            raise InputError(f"--{key}={value}: {kind}; in the file: {tree[key]}")
    return overrides


def settle_precision(hparams, run_opts):
    """Makes an fp16 default harmless on a CPU, which has none.

    Arguments
    ---------
    hparams : dict
        Its ``precision`` becomes fp32 if the device is a CPU and the command
        line did not ask for fp16 itself.
    run_opts : speechbrain.utils.run_opts.RunOptions

    Raises
    ------
    InputError
        If fp16 was asked for on a CPU.
    """
    import torch

    device = run_opts.device or hparams.get("device")
    on_cpu = device == "cpu" if device else not torch.cuda.is_available()
    if not on_cpu:
        return
    for key in ("precision", "eval_precision"):
        if key in run_opts.overridden_args and run_opts[key] == "fp16":
            raise InputError(f"--{key}=fp16 needs a GPU; use bf16 or fp32 on a CPU")
        if hparams.get(key) == "fp16" and key not in run_opts.overridden_args:
            logger.info("%s: fp16 needs a GPU; fp32 on this CPU", key)
            hparams[key] = "fp32"


def _parse_value(text):
    """One value by the rules of YAML 1.2; what is no YAML is a string."""
    try:
        return YAML().load(text)
    except YAMLError:
        return text


def print_help(usage, argv):
    """Prints a script's usage, the keys of its hparams file, and run options.

    Arguments
    ---------
    usage : str
        The script's docstring.
    argv : list of str
        If an hparams file is among them, its plain keys are listed; else how to see
        them.
    """
    print(usage.strip())
    files = [argument for argument in argv if argument.endswith((".yaml", ".yml"))]
    for path in files:
        print(f"\nKeys of {path}, each an option --key=value:")
        for key, value in read_hparams(path).items():
            if _is_plain(value):
                print(f"  {key}: {_as_written(value)}")
    if not files:
        print("\nThe keys of an hparams file are options, too; to list them, name it:")
        print(f"  python {sys.argv[0]} hparams/dprnn.yaml --help")
    print("\nSpeechBrain's run options:")
    for option in sorted(HELP_TEXTS):
        print(f"  --{option}: {HELP_TEXTS[option]}")


def _is_plain(value):
    """Whether it is neither an object nor a mapping."""
    is_object = tag_of(value).startswith(("!new", "!name", "!apply"))
    return not is_object and not isinstance(value, dict)


def _as_written(value):
    """Of a reference and a placeholder, what stands in the file."""
    tag = tag_of(value)
    return f"{tag} {value.value}".strip() if tag else value


def tag_of(value):
    """Such as ``!ref``; an empty string if there is none."""
    return getattr(getattr(value, "tag", None), "value", None) or ""


def check_device(device):
    """Refuses a device that is not there.

    Arguments
    ---------
    device : str
        As ``torch.device`` takes it.

    Raises
    ------
    InputError
        If it is not there.

    Example
    -------
    >>> check_device("cpu")
    >>> check_device("gpu")
    Traceback (most recent call last):
    custom_modules.errors.InputError: --device=gpu: is none; use cpu, cuda or cuda:1
    """
    try:
        found = torch.device(device)
    except RuntimeError:
        raise InputError(
            f"--device={device}: is none; use cpu, cuda or cuda:1"
        ) from None
    # Not by a tensor there: each process of many would take memory of the first GPU.
    if found.type == "cuda":
        count = torch.cuda.device_count()
        if (found.index or 0) >= count:
            raise InputError(
                f"--device={device}: {count} CUDA devices are in reach; "
                "leave the option out, or use cpu"
            )
        return
    try:
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"--device={device}: cannot be used ({reason})") from error
