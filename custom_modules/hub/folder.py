"""Hub folders: writing one, making sure that it loads, and sending it off."""

import ast
import copy
import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import huggingface_hub
import torch
from huggingface_hub.errors import HTTPError
from torch import nn

import custom_modules
from custom_modules.errors import InputError
from custom_modules.files import PARTIAL_SUFFIX, lock
from custom_modules.hparams import HPARAMS_FILE
from custom_modules.hub.card import CardFacts, quote, write_card
from custom_modules.hub.recipe import ModelRecipe
from custom_modules.inference import PolSESSSeparation
from custom_modules.models.masking import MaskingSeparator, fold_norm_eps
from custom_modules.onnx.graphs import quantise, write_graph
from custom_modules.onnx.runtimes import GRAPHS
from custom_modules.pretrained import INTERFACE_FILE

PROJECT = "custom_modules"
_ROOT = Path(custom_modules.__file__).parent
#: What separates recordings by a graph, without any of this project.
SCRIPT = "separate_onnx.py"
#: The most that an exported model may differ from the trained one.
_TOLERANCE = 1e-5
#: What Python and Numba keep of modules that they compiled.
_CACHE = "__pycache__"

_TEMPLATE = '''\
r"""Interface of a PolSESS separator for SpeechBrain:

    from speechbrain.inference.interfaces import foreign_class
    model = foreign_class(
        source={source},
        pymodule_file="custom_interface.py",
        classname="PolSESSSeparation",
    )

Needs speechbrain and what it depends on. Written by the PolSESS recipes' export.py:
below are the modules that the model is made of, each as its text, because a hub
gives out one Python file. Their package's name tells versions apart.
"""

import importlib
import importlib.abc
import sys

PACKAGE = "{package}"
MODULES = {{}}
{modules}

class _Finder(importlib.abc.ExecutionLoader, importlib.abc.MetaPathFinder):
    """Imports the modules of this file."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] != PACKAGE or name not in MODULES:
            return None
        return importlib.util.spec_from_loader(name, self)

    def get_source(self, name):
        return MODULES[name]

    def get_filename(self, name):
        if name.endswith(".numba_kernels"):  # Numba keeps what it compiles beside a real file
            return __file__
        return f"{{__file__}}/{{name.replace('.', '/')}}.py"

    def is_package(self, name):
        return any(other.startswith(f"{{name}}.") for other in MODULES)


if PACKAGE not in sys.modules:
    sys.meta_path.append(_Finder())

PolSESSSeparation = importlib.import_module(f"{{PACKAGE}}.inference").PolSESSSeparation
'''


def bundle(
    modules: list[str], source: str = "owner/name", own: Mapping[str, Path] | None = None
) -> tuple[str, str]:
    """A file of modules of this project and of what they import of it.

    Returns the package under which the file imports them, and its text. Modules of the
    user's ``own``, by name, become the package's.
    """
    texts = {name: path.read_text(encoding="utf-8") for name, path in (own or {}).items()}
    mentioned = (module for text in texts.values() for module in _mentioned(text))
    sources = collect([f"{PROJECT}.inference", *modules, *mentioned])
    sources |= {f"{PROJECT}.{name}": text for name, text in texts.items()}
    digest = hashlib.sha256("\0".join(sources.values()).encode()).hexdigest()
    package = f"polsess_{digest[:12]}"
    parts = []
    for name, text in sources.items():
        name, text = (re.sub(rf"\b{PROJECT}\b", package, t) for t in (name, text))
        readable = "'''" not in text and not text.endswith(("\\", "'"))
        quoted = f"r'''{text}'''" if readable else repr(text)
        parts.append(f'\nMODULES["{name}"] = {quoted}\n')
    return package, _TEMPLATE.format(source=quote(source), package=package, modules="".join(parts))


def collect(modules: Iterable[str]) -> dict[str, str]:
    """The sources of modules and of all that they import of this project, by name.

    >>> list(collect(["custom_modules.models.layers"]))
    ['custom_modules', 'custom_modules.models', 'custom_modules.models.layers']
    """
    sources: dict[str, str] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        path = _ROOT.joinpath(*name.split(".")[1:])
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if name not in sources and path.is_file():
            sources[name] = path.read_text(encoding="utf-8")
            waiting += [*_mentioned(sources[name]), name.rsplit(".", 1)[0]]
    return dict(sorted(sources.items()))


def _mentioned(source: str) -> Iterator[str]:
    """What may be modules of this project, in import statements and strings."""
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = (f"{node.module}.{alias.name}" for alias in node.names)
            names = [node.module, *inner]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names = [node.value]  # of importlib.import_module
        yield from (n for n in names if re.fullmatch(rf"{PROJECT}(\.\w+)*", n))


def write_folder(
    folder: str | Path,
    recipe: ModelRecipe,
    separator: nn.Module,
    facts: CardFacts,
    overwrite: bool = False,
    graphs: Sequence[str] = (),
) -> None:
    """Writes a folder that SpeechBrain loads, and loads it to make sure.

    The separator is the recipe's, with trained weights; ``overwrite`` replaces a hub
    folder of that name; ``graphs`` are the runtimes to write a graph for, onnx first.
    Raises InputError if the folder cannot be written, or does not compute what the
    separator does.
    """
    separator = copy.deepcopy(separator).cpu().eval()
    exported = copy.deepcopy(separator)
    if isinstance(exported, MaskingSeparator) and recipe.is_folded:
        fold_norm_eps(exported)
    package, interface = bundle(recipe.project_modules(), facts.source, recipe.own_modules)
    card = write_card(recipe, separator, facts, graphs)
    with new_folder(folder, overwrite) as partial:
        (partial / HPARAMS_FILE).write_text(recipe.write(package), "utf-8")
        (partial / INTERFACE_FILE).write_text(interface, "utf-8")
        (partial / "README.md").write_text(card, "utf-8")
        for name, module in recipe.modules_of(exported).items():
            state = recipe.tables_of(name) | module.state_dict()
            torch.save(state, partial / f"{name}.ckpt")
        _check(partial, separator, recipe.keys["sample_rate"])
        shutil.rmtree(partial / _CACHE, ignore_errors=True)
        if graphs:
            _add_graphs(partial, recipe, separator, graphs)


def _add_graphs(
    folder: Path, recipe: ModelRecipe, separator: nn.Module, graphs: Sequence[str]
) -> None:
    """Graphs, and the script that needs nothing else."""
    facts = {"model_name": recipe.keys["model_name"], "sample_rate": recipe.keys["sample_rate"]}
    path = folder / GRAPHS["onnx"]
    write_graph(separator, path, facts | {"num_spks": recipe.num_sources}, recipe.architecture)
    if "onnx-int8" in graphs:
        quantise(path, folder / GRAPHS["onnx-int8"])
    shutil.copyfile(_ROOT / "onnx" / SCRIPT, folder / SCRIPT)


def _check(folder: Path, separator: nn.Module, sample_rate: int) -> None:
    """Makes sure that a folder computes what the separator does."""
    loaded = PolSESSSeparation.from_hparams(folder, run_opts={"device": "cpu"})
    generator = torch.Generator().manual_seed(0)
    # Below a second in length, at the level of speech.
    mixture = 0.05 * torch.randn(1, sample_rate * 9 // 10 + 7, generator=generator)
    with torch.no_grad():
        expected, estimate = separator(mixture), loaded.estimate(mixture)
    difference = float((estimate - expected).abs().max())
    if not difference <= _TOLERANCE * max(1.0, float(expected.abs().max())):
        raise InputError(
            f"the exported model differs from the trained one by {difference:.1e}; "
            "its classes or options are not ones that can be exported"
        )


@contextmanager
def new_folder(folder: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """Yields a folder to fill, which gets its name when it is whole.

    Raises InputError if it exists, other than as a hub folder to ``overwrite``, cannot be
    written, or is being written by another command.
    """
    named, folder = folder, Path(os.path.realpath(folder))
    if not str(named).strip() or not folder.name:
        raise InputError(f"{str(named)!r}: is no name of a folder; give it one")
    with lock(folder, beside=True):
        _check_free(Path(named), overwrite)
        partial = folder.with_name(f".{folder.name}.{os.getpid()}{PARTIAL_SUFFIX}")
        before = partial.with_suffix(".before")
        try:
            partial.mkdir()
            yield partial
            if folder.is_dir():
                folder.rename(before)
            partial.rename(folder)
        except (OSError, RuntimeError) as error:  # torch's writer raises the latter
            if isinstance(error, RuntimeError) and "PytorchStreamWriter" not in str(error):
                raise
            reason = getattr(error, "strerror", None) or error
            raise InputError(
                f"{named}: cannot be written ({reason}); check permissions and free space"
            ) from error
        finally:
            if before.exists() and not folder.exists():
                before.rename(folder)
            for left in (partial, before):
                shutil.rmtree(left, ignore_errors=True)


def _check_free(folder: Path, overwrite: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; name another folder")
    if folder.is_dir() and any(folder.iterdir()):
        if not overwrite:
            raise InputError(f"{folder}: exists; name another folder, or --overwrite")
        if not (folder / INTERFACE_FILE).exists():
            raise InputError(f"{folder}: is not an exported model; name another folder")
        if not os.access(folder, os.W_OK):
            raise InputError(f"{folder}: is read-only; name another folder")


def check_name(name: str) -> None:
    """Refuses what no hub takes as the name of a model."""
    try:
        huggingface_hub.utils.validate_repo_id(name)
    except ValueError as error:
        raise InputError(f"--push_to_hub={name}: must be owner/name ({error})") from error
    if "/" not in name:
        raise InputError(f"--push_to_hub={name}: must be owner/name")


def push_folder(folder: str | Path, name: str) -> str:
    """Uploads a folder to a hub as ``owner/name`` and returns its address.

    Raises InputError if the hub refuses, or cannot be reached.
    """
    try:
        api = huggingface_hub.HfApi()
        address = api.create_repo(name, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=str(folder), ignore_patterns=f"{_CACHE}/*")
    except (OSError, ValueError, HTTPError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{name}: not uploaded ({reason}); log in with `hf auth login`. {folder} is complete"
        ) from error
    return str(address)
