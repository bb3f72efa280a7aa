"""HyperPyYAML files: read, based on one another, and loaded.

A file may be based on another one, of which it changes some keys. Every mistake ends
in one line, see :mod:`custom_modules.errors`.
"""

import os
from contextlib import contextmanager
from datetime import date
from pathlib import Path

from hyperpyyaml import load_hyperpyyaml, resolve_references
from hyperpyyaml.core import recursive_update
from ruamel.yaml import YAML, YAMLError
from ruamel.yaml.representer import RoundTripRepresenter
from ruamel.yaml.scalarfloat import ScalarFloat
from speechbrain.utils.distributed import main_process_only

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
