"""The generate command in this process, and what it has written, for tests."""

import csv
import hashlib
import os
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from custom_modules.errors import exit_cleanly

ROOT = Path(__file__).parents[2]


SCRIPT = ROOT / "recipes" / "corpus" / "generate.py"


HPARAMS = ROOT / "hparams" / "corpus"


def load_script():
    """The script as a module, so that most tests need not start a process."""
    spec = spec_from_file_location("generate", SCRIPT)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(arguments):
    """Runs the command in this process, as its ``__main__`` does."""
    with exit_cleanly():
        load_script().main([str(argument) for argument in arguments])


ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}


def files_of(root):
    """Path → digest of every file of a corpus."""
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def rows_of(root, subset):
    (path,) = (root / subset).glob("corpus_*_final.csv")
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def refusal(arguments, capsys):
    """Runs a command that must fail; returns its one line."""
    with pytest.raises(SystemExit) as caught:
        run(arguments)
    assert caught.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    (line,) = [line for line in lines if line.startswith("error:")]
    assert lines[-1] == line
    return line
