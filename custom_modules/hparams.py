"""From a command line to an experiment: hparams file, environment, overrides.

Precedence: hparams file < ``POLSESS_DATA_ROOT`` (for ``data_folder``) < command line.
A mistake in them ends in one line; what an object of the file raises is a bug and
keeps its traceback.
"""

import difflib
import io
import os
import re
import shutil
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

from hyperpyyaml import load_hyperpyyaml, resolve_references
from ruamel.yaml import YAML, YAMLError
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.representer import RoundTripRepresenter
from ruamel.yaml.scalarfloat import ScalarFloat
from speechbrain.utils.distributed import main_process_only
from speechbrain.utils.run_opts import HELP_TEXTS, RunOptions

from custom_modules.distributed import read_run_options, settle_precision
from custom_modules.errors import InputError
from custom_modules.files import atomic_path
from custom_modules.limits import check_values

#: What a training leaves in its results folder.
HPARAMS_FILE = "hyperparams.yaml"

DATA_ROOT_VARIABLE = "POLSESS_DATA_ROOT"

#: Options of SpeechBrain's own command line.
RUN_OPTIONS = frozenset(HELP_TEXTS) | {"jit_module_keys", "compile_module_keys"}

#: What --debug trains on unless the command line says otherwise.
DEBUG_SIZES = {"batch_size": 2, "segment_seconds": 1.0}

_OBJECTS = ("!new", "!name", "!apply")

#: Where files made by earlier versions look for what has moved since.
RENAMED_PATHS = {
    "custom_modules.training.stopping.StoppingEpochCounter": (
        "custom_modules.steps.StoppingEpochCounter"
    ),
    "custom_modules.corpus.speech_folder.SpeechFolder": (
        "custom_modules.corpus.folders.SpeechFolder"
    ),
}


class _Representer(RoundTripRepresenter):
    """Writes 1e-05 as 1.0e-05, or readers of YAML 1.1 would take it for text."""

    def represent_float(self, data: float) -> ScalarNode:
        return _with_point(super().represent_float(data))

    def represent_scalar_float(self, data: ScalarFloat) -> ScalarNode:
        return _with_point(super().represent_scalar_float(data))


def _with_point(node: ScalarNode) -> ScalarNode:
    match = re.fullmatch(r"([+-]?\d+)(\.\d*)?e([+-]?)(\d+)", node.value.lower())
    if match:
        node.value = f"{match[1]}{match[2] or '.0'}e{match[3] or '+'}{match[4]}"
    return node


_Representer.add_representer(float, _Representer.represent_float)
_Representer.add_representer(ScalarFloat, _Representer.represent_scalar_float)


def read_yaml(hparams_file: str | Path) -> dict[str, Any]:
    """The top level of an hparams file, nothing in it constructed."""
    try:
        tree = YAML().load(_text(hparams_file))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise InputError(f"{hparams_file}: cannot be read ({reason})") from error
    except YAMLError as error:
        reason = _one_line(str(error))
        raise InputError(f"{hparams_file}: not valid YAML ({reason})") from error
    if not isinstance(tree, dict):
        raise InputError(f"{hparams_file}: holds no keys; is it an hparams file?")
    return tree


def _text(hparams_file: str | Path) -> str:
    """An hparams file as it would be written today."""
    text = Path(hparams_file).read_text(encoding="utf-8")
    for old, new in RENAMED_PATHS.items():
        text = re.sub(rf"(?<=:){re.escape(old)}\b", new, text)
    return text


def tag_of(value: object) -> str:
    """HyperPyYAML's tag of a node, such as ``!ref``; an empty string if it has none."""
    return getattr(getattr(value, "tag", None), "value", None) or ""


def _chain(hparams_file: str | Path) -> list[tuple[str, dict[str, Any]]]:
    """An hparams file, its base, the base's base … with what each of them holds."""
    chain = [(str(hparams_file), read_yaml(hparams_file))]
    while "base" in chain[-1][1]:
        path, tree = chain[-1]
        base = os.path.normpath(Path(path).parent / str(tree.pop("base")))
        if not Path(base).is_file():
            raise InputError(f"{path}: its base {base} does not exist")
        if any(Path(base).samefile(known) for known, _ in chain):
            raise InputError(f"{path}: is its own base; name another file")
        chain.append((base, read_yaml(base)))
    root, known = chain[-1]
    for path, tree in reversed(chain[:-1]):
        for key in set(tree) - set(known):
            raise InputError(f"{path}: {root} has no key {key!r} to change")
    return chain


def _changes(chain: list[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    return {k: v for _, tree in reversed(chain[:-1]) for k, v in tree.items()}


def split_base(hparams_file: str | Path) -> tuple[str, dict[str, Any]]:
    """The file that an hparams file is based on, and what it changes there.

    ``base: ../dprnn.yaml`` takes that file, found beside this one, as if the other
    keys of this file were given on the command line. Bases may have bases.

    >>> path, overrides = split_base("hparams/tuned/dprnn.yaml")
    >>> path, overrides["lr"]
    ('hparams/dprnn.yaml', 0.00125)
    """
    chain = _chain(hparams_file)
    return chain[-1][0], _changes(chain)


def read_hparams(hparams_file: str | Path) -> dict[str, Any]:
    """As :func:`read_yaml`, with what its bases hold."""
    chain = _chain(hparams_file)
    tree = chain[-1][1]
    tree.update(_changes(chain))
    return tree


def load_hparams(
    hparams_file: str | Path, overrides: Mapping[str, Any]
) -> dict[str, Any]:
    """The objects of a HyperPyYAML file; modules beside the file can be imported."""
    chain = _chain(hparams_file)
    changes = _changes(chain) | dict(overrides)
    check_values(changes, chain[-1][1])
    for path, _ in chain:
        folder = str(Path(path).resolve().parent)
        if folder not in sys.path:
            sys.path.append(folder)
    with _complaints_in_one_line(hparams_file):
        return load_hyperpyyaml(_stream(chain, overrides))


def resolve(hparams_file: str | Path, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """An hparams file with its references resolved, nothing in it constructed."""
    with _complaints_in_one_line(hparams_file):
        chain = _chain(hparams_file)
        return YAML().load(resolve_references(_stream(chain, overrides)))


def _stream(
    chain: list[tuple[str, dict[str, Any]]], overrides: Mapping[str, Any]
) -> io.StringIO:
    """The file at the end of a chain, with all that is changed in it."""
    path, tree = chain[-1]
    _update(tree, _changes(chain) | dict(overrides))
    stream = io.StringIO()
    round_trip = YAML()
    round_trip.Representer = _Representer
    round_trip.width = 4096
    round_trip.dump(tree, stream)
    stream.seek(0)
    stream.name = path  # type: ignore[misc]  # HyperPyYAML includes files beside it
    return stream


def _update(tree: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Changes what a mapping holds; an object is replaced, with all its arguments."""
    for key, value in changes.items():
        if not isinstance(value, Mapping) or tag_of(value) or key not in tree:
            tree[key] = value
        elif isinstance(tree[key], dict):
            _update(tree[key], value)
        else:
            raise InputError(f"--{key}: takes a value, not a mapping")


@contextmanager
def _complaints_in_one_line(hparams_file: str | Path) -> Iterator[None]:
    """What the reader of YAML itself refuses; what it calls may raise as it likes."""
    try:
        yield
    except Exception as error:
        if not _is_of_the_reader(error):
            raise
        if "PLACEHOLDER" in str(error):
            key = str(error).split("'")[1]
            or_else = f", or {DATA_ROOT_VARIABLE}" if key == "data_folder" else ""
            reason = f"set --{key}={key.upper()}{or_else}"
        else:
            reason = _one_line(": ".join(map(str, error.args)) or str(error))
        raise InputError(f"{hparams_file}: {reason}") from error


def _is_of_the_reader(error: Exception) -> bool:
    """Whether it was raised there, as for a class or a keyword that does not exist."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    module = place.tb_frame.f_globals["__name__"] if place is not None else ""
    return module.partition(".")[0] in ("hyperpyyaml", "ruamel", "yaml")


def _one_line(text: str) -> str:
    return " ".join(text.split())


@main_process_only
def write_hparams(
    hparams_file: str | Path, overrides: Mapping[str, Any], target: str | Path
) -> None:
    """Writes an hparams file with other values; its references stay references.

    What SpeechBrain writes beside results has them resolved: changed there, ``lr``
    would reach no optimiser. In this file, every key is an option as in the recipe's.
    Modules beside the file that it names are copied, too.
    """
    chain, target = _chain(hparams_file), Path(target)
    base = chain[-1][0]
    text = _stream(chain, overrides).read()
    with atomic_path(target) as path:
        if not (target.exists() and target.samefile(base)):  # a rerun from itself
            is_derived = base != str(hparams_file)
            origin = f"{hparams_file}, based on {base}" if is_derived else base
            text = f"# From {origin}, {date.today()}\n{text}"
        path.write_text(text, encoding="utf-8")
    _copy_modules(target, {Path(path).resolve().parent for path, _ in chain})


def _copy_modules(hparams_file: Path, folders: Iterable[Path]) -> None:
    """Copies what an hparams file imports from these folders to where it is."""
    text = hparams_file.read_text(encoding="utf-8")
    for module in set(re.findall(r"!(?:new|name|apply|applyref|module):(\w+)", text)):
        for source in (folder / f"{module}.py" for folder in folders):
            copy = hparams_file.parent / source.name
            if source.is_file() and not (copy.exists() and copy.samefile(source)):
                with atomic_path(copy) as path:
                    shutil.copyfile(source, path)


def split_arguments(
    argv: list[str], run_options: Collection[str] = RUN_OPTIONS
) -> tuple[str, list[str], dict[str, Any]]:
    """Splits a command line into hparams file, run options and overrides.

    SpeechBrain's own parser joins values at ``=`` and takes prefixes of its options
    for the options; here neither happens. A results folder stands for the hparams
    file in it. Values are parsed by the rules of YAML 1.2: ``1e-4`` is a number.

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


def _parse_value(text: str) -> Any:
    """One value by the rules of YAML 1.2; what is not YAML is a string."""
    try:
        return YAML().load(text)
    except YAMLError:
        return text


def load_experiment(
    argv: list[str],
) -> tuple[str, dict[str, Any], RunOptions, dict[str, Any]]:
    """Everything that a training or evaluation script needs to start.

    From the arguments after the script's name: the hparams file, or the one that it is
    based on; what it makes; SpeechBrain's run options; and the overrides: what a
    derived file, the environment and the command line changed.
    """
    hparams_file, run_arguments, overrides = split_arguments(argv)
    run_opts = read_run_options(run_arguments)
    # Run options that are keys of the file, too, belong to what is recorded of a run.
    known = read_hparams(hparams_file)
    both = {k: run_opts[k] for k in run_opts.overridden_args if k in known}
    overrides = _environment(known) | _own_folder() | both | overrides
    # From here on a derived file is its base and so many more overrides: what is
    # written beside the results needs no other file.
    base, derived = split_base(hparams_file)
    overrides = check_overrides(base, derived | overrides)
    if run_opts.debug:
        # A few batches must not overwrite what a real run has written, and must fit
        # where the run itself would not: a batch of the baselines takes over 24 GB.
        small = {k: v for k, v in DEBUG_SIZES.items() if k in known}
        overrides = small | overrides
        folder = resolve(base, overrides)["output_folder"]
        overrides["output_folder"] = f"{folder}/debug"
    hparams = load_hparams(hparams_file, overrides)
    settle_precision(hparams, run_opts)
    if run_opts.ckpt_interval_steps > 0:
        hparams["ckpt_interval_minutes"] = 0  # SpeechBrain takes one of the two
    return base, hparams, run_opts, overrides


def _environment(tree: Mapping[str, Any]) -> dict[str, Any]:
    """What the environment says of a file's keys."""
    if "data_folder" in tree and os.environ.get(DATA_ROOT_VARIABLE):
        return {"data_folder": os.environ[DATA_ROOT_VARIABLE]}
    return {}


def _own_folder() -> dict[str, str]:
    """A folder for each run of ``wandb agent``, or they would resume one another."""
    run, sweep = os.environ.get("WANDB_RUN_ID"), os.environ.get("WANDB_SWEEP_ID")
    if not run or not sweep:
        return {}
    return {"output_folder": f"results/sweeps/{sweep.split('/')[-1]}/{run}"}


def check_overrides(
    hparams_file: str | Path, overrides: Mapping[str, Any]
) -> dict[str, Any]:
    """Adds what the environment says, and refuses keys that the file lacks."""
    tree = read_hparams(hparams_file)
    overrides = _environment(tree) | dict(overrides)
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


def print_help(usage: str, argv: list[str]) -> None:
    """Prints a script's usage, the plain keys of its hparams file, and run options."""
    print(usage.strip())
    files = [argument for argument in argv if argument.endswith((".yaml", ".yml"))]
    for path in files:
        print(f"\nKeys of {path}, each an option --key=value:")
        for key, value in read_hparams(path).items():
            tag = tag_of(value)
            if not isinstance(value, dict) and not tag.startswith(_OBJECTS):
                print(f"  {key}: {f'{tag} {value.value}'.strip() if tag else value}")
    if not files:
        print("\nThe keys of an hparams file are options, too; to list them, name it:")
        print(f"  python {sys.argv[0]} hparams/dprnn.yaml --help")
    print("\nSpeechBrain's run options:")
    for option in sorted(HELP_TEXTS):
        print(f"  --{option}: {HELP_TEXTS[option]}")
