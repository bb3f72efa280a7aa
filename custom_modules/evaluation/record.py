"""What a table must say about itself: which model, which data, made how."""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from custom_modules import packs
from custom_modules.errors import InputError
from custom_modules.files import digest_of
from custom_modules.layout import corpus_names, talkers_of
from custom_modules.tabular import read_record

if TYPE_CHECKING:
    from custom_modules.dataio import MixtureDataset
    from custom_modules.evaluation.loading import Model
    from custom_modules.evaluation.runner import Timing

#: In the results folder: how they were made, a row of scores for each source, their means.
RECORD_FILE, RESULTS_FILE = "test_run.json", "test_results.csv"
SUMMARY_FILE = "test_summary.csv"

#: Raise it when the same model and data would give other scores, or other files.
FORMAT = 2

#: What :func:`without_folders` shortens, and in it, where a path from the root begins.
_WORD = re.compile(r'"[^"\n]*"|\S+')
_FROM_ROOT = re.compile(r"""(?<![^\s"'`=:,;(\[{])/[^"'`,;)\]}]*""")

#: Whose version changes scores.
PACKAGES = ("torch", "speechbrain", "numpy", "fast_bss_eval", "pesq", "pystoi")


def evaluation_key(model: Model, dataset: MixtureDataset, split: str, batch_size: int) -> str:
    """Names what is evaluated, so that scores of two models never mix.

    ``<split>-<digest>`` of the model's parameters and settings, the manifest, the
    corpus and the sizes and times of its mixes, task, device, precision, rows of a
    batch and the versions of what computes metrics.
    """
    # Outside it stays what changes no score: the choice of variants, metrics and
    # mixtures, processes and workers. And what is not looked at, because it would
    # take too long or changes last digits alone: the content of audio files that
    # keep size and time, layers other than the mix, which GPU, driver and cuDNN.
    roots = ", ".join(str(Path(root).resolve()) for root in dataset.data.roots)
    mixes = (entry["mix"] for entry in dataset.data.values())
    parts = {
        "format": FORMAT,
        "model": fingerprint(model.modules),
        "manifest": digest_of(path.read_bytes() for path in dataset.data.paths),
        "corpus": (roots, digest_of(map(_state, mixes))),
        "task": dataset.task,
        "device": model.device.type,
        "precision": str(model.dtype),
        "batch_size": model.batch_size(batch_size),
        "versions": _versions(),
    }
    return f"{split}-{digest_of([json.dumps(parts).encode()], size=8)}"


def _state(path: str) -> bytes:
    """Size and time of a file."""
    try:
        size, mtime = packs.state_of(path)
    except OSError:
        return b"missing"  # whoever reads it says so
    return f"{size} {mtime}\n".encode()


def fingerprint(modules: torch.nn.Module) -> str:
    """A digest of the parameters and settings of all modules."""

    def pieces() -> Iterator[bytes]:
        for name, module in modules.named_modules():
            settings = {
                key: value
                for key, value in sorted(vars(module).items())
                if isinstance(value, (int, float, str)) and key != "training"
            }
            yield f"{name} {type(module).__name__} {settings}".encode()
        for name, value in modules.state_dict().items():
            yield name.encode()
            if isinstance(value, torch.Tensor):
                samples = value.detach().cpu()
                samples = samples.float() if value.is_floating_point() else samples
                yield samples.numpy().tobytes()

    return digest_of(pieces())


def facts_of(hparams: dict) -> dict[str, Any]:
    """What a record says of the experiment; None for what the hparams lack."""
    keys = ("model_name", "task", "sample_rate", "seed", "data_folder")
    return {key: hparams.get(key) for key in keys}


def size_of(dataset: MixtureDataset) -> dict[str, int | None]:
    """How many mixtures are tested, and of how many voices, None if one is not known.

    An interval over many mixtures of few voices says little about other voices.
    """
    entries = [dataset.data[name] for name in dataset.data_ids]
    heard = 1 if dataset.task == "ES" else 2
    voices = {voice for entry in entries for voice in talkers_of(entry)[:heard]}
    return {"mixtures": len(entries), "voices": None if "" in voices else len(voices)}


def describe_run(
    model: Model, timing: Timing, facts: dict, split: str, checkpoint: str
) -> dict[str, Any]:
    """Everything that is needed to make a table again, as JSON values."""
    return {
        "split": split,
        "checkpoint": checkpoint,
        **facts,
        "command": command(),
        "git_commit": git_commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name(model.device)
        if model.device.type == "cuda"
        else f"{model.device.type} ({platform.machine()})",
        "precision": str(model.dtype).removeprefix("torch."),
        "seconds": round(timing.seconds, 1),
        "seconds_waiting_for_metrics": round(timing.waited, 1),
        "scored_in_this_run": timing.scored,
        "processes": timing.processes,
        "versions": {"python": platform.python_version(), **_versions()},
    }


def _versions() -> dict[str, str]:
    return {name: version(name) for name in PACKAGES}


def command() -> str:
    """The command line of this process, as one would type it."""
    arguments = [f'"{a}"' if " " in a else a for a in sys.argv[1:]]
    script = Path(sys.argv[0])
    if script.is_absolute() and script.is_relative_to(Path.cwd()):
        script = script.relative_to(Path.cwd())
    return " ".join(["python", str(script), *arguments])


def git_commit() -> str | None:
    """The commit that is checked out, and whether files differ from it."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None  # no git, or no repository
    return done.stdout.strip() or None


def recorded_corpus(folder: str | Path) -> str | list[str] | None:
    """The data folders that the results in a folder are of, if they say."""
    try:
        return read_record(Path(folder, RECORD_FILE)).get("data_folder")
    except InputError:  # none yet, or damaged: it is written again
        return None


def record_lines(record: dict) -> list[str]:
    """A record as lines of Markdown; folders without where they are on this machine."""
    corpus, checkpoint = record.get("data_folder"), record.get("checkpoint")
    several = record["processes"] > 1
    shared = f" shared by {record['processes']} processes" if several else ""
    voices, words = record.get("voices"), record.get("words")
    observation = record.get("observation_db")
    facts = {
        "Test set": voices and f"{record['mixtures']} mixtures of {voices} voices",
        "Command": f"`{without_folders(record['command'])}`",
        "Corpus": corpus and corpus_names(corpus),
        "Seed": record.get("seed"),
        "Checkpoint": checkpoint and _shorten(checkpoint),
        "Observation": None
        if observation is None
        else f"the mixture at {observation:g} dB in each output",
        "Recogniser": words and _recogniser(words),
        "Git commit": record["git_commit"],
        "Device": f"{record['device']}, {record['precision']}",
        "Duration": f"{record['seconds']:.0f} s for {record['scored_in_this_run']} "
        f"mixtures in this run{shared}, of which the model waited "
        f"{record['seconds_waiting_for_metrics']:.0f} s for metrics",
        "Date": record["date"],
        "Versions": ", ".join(f"{k} {v}" for k, v in record["versions"].items()),
    }
    return [f"- {name}: {fact}" for name, fact in facts.items() if fact is not None]


def _recogniser(words: dict) -> str:
    options = ", ".join(f"{key} {value}" for key, value in words["options"].items())
    against = "; **references are its own transcripts of the dry targets**"
    return (
        f"{words['recogniser']}, {words['version']}; {options}; "
        f"text rules {words['text_rules']}{against * words['pseudo_references']}"
    )


def without_folders(text: str) -> str:
    """A command line, or Markdown with one, its paths from the root shortened.

    >>> without_folders("train.py hparams/dprnn.yaml --data_folder=/home/me/PolSESS")
    'train.py hparams/dprnn.yaml --data_folder=…/PolSESS'
    >>> without_folders('"--data_folder=/home/jane doe/PolSESS" at 1/3 or a / b')
    '"--data_folder=…/PolSESS" at 1/3 or a / b'
    """
    return _WORD.sub(lambda word: _shorten(word[0]), text)


def _shorten(text: str) -> str:
    def end(match: re.Match) -> str:
        name = Path(match[0]).name
        return f"…/{name}" if name else match[0]

    return _FROM_ROOT.sub(end, text)
