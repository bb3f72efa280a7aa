"""The interface file of a hub folder: what it needs of this project, in one file.

SpeechBrain fetches one Python file from a hub, and nothing that it imports. So the
modules that a model needs are written into it, found by following their imports.
"""

import ast
import hashlib
import re
from pathlib import Path

import custom_modules

PROJECT = "custom_modules"
_ROOT = Path(custom_modules.__file__).parent

_TEMPLATE = '''\
"""Interface of a PolSESS separator for SpeechBrain:

    from speechbrain.inference.interfaces import foreign_class
    model = foreign_class(
        source="{source}",
        pymodule_file="custom_interface.py",
        classname="PolSESSSeparation",
    )

Needs speechbrain and what it depends on. Written by the PolSESS recipes' export.py:
below are the modules that the model is made of, each as its text, because a hub
gives out one Python file. They are imported under a name of their own, so that
several such files, of one version or of several, do not disturb each other.
"""

import importlib
import importlib.abc
import sys

PACKAGE = "{package}"
MODULES = {{}}
{modules}

class _Finder(importlib.abc.ExecutionLoader, importlib.abc.MetaPathFinder):
    """Imports the modules of this file."""

    package = PACKAGE

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] != PACKAGE or name not in MODULES:
            return None
        return importlib.util.spec_from_loader(name, self)

    def get_source(self, name):
        return MODULES[name]

    def get_filename(self, name):
        return f"{{__file__}}/{{name}}"

    def is_package(self, name):
        return any(other.startswith(f"{{name}}.") for other in MODULES)


if not any(getattr(finder, "package", None) == PACKAGE for finder in sys.meta_path):
    sys.meta_path.append(_Finder())

PolSESSSeparation = importlib.import_module(f"{{PACKAGE}}.inference").PolSESSSeparation
'''


def bundle(modules, source="owner/name"):
    """Writes modules of this project, and what they import of it, into one file.

    Arguments
    ---------
    modules : list of str
        Names of modules, for example ``"custom_modules.models.spmamba"``.
    source : str
        The hub's name of the model, for the usage in the file's docstring.

    Returns
    -------
    package : str
        The name under which the file imports the modules.
    text : str
        The file.

    Example
    -------
    >>> package, text = bundle(["custom_modules.models.masking"])
    >>> f'MODULES["{package}.models.masking"]' in text, "spmamba" in text
    (True, False)
    """
    sources = collect([f"{PROJECT}.inference", *modules])
    digest = hashlib.sha256("\0".join(sources.values()).encode()).hexdigest()
    package = f"polsess_{digest[:12]}"
    parts = []
    for name, text in sources.items():
        if "'''" in text or text.endswith("\\"):
            raise ValueError(f"{name}: cannot be quoted in a raw string")
        name, text = (re.sub(rf"\b{PROJECT}\b", package, t) for t in (name, text))
        parts.append(f"\nMODULES[\"{name}\"] = r'''{text}'''\n")
    return package, _TEMPLATE.format(
        source=source, package=package, modules="".join(parts)
    )


def collect(modules):
    """The sources of modules and of all that they import of this project.

    Arguments
    ---------
    modules : list of str

    Returns
    -------
    dict of str to str
        Module name to source, sorted by name.

    Example
    -------
    >>> list(collect(["custom_modules.models.masking"]))
    ['custom_modules', 'custom_modules.models', 'custom_modules.models.masking']
    """
    sources, waiting = {}, list(modules)
    while waiting:
        name = waiting.pop()
        path = _path(name)
        if name in sources or path is None:
            continue
        sources[name] = path.read_text(encoding="utf-8")
        waiting += _mentioned(sources[name])
        if "." in name:
            waiting.append(name.rpartition(".")[0])
    return dict(sorted(sources.items()))


def _path(module):
    """The file of a module; None if there is no such module."""
    path = _ROOT.joinpath(*module.split(".")[1:])
    candidates = (path / "__init__.py", path.with_suffix(".py"))
    return next((p for p in candidates if p.is_file()), None)


def _mentioned(source):
    """What may be modules of this project, in import statements and strings."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module, *(f"{node.module}.{a.name}" for a in node.names)]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names = [node.value]  # of importlib.import_module
        else:
            continue
        yield from (n for n in names if re.fullmatch(rf"{PROJECT}(\.\w+)*", n or ""))
