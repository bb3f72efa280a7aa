"""The plan of the house: which room may know of which, and how big its parts are."""

import ast
from collections import Counter
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(
    [
        *ROOT.glob("custom_modules/**/*.py"),
        *ROOT.glob("recipes/**/*.py"),
        ROOT / "polsess_prepare.py",
    ]
)
#: Rooms by rank, the highest first: imports go down, or stay within a rank.
RANKS = (
    "recipes polsess_prepare",
    "page conversation",
    "evaluation recordings hub tuning",
    "brain steps training_log trackers curves checkpoints dataio manifest corpus "
    "inference finetuning recognition",
    "models objectives losses metrics longform pretrained schedules composing postprocessing onnx",
    "mmipc remixing audio selective_scan hparams limits distributed markdown weights",
    "processes layout tabular yaml_trees decoding packs",
    "errors files",
    "startup",
)
RANK = {room: rank for rank, rooms in enumerate(RANKS) for room in rooms.split()}
FILE_LINES, FUNCTION_LINES, ANNOTATED = 400, 60, 0.95


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {module_of(path): ast.parse(path.read_text("utf-8")) for path in FILES}


def nodes_of(node: ast.AST, run: bool) -> Iterator[ast.AST]:
    """All nodes below one; if ``run``, without what only type checkers read."""
    for child in ast.iter_child_nodes(node):
        is_condition = isinstance(child, ast.If)
        if run and is_condition and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        yield child
        yield from nodes_of(child, run)


def imports_of(module: str, run: bool = False) -> Iterator[str]:
    """Modules of this house that one imports, in functions too."""
    for node in nodes_of(MODULES[module], run):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: write imports from the root"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if (name := inner if inner in MODULES else node.module) in MODULES:
                    yield name


GRAPH = {module: set(imports_of(module)) for module in MODULES}


def room_of(module: str) -> str:
    first, *rest = module.split(".")
    return rest[0] if first == "custom_modules" and rest else first


def functions_of(
    node: ast.AST, public: bool = False
) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """All functions, or those that others call: not in functions, not private."""
    for child in ast.iter_child_nodes(node):
        is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
        name = getattr(child, "name", None) or ""
        hidden = name.startswith("_") and name not in ("__init__", "__call__")
        if is_function and not (public and hidden):
            yield child
        if not (public and (is_function or hidden)):
            yield from functions_of(child, public)


def arguments_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.arg]:
    every = function.args
    listed = [*every.posonlyargs, *every.args, *every.kwonlyargs]
    listed += [argument for argument in (every.vararg, every.kwarg) if argument]
    return [a for a in listed if a.arg not in ("self", "cls")]


def test_the_walk_finds_the_house():
    assert "custom_modules.files" in GRAPH["custom_modules.audio"]
    assert "polsess_prepare" in GRAPH["recipes.separation.train"]
    assert len(MODULES) > 60


def test_no_import_goes_in_a_circle():
    when_run = {module: set(imports_of(module, run=True)) for module in MODULES}
    TopologicalSorter(when_run).prepare()  # raises and names the circle


def test_every_room_has_its_rank():
    rooms = {room_of(module) for module in MODULES} - {"custom_modules"}
    assert rooms <= set(RANK), "a new room: give it a place in RANKS"


@pytest.mark.parametrize("module", MODULES)
def test_arrows_point_down(module):
    rank = RANK.get(room_of(module), 0)
    up = [name for name in GRAPH[module] if RANK.get(room_of(name), rank) < rank]
    assert not up


def test_no_two_files_have_one_name():
    """But for the commands, which every recipe calls alike: train.py, evaluate.py."""
    library = [p for p in FILES if "recipes" not in p.relative_to(ROOT).parts]
    names = Counter(path.name for path in library if path.name != "__init__.py")
    assert [name for name, count in names.items() if count > 1] == []


def test_no_file_is_too_long():
    lines = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in FILES}
    assert {name: n for name, n in lines.items() if n > FILE_LINES} == {}


def test_no_function_is_too_long():
    lines = {
        f"{module}.{function.name}": function.end_lineno - function.lineno + 1
        for module, tree in MODULES.items()
        for function in functions_of(tree)
    }
    assert {name: n for name, n in lines.items() if n > FUNCTION_LINES} == {}


def test_public_arguments_are_annotated():
    bare, count = Counter(), 0
    for module, tree in MODULES.items():
        for function in functions_of(tree, public=True):
            arguments = arguments_of(function)
            count += len(arguments)
            bare[module] += sum(argument.annotation is None for argument in arguments)
    share = 1 - bare.total() / count
    assert share >= ANNOTATED, f"{share:.1%}; most are missing in {bare.most_common(9)}"
