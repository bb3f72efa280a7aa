"""The generate command in this process, and what it has written, for tests."""

import csv
import hashlib
import os

import pytest

from custom_modules.errors import exit_cleanly
from tests.integration.training import ROOT, load_script

SCRIPT = ROOT / "recipes" / "corpus" / "generate.py"
HPARAMS = ROOT / "hparams" / "corpus"
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}


def run(arguments):
    """Runs the command in this process, as its ``__main__`` does."""
    with exit_cleanly():
        load_script("generate", "corpus").main([str(argument) for argument in arguments])


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
