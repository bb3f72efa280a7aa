"""From a command line to an experiment: hparams file, environment, overrides.

Precedence: hparams file < environment (``POLSESS_DATA_ROOT`` for ``data_folder``,
``WANDB_MODE`` for ``wandb_mode``) < command line.
A mistake in them ends in one line; what an object of the file raises is a bug and
keeps its traceback.
"""

import difflib
import os
import re
import shutil
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any, NoReturn

from hyperpyyaml import load_hyperpyyaml, resolve_references
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, TaggedScalar
from ruamel.yaml.tag import Tag
from speechbrain.utils.distributed import main_process_only
from speechbrain.utils.run_opts import HELP_TEXTS, RunOptions

from custom_modules.distributed import read_run_options, settle_precision
from custom_modules.errors import InputError, raised_in
from custom_modules.files import atomic_path
from custom_modules.limits import CHECKS, FIXED, check_text, check_values, text_or_null
from custom_modules.yaml_trees import below, parse_yaml, read_yaml, tag_of, yaml_stream

#: What a training leaves in its results folder.
HPARAMS_FILE = "hyperparams.yaml"

DATA_ROOT_VARIABLE = "POLSESS_DATA_ROOT"
#: Key → the variable that stands in for it.
_ENVIRONMENT = {"data_folder": DATA_ROOT_VARIABLE, "wandb_mode": "WANDB_MODE"}

#: Options of SpeechBrain's own command line.
RUN_OPTIONS = frozenset(HELP_TEXTS) | {"jit_module_keys", "compile_module_keys"}
#: Those of them that take no value.
FLAGS = frozenset(key for key, value in RunOptions().as_dict().items() if value is False)

#: What --debug trains on unless the command line says otherwise: few batches, each a step.
DEBUG_SIZES = {"batch_size": 2, "segment_seconds": 1.0, "grad_accumulation_factor": 1}

#: What ``mixture_consistency`` puts around a separator.
CONSISTENT = "custom_modules.models.consistency.MixtureConsistent"
_OBJECTS = ("!new", "!name", "!apply")
#: What models of ours are made of.
_OURS = {"custom_modules", "speechbrain", "torch"}


def _read_chain(
    hparams_file: str | Path, overrides: Mapping[str, Any] | tuple[()] = ()
) -> tuple[list[str], dict[str, Any], dict[str, Any]]:
    """An hparams file, its base, the base's base …; the last's keys; all changes."""
    paths, trees = [str(hparams_file)], [read_yaml(hparams_file)]
    while "base" in trees[-1]:
        place = str(Path(paths[-1]).parent)
        if os.path.realpath(place) != os.path.abspath(place):  # above a link is another folder
            place = os.path.realpath(place)
        base = os.path.normpath(os.path.join(place, str(trees[-1].pop("base"))))
        if not Path(base).is_file():
            raise InputError(f"{paths[-1]}: its base {base} does not exist")
        if any(Path(base).samefile(known) for known in paths):
            raise InputError(f"{paths[-1]}: is its own base; name another file")
        paths.append(base)
        trees.append(read_yaml(base))
    *derived, root = trees
    changes: dict[str, Any] = {}
    for path, tree in reversed([*zip(paths, derived, strict=False)]):
        for key in set(tree) - set(root):
            raise InputError(f"{path}: {paths[-1]} has no key {key!r} to change")
        changes.update(tree.items())
    return paths, root, changes | dict(overrides)


def split_base(hparams_file: str | Path) -> tuple[str, dict[str, Any]]:
    """The file that an hparams file is based on, and what it changes there.

    ``base: ../dprnn.yaml`` takes that file, found beside this one, as if the other
    keys of this file were given on the command line. Bases may have bases.
    """
    paths, _, changes = _read_chain(hparams_file)
    return paths[-1], changes


def read_hparams(hparams_file: str | Path) -> dict[str, Any]:
    """As :func:`read_yaml`, with what its bases hold."""
    _, tree, changes = _read_chain(hparams_file)
    tree.update(changes)
    return tree


def load_hparams(hparams_file: str | Path, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The objects of a HyperPyYAML file; modules beside the file can be imported.

    Its values are checked before anything is made of them.
    """
    paths, tree, changes = _read_chain(hparams_file, overrides)
    text = yaml_stream(paths[-1], _consistent(_update(tree, changes)))
    with _complaints_in_one_line(hparams_file):
        values = YAML().load(resolve_references(text))
    plain = {key: value for key, value in values.items() if not tag_of(value).startswith("!")}
    check_values(plain, model=_packages_of(values) <= _OURS)
    make_importable(paths)
    text.seek(0)
    with _complaints_in_one_line(hparams_file):
        return Hparams(hparams_file, load_hyperpyyaml(text))


class Hparams(dict[str, Any]):
    """What an hparams file makes; a key that it should have had is named in one line."""

    def __init__(self, hparams_file: str | Path, values: Mapping[str, Any]) -> None:
        super().__init__(values)
        self.hparams_file = hparams_file

    def __missing__(self, key: str) -> NoReturn:
        raise InputError(f"{self.hparams_file}: has no key {key!r}; is it for this command?")


def _packages_of(node: Any) -> set[str]:
    """Where the objects come from that a tree makes."""
    tag = tag_of(node)
    own = {tag.removeprefix("!new:").partition(".")[0]} if tag.startswith("!new:") else set()
    return own.union(*map(_packages_of, below(node)))


def make_importable(paths: Iterable[str | Path]) -> None:
    """Lets modules beside files be imported, after all others."""
    folders = (str(Path(path).resolve().parent) for path in paths)
    sys.path += [folder for folder in dict.fromkeys(folders) if folder not in sys.path]


def modules_beside(hparams_file: str | Path, overrides: Mapping[str, Any]) -> dict[str, Path]:
    """The user's own modules that an hparams file names and that are beside it, by name."""
    paths, tree, changes = _read_chain(hparams_file, overrides)
    text = yaml_stream(paths[-1], _update(tree, changes)).read()
    names = set(re.findall(r"!(?:new|name|apply|applyref|module):(\w+)", text))
    files = (Path(p).resolve().parent / f"{name}.py" for p in paths[::-1] for name in sorted(names))
    return {path.stem: path for path in files if path.is_file()}


def resolve(hparams_file: str | Path, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """An hparams file with its references resolved, nothing in it constructed."""
    with _complaints_in_one_line(hparams_file):
        paths, tree, changes = _read_chain(hparams_file, overrides)
        text = yaml_stream(paths[-1], _consistent(_update(tree, changes)))
        return YAML().load(resolve_references(text))


def _update(tree: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Changes what a mapping holds; an object is replaced, with all its arguments."""
    for key, value in changes.items():
        is_value = not isinstance(value, Mapping) or tag_of(value)
        if is_value or tree.get(key) is None:
            tree[key] = value
        elif isinstance(tree[key], dict):
            _update(tree[key], value)
        else:
            raise InputError(f"--{key}: takes a value, not a mapping")
    return tree


def _consistent(tree: dict[str, Any]) -> dict[str, Any]:
    """With ``mixture_consistency``, puts the separator into what has its sources sum up."""
    if tree.get("mixture_consistency") is True and tree.get("separator") is not None:
        node = CommentedMap(separator=tree["separator"])
        if "num_sources" in tree:
            node["num_sources"] = TaggedScalar("<num_sources>", tag=Tag(suffix="!ref"))
        node.yaml_set_ctag(Tag(suffix=f"!new:{CONSISTENT}"))
        tree["separator"] = node
    return tree


@contextmanager
def _complaints_in_one_line(hparams_file: str | Path) -> Iterator[None]:
    """What the reader of YAML itself refuses; what it calls may raise as it likes."""
    try:
        yield
    except Exception as error:
        if not raised_in(error, "hyperpyyaml", "ruamel", "yaml"):
            raise
        if "PLACEHOLDER" in str(error):
            key = str(error).split("'")[1]
            or_else = f", or {DATA_ROOT_VARIABLE}" if key == "data_folder" else ""
            reason = f"set --{key}={key.upper()}{or_else}"
        else:
            reason = ": ".join(map(str, error.args)) or str(error)
            reason = " ".join(reason.split())
        raise InputError(f"{hparams_file}: {reason}") from error


@main_process_only
def write_hparams(
    hparams_file: str | Path, overrides: Mapping[str, Any], target: str | Path
) -> None:
    """Writes an hparams file with other values; its references stay references.

    What SpeechBrain writes beside results has them resolved: changed there, ``lr``
    would reach no optimiser. Modules beside the file that it names are copied, too.
    """
    (paths, tree, changes), target = _read_chain(hparams_file, overrides), Path(target)
    base = paths[-1]
    text = yaml_stream(base, _update(tree, changes)).read()
    with atomic_path(target) as path:
        if not (target.exists() and target.samefile(base)):  # a rerun from itself
            is_derived = base != str(hparams_file)
            origin = f"{hparams_file}, based on {base}" if is_derived else base
            text = f"# From {origin}, {date.today()}\n{text}"
        path.write_text(text, encoding="utf-8")
    for source in modules_beside(hparams_file, overrides).values():
        copy = target.parent / source.name
        if not (copy.exists() and copy.samefile(source)):
            with atomic_path(copy) as path:
                shutil.copyfile(source, path)


def split_arguments(
    argv: list[str],
    run_options: Collection[str] = RUN_OPTIONS,
    known: Mapping[str, Any] | None = None,
) -> tuple[str, list[str], dict[str, Any]]:
    """Splits a command line into hparams file, run options and overrides.

    Unlike SpeechBrain's, it takes no prefixes of options. A value is by the rules of
    YAML 1.2, ``1e-4`` a number; where the file, or ``known``, has text it is the text
    that was typed. A results folder stands for the hparams file in it, and for itself
    as the output folder.
    """
    if not argv or argv[0].startswith("--"):
        raise InputError("the first argument must be an hparams file; see --help")
    hparams_file, *rest = argv
    overrides: dict[str, Any] = {}
    folder = hparams_file
    if (Path(folder) / HPARAMS_FILE).is_file():
        hparams_file = str(Path(folder) / HPARAMS_FILE)
    known = read_hparams(hparams_file) if known is None else known
    if folder != hparams_file and "output_folder" in known:
        overrides["output_folder"] = folder  # it may have been moved since
    run_arguments = [hparams_file]
    while rest:
        option = rest.pop(0)
        if not option.startswith("--"):
            raise InputError(f"argument {option!r} has no option; write --key=value")
        values = []
        while rest and not rest[0].startswith("--"):
            values.append(rest.pop(0))
        key, equals, value = option[2:].partition("=")
        if key in run_options:
            typed = [value] * bool(equals) + values
            spare = typed[0 if key in FLAGS else 1 :]
            if spare and not key.endswith("_module_keys"):
                remedy = f"--{key} takes no value" if key in FLAGS else "write --key=value"
                raise InputError(f"argument {spare[-1]!r} has no option; {remedy}")
            run_arguments += [option, *values]
        elif len(values) + bool(equals) != 1:
            raise InputError(f"--{key} is unknown, or takes one value: --{key}=value")
        else:
            overrides[key] = _value_of(key, value if equals else values[0], known)
    return hparams_file, run_arguments, overrides


def _value_of(key: str, text: str, known: Mapping[str, Any]) -> Any:
    """What was typed for a key: the text itself, or a value; what is not YAML is text."""
    if key == "data_folder":  # one folder is text, several are a list, whatever the file has
        is_list = re.fullmatch(r"\[.*\]", text) and not Path(text).exists()
        known = {key: [] if is_list else text}
    if CHECKS.get(key) is text_or_null and text == "null":
        return None
    if CHECKS.get(key) in (check_text, text_or_null) or _holds_text(key, known):
        check_text(f"--{key}", text)
        return text
    try:
        return parse_yaml(text)
    except ValueError:
        return text


def _holds_text(key: str, known: Mapping[str, Any]) -> bool:
    """Whether a key's default is text, or to be filled in, or made of text."""
    value: Any = known.get(key)
    if tag_of(value) != "!ref":
        return tag_of(value) == "!PLACEHOLDER" or isinstance(value, str)
    names = re.findall(r"<(\w+)", value.value)
    others = {k: v for k, v in known.items() if k != key}
    has_letters = re.search(r"[^\W\d]", re.sub("<[^>]*>", "", value.value))
    return bool(has_letters) or any(_holds_text(name, others) for name in names)


def load_experiment(argv: list[str]) -> tuple[str, dict[str, Any], RunOptions, dict[str, Any]]:
    """The hparams file, or its base; what it makes; run options; and the overrides.

    Those are what a derived file, the environment and the command line change.
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
        folder = Hparams(base, resolve(base, overrides))["output_folder"]
        overrides["output_folder"] = f"{folder}/debug"
    hparams = load_hparams(hparams_file, overrides)
    check_recorded(hparams, hparams["output_folder"])
    settle_precision(hparams, run_opts)
    if run_opts.ckpt_interval_steps > 0:
        hparams["ckpt_interval_minutes"] = 0  # SpeechBrain takes one of the two
    return base, hparams, run_opts, overrides


def _environment(tree: Mapping[str, Any]) -> dict[str, str]:
    given = {key: os.environ.get(name, "") for key, name in _ENVIRONMENT.items() if key in tree}
    older = {"dryrun": "offline", "run": "online"}  # W&B's own, and still taken by it
    if given.get("wandb_mode") in older:
        given["wandb_mode"] = older[given["wandb_mode"]]
    return {key: value for key, value in given.items() if value}


def _own_folder() -> dict[str, str]:
    """A folder for each run of ``wandb agent``, or they would resume one another."""
    run, sweep = os.environ.get("WANDB_RUN_ID"), os.environ.get("WANDB_SWEEP_ID")
    if not run or not sweep:
        return {}
    return {"output_folder": f"results/sweeps/{sweep.split('/')[-1]}/{run}"}


def check_overrides(hparams_file: str | Path, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Adds what the environment says, and refuses keys that the file lacks."""
    tree = read_hparams(hparams_file)
    overrides = _environment(tree) | dict(overrides)
    for key, value in overrides.items():
        if key not in tree:
            near = difflib.get_close_matches(key, [*tree, *RUN_OPTIONS], n=1)
            hint = f"did you mean --{near[0]}?" if near else "see its top-level keys"
            raise InputError(f"{hparams_file}: no key {key!r} to override; {hint}")
        kinds = bool if isinstance(tree[key], bool) else int | float
        if isinstance(tree[key], kinds) and isinstance(value, str | list | dict):
            kind = "neither True nor False" if kinds is bool else "not a number"
            raise InputError(f"--{key}={value}: {kind}; in the file: {tree[key]}")
    return overrides


def check_recorded(values: Mapping[str, Any], folder: str | Path) -> None:
    """Refuses another model than the one whose checkpoints are in a results folder."""
    file = Path(folder, HPARAMS_FILE)
    if not (file.is_file() and any(file.parent.glob("save/CKPT*"))):
        return
    tree = read_hparams(file)
    tags = {key: tag_of(value) for key, value in tree.items()}
    if any(key in FIXED and tag == "!ref" for key, tag in tags.items()):
        filled = {key: "x" for key, tag in tags.items() if tag == "!PLACEHOLDER"}
        tree |= {k: v for k, v in resolve(file, filled).items() if tags.get(k) == "!ref"}
    for key, recorded in tree.items():
        other = key in FIXED and not tag_of(recorded) and values.get(key, recorded) != recorded
        if other:
            raise InputError(
                f"--{key}={values[key]}: {folder} was trained with {recorded}, and stays so; "
                "leave it as it is, or use another --output_folder"
            )


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
