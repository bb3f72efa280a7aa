"""Hparams files of a hub folder: the model and its weights, nothing of training."""

import io
import os
import re
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from pydoc import locate
from typing import Any

import torch
import yaml
from hyperpyyaml import load_hyperpyyaml
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.tag import Tag
from speechbrain.lobes.models.conv_tasnet import EPS as _EPS
from speechbrain.utils.logger import get_logger
from torch import Tensor, nn

from custom_modules import hparams
from custom_modules.checkpoints import TRAIN_FIRST, AtomicCheckpointer, describe_epochs
from custom_modules.errors import InputError
from custom_modules.evaluation.record import RECORD_FILE, without_folders
from custom_modules.files import lock, regular_file
from custom_modules.hub.card import CardFacts
from custom_modules.hub.citations import Paper, paper_in
from custom_modules.hub.predecessor import UNKNOWN, OldCheckpoint
from custom_modules.mmipc import num_sources
from custom_modules.pretrained import INTERFACE_FILE
from custom_modules.tabular import read_record
from custom_modules.weights import check_fit, load_exactly

logger = get_logger(__name__)

_MASKING = "custom_modules.models.masking.MaskingSeparator"
#: Dual-path networks are called after what is in their blocks, others as their class.
_DUAL_PATH = {"SBRNNBlock": "DPRNN", "SBTransformerBlock": "SepFormer"}
#: What matters in training alone, or on the machine of the training.
_LEFT_OUT = ("checkpoint_blocks", "scan_backend")

_PRETRAINER = """\
modules:
{}
# Each module's weights are in <name>.ckpt, and fit exactly
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
  loadables:
{}  custom_hooks:
{}"""
_EXACTLY = """\
    {}: !name:speechbrain.utils.checkpoints.torch_recovery
      end_of_epoch: false
"""

RESULTS_TABLE = "test_summary.md"


class ModelRecipe:
    """How the model of an experiment's hparams file is made.

    Raises InputError if the file cannot be read or has no separator.
    """

    def __init__(self, hparams_file: str, overrides: dict[str, Any]) -> None:
        tree = hparams.resolve(hparams_file, overrides)
        for key in ("separator", "model_name", "task", "sample_rate"):
            if key not in tree:
                raise InputError(f"{hparams_file}: has no {key}; is it one of ours?")
        self._file = hparams_file
        self.num_sources = num_sources(tree["task"])
        if "num_sources" in tree:  # a call, instead of which the number is exported
            overrides = {**overrides, "num_sources": self.num_sources}
            tree = hparams.resolve(hparams_file, overrides)
        self.keys = {key: tree[key] for key in ("model_name", "task", "sample_rate")}
        self._separator = node = tree["separator"]
        beside = hparams.modules_beside(hparams_file, overrides)
        hparams.make_importable(beside.values())
        #: The user's own modules, which go along with the model.
        self.own_modules = {
            c: beside[c] for name in _classes(node) if (c := name.split(".")[0]) in beside
        }
        self._ours = {c for c in _classes(node) if c.startswith("custom_modules.")}
        self._stock = {c: stock for c in self._ours if (stock := _stock(c))}
        #: Whether SpeechBrain's stock interface can load the model.
        self.is_masking = self._ours - {*self._stock} == {_MASKING}
        #: What the model adds to variances, if it has a choice.
        maps = [n for n in _nodes(node) if isinstance(n, dict)]
        self.norm_eps = next((n["norm_eps"] for n in maps if "norm_eps" in n), _EPS)
        #: Whether another epsilon than SpeechBrain's is folded into the weights.
        self.is_folded = self.is_masking and self.norm_eps != _EPS
        self._parts = {"separator": node}
        if self.is_masking:
            self._parts = {name: part for name, part in node.items() if _classes(part)}
            if node.get("whole_frames"):
                self.keys["whole_frames"] = True

    @property
    def paper(self) -> Paper | None:
        """The architecture's, if the file's head names it."""
        base, _ = hparams.split_base(self._file)
        return paper_in(Path(base).read_text("utf-8"))

    @property
    def architecture(self) -> str:
        """The name in the field, or of its class."""
        node = self._separator
        if hparams.tag_of(node).endswith(hparams.CONSISTENT):
            node = node["separator"]
        node = node.get("masknet", node) if isinstance(node, dict) else node
        names = [name.rpartition(".")[2] for name in _classes(node)]
        if names[0] == "DualPathMaskNet":
            names = [_DUAL_PATH[name] for name in names if name in _DUAL_PATH] or names
        return names[0].removesuffix("MaskNet")

    def make_separator(self) -> nn.Module:
        """The separator as in training, freshly initialised."""
        text = _write_yaml({"separator": self._separator})
        return load_hyperpyyaml(io.StringIO(text))["separator"]

    def modules_of(self, separator: nn.Module) -> dict[str, nn.Module]:
        """What gets a checkpoint of its own."""
        children = dict(separator.named_children())
        return children if self.is_masking else {"separator": separator}

    def tables_of(self, name: str) -> dict[str, Tensor]:
        """What one of SpeechBrain's own modules keeps in checkpoints beside parameters."""
        if not self.is_masking:
            return {}
        module = load_hyperpyyaml(io.StringIO(self._write_part(name)))[name]
        tables: dict[str, Tensor] = {}
        for buffer, value in module.named_buffers():  # equal ones are stored once
            tables[buffer] = next((t for t in tables.values() if torch.equal(t, value)), value)
        return tables

    def project_modules(self) -> list[str]:
        """Modules of this project that the exported model needs."""
        ours = () if self.is_masking else self._ours
        return sorted({name.rpartition(".")[0] for name in ours})

    def write(self, package: str) -> str:
        """The hparams file of a hub folder, whose code is imported as ``package``."""
        text = _write_yaml(self.keys | {"num_spks": self.num_sources}) + "\n"
        text += "".join(f"{self._write_part(name)}\n" for name in self._parts)
        text = text.replace(":custom_modules.", f":{package}.")
        for module in self.own_modules:
            text = text.replace(f":{module}.", f":{package}.{module}.")
        references = "".join(f"  {name}: !ref <{name}>\n" for name in self._parts)
        loadables = textwrap.indent(references, "  ")
        hooks = "".join(map(_EXACTLY.format, self._parts))
        return text + _PRETRAINER.format(references, loadables, hooks)

    def _write_part(self, name: str) -> str:
        """A part as YAML, of SpeechBrain's classes where they are all that is needed."""
        if not self.is_masking:
            return _write_yaml({name: _copy(self._parts[name], _LEFT_OUT)})
        # In SpeechBrain's classes, any other epsilon than theirs is folded.
        text = _write_yaml({name: _copy(self._parts[name], (*_LEFT_OUT, "norm_eps"))})
        for ours, stock in self._stock.items():
            text = text.replace(f":{ours}\n", f":{stock}\n")
        # SpeechBrain's networks copy a module, where ours call a constructor.
        return text.replace("!name:", "!new:")

    def sizes(self) -> str:
        """The hyperparameters of the model, as YAML."""
        name = "masknet" if self.is_masking else "separator"
        return _write_yaml({name: _copy(self._parts[name])}).rstrip("\n")


def _nodes(node: Any) -> Iterator[Any]:
    """A node and all below it."""
    yield node
    if isinstance(node, (dict, list)):
        for child in node.values() if isinstance(node, dict) else node:
            yield from _nodes(child)


def _classes(node: Any) -> list[str]:
    """The paths of what is constructed at and below a node."""
    tags = (hparams.tag_of(child).partition(":") for child in _nodes(node))
    return [name for kind, _, name in tags if kind in ("!new", "!name", "!apply")]


def _stock(name: str) -> str | None:
    """The path of the class of SpeechBrain's whose place one of ours takes."""
    stock = getattr(locate(name), "stock", None)
    return f"{stock.__module__}.{stock.__qualname__}" if stock else None


def _copy(node: Any, left_out: Sequence[str] = ()) -> Any:
    """A node without some keys, its comments, and what ties it to others."""
    copy: CommentedMap | CommentedSeq
    if isinstance(node, dict):
        kept = {key: node[key] for key in node if key not in left_out}
        copy = CommentedMap({k: _copy(kept[k], left_out) for k in kept})
    elif isinstance(node, list):
        copy = CommentedSeq(_copy(child, left_out) for child in node)
    else:
        return node
    copy.yaml_set_ctag(Tag(suffix=hparams.tag_of(node) or None))
    return copy


def _write_yaml(tree: dict[str, Any]) -> str:
    stream = io.StringIO()
    writer = YAML()
    writer.width = 4096
    writer.dump(tree, stream)
    # Readers of YAML 1.1 take 1e-05 for text.
    return re.sub(r"(?m)(: -?\d+)(e[+-]\d+)$", r"\1.0\2", stream.getvalue())


def load_best(argv: list[str]) -> tuple[ModelRecipe, nn.Module, CardFacts]:
    """The separator of a training, with the weights that did best in validation.

    ``argv`` is an hparams file, and overrides of its keys. Raises InputError if there
    is no checkpoint, or it does not fit the file.
    """
    hparams_file, [_, *others], given = hparams.split_arguments(argv)
    if others:
        raise InputError(f"{others[0]}: is an option of trainings; leave it out")
    if Path(hparams_file).with_name(INTERFACE_FILE).is_file():
        place = Path(hparams_file).parent
        raise InputError(f"{place}: is an exported model; export the results that it is of")
    overrides = hparams.check_overrides(hparams_file, given)
    recorded = hparams.read_hparams(hparams_file).get("data_folder")
    if isinstance(recorded, str | list):  # the environment says where a corpus is now
        overrides["data_folder"] = given.get("data_folder", recorded)
    elif recorded is not None:  # a placeholder
        overrides.setdefault("data_folder", "PolSESS")
    hparams.check_values(given)
    tree = hparams.resolve(hparams_file, overrides)
    recipe = ModelRecipe(hparams_file, overrides)
    # Beside the file, if the results were moved.
    folders = (Path(hparams_file).parent, Path(str(tree.get("output_folder"))))
    folder = next((f for f in folders if (f / "save").is_dir()), None)
    if folder is None:
        raise InputError(
            f"{folders[1]}/save: no such folder of checkpoints; {TRAIN_FIRST}, or give "
            f"results/<model>/<seed>/{hparams.HPARAMS_FILE}"
        )
    hparams.check_recorded(tree, folder)
    separator = recipe.make_separator()
    checkpointer = AtomicCheckpointer(folder / "save", {"separator": separator})
    best = checkpointer.recover_best(tree.get("average_checkpoints", 1))
    if not best:
        raise InputError(f"{folder / 'save'}: no checkpoint to export; {TRAIN_FIRST}")
    epochs = describe_epochs(best)
    facts = CardFacts(
        tree,
        checkpoint=_describe(epochs, [c.meta["si_sdr"] for c in best]),
        results=_results_of(folder, epochs),
    )
    return recipe, separator, facts


def _results_of(folder: Path, epochs: str) -> str | None:
    """The page of a test, if there is one, and it is of these epochs."""
    table, record = folder / RESULTS_TABLE, folder / RECORD_FILE
    if not table.exists():
        return None
    try:
        facts = read_record(record) if record.exists() else {}
        tested = facts.get("checkpoint", epochs)
        if facts.get("observation_db") is not None:
            tested = f"outputs with some of the mixture added ({facts['observation_db']} dB)"
    except InputError as error:
        tested = f"nobody knows what ({error})"
    if tested != epochs:
        logger.warning("%s is of %s, and left out of the card; test again", table, tested)
        return None
    # It is published; older ones name folders of the machine that they are from.
    return without_folders(regular_file(table).read_text("utf-8", "replace"))


def _describe(epochs: str, si_sdr: Sequence[float]) -> str:
    if min(si_sdr) == UNKNOWN:
        return epochs
    reached = " to ".join(f"{value:.2f}" for value in dict.fromkeys((min(si_sdr), max(si_sdr))))
    return f"{epochs}, SI-SDR {reached} dB in validation"


def import_old(
    old: OldCheckpoint, hparams_file: str | Path, path: str | Path
) -> tuple[ModelRecipe, nn.Module, CardFacts]:
    """The separator of a checkpoint of the predecessor, as from :func:`load_best`.

    ``hparams_file`` is of the same architecture; ``path`` names the checkpoint in
    messages. Raises InputError if a parameter does not fit.
    """
    overrides = {**old.overrides, "data_folder": old.data_folder}
    try:
        hparams.check_values(hparams.check_overrides(hparams_file, overrides), model=True)
    except InputError as error:
        raise InputError(f"{path}: its config cannot be used: {error}") from error
    recipe = ModelRecipe(str(hparams_file), overrides)
    from torch._subclasses import FakeTensorMode  # takes a second to import

    # Sizes are compared before they take memory.
    with FakeTensorMode(allow_non_fake_inputs=True):
        check_fit(recipe.make_separator(), old.state_dict, path)
    separator = recipe.make_separator()
    load_exactly(separator, old.state_dict, path)
    tree = hparams.resolve(str(hparams_file), overrides)
    checkpoint = f"{_describe(f'epoch {old.epoch}', [old.si_sdr])}; imported"
    return recipe, separator, CardFacts(tree, checkpoint=checkpoint)


@contextmanager
def new_results_folder(folder: str | Path, exported: str | Path) -> Iterator[None]:
    """Holds a folder to be written; refuses one that is in use or cannot be made."""
    folder = Path(folder)
    if os.path.realpath(folder) == os.path.realpath(exported):
        raise InputError(f"--results={folder}: is FOLDER; name another")
    with lock(folder, beside=True):
        if os.path.isdir(folder) and any(folder.iterdir()):
            raise InputError(f"{folder}: is not empty; name another --results")
        AtomicCheckpointer(folder / "save")  # refuses what is no folder, or not writable
        yield


def write_results_folder(old: OldCheckpoint, hparams_file: str | Path, folder: str | Path) -> None:
    """Writes what a training goes on from: hparams and a checkpoint.

    The optimiser starts afresh; the learning rate is where it was, without a warm-up.
    """
    folder = Path(folder)
    folders = {"data_folder": old.data_folder, "output_folder": str(folder)}
    overrides = {**old.overrides, **folders, "warmup_steps": 0}
    loaded = hparams.load_hparams(str(hparams_file), overrides)
    loaded["separator"].load_state_dict(old.state_dict)
    loaded["epoch_counter"].current = old.epoch
    hparams.write_hparams(hparams_file, overrides, folder / hparams.HPARAMS_FILE)
    parameters = loaded["separator"].parameters()
    checkpointer = loaded["checkpointer"]
    # What the Brain adds to the checkpoints of a training.
    checkpointer.add_recoverable("optimizer", loaded["opt_class"](parameters))
    brain = {"step": 0, "avg_train_loss": 0.0, "optimizer_step": 0}
    brain["initial_lr"] = loaded["lr"]

    def save(state: dict[str, Any], path: Path) -> None:
        path.write_text(yaml.safe_dump(state), encoding="utf-8")

    checkpointer.add_recoverable("brain", brain, custom_save_hook=save)
    checkpointer.save_checkpoint(meta={"si_sdr": old.si_sdr, "epoch": old.epoch})
