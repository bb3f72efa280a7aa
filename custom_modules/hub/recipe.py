"""Hparams files of a hub folder: the model and its weights, nothing of training."""

import io
from pathlib import Path

import yaml
from hyperpyyaml import load_hyperpyyaml

from custom_modules.checkpoints import TRAIN_FIRST, AtomicCheckpointer
from custom_modules.errors import InputError
from custom_modules.evaluation.record import without_folders
from custom_modules.hparams import (
    check_overrides,
    load_hparams,
    read_hparams,
    resolve,
    split_arguments,
    write_hparams,
)
from custom_modules.hub.card import training_keys
from custom_modules.mmipc import num_sources

#: Our classes whose parameters SpeechBrain's own take unchanged.
_STOCK = {
    "custom_modules.models.masking.DualPathMaskNet": (
        "speechbrain.lobes.models.dual_path.Dual_Path_Model"
    ),
    "custom_modules.models.masking.ConvTasNetMaskNet": (
        "speechbrain.lobes.models.conv_tasnet.MaskNet"
    ),
}
_MASKING = "!new:custom_modules.models.masking.MaskingSeparator"
_STOCK_EPS = 1e-8
_KNOWN = {
    "ConvTasNetMaskNet": "ConvTasNet",
    "SBRNNBlock": "DPRNN",
    "SBTransformerBlock": "SepFormer",
    "SPMamba": "SPMamba",
}
#: What matters in training alone, or on the machine of the training.
_LEFT_OUT = ("norm_eps", "checkpoint_blocks", "scan_backend")


class ModelRecipe:
    """How the model of an hparams file is made.

    Arguments
    ---------
    hparams_file : str
        Of an experiment.
    overrides : dict

    Raises
    ------
    InputError
        If the file cannot be read or has no separator.
    """

    def __init__(self, hparams_file, overrides):
        tree = resolve(hparams_file, overrides)
        for key in ("separator", "model_name", "task", "sample_rate"):
            if key not in tree:
                raise InputError(f"{hparams_file}: has no {key}; is it one of ours?")
        self.keys = {
            key: _plain(tree[key]) for key in ("model_name", "task", "sample_rate")
        }
        self.num_sources = num_sources(self.keys["task"])
        # The model's own nodes refer to this one, which is a call.
        self._values = {id(tree.get("num_sources")): self.num_sources}
        self._separator = tree["separator"]
        self.norm_eps = self._find(self._separator, "norm_eps", 1e-8)

    @property
    def is_masking(self):
        """Whether SpeechBrain's stock interface can load the model."""
        return _tag(self._separator) == _MASKING

    @property
    def is_folded(self):
        """Whether another epsilon than SpeechBrain's is folded into the weights."""
        return self.is_masking and self.norm_eps != _STOCK_EPS

    @property
    def architecture(self):
        """The name in the field, if the model is one of ours; else of its class."""
        names = [tag.rpartition(".")[2] for tag in _tags(self._separator)]
        return next((_KNOWN[n] for n in names if n in _KNOWN), names[0])

    def make_separator(self):
        """The separator as in training, freshly initialised.

        Returns
        -------
        torch.nn.Module
        """
        text = "\n".join(self._lines("separator", self._separator))
        return load_hyperpyyaml(io.StringIO(text))["separator"]

    def modules_of(self, separator):
        """What gets a checkpoint of its own.

        Arguments
        ---------
        separator : torch.nn.Module

        Returns
        -------
        dict of str to torch.nn.Module
        """
        if not self.is_masking:
            return {"separator": separator}
        return {
            name: getattr(separator, name) for name in ("encoder", "masknet", "decoder")
        }

    def project_modules(self):
        """Modules of this project that the exported model needs.

        Returns
        -------
        list of str
        """
        if self.is_masking:
            return []
        names = (tag.partition(":")[2] for tag in _tags(self._separator))
        ours = {name.rpartition(".")[0] for name in names}
        return sorted(name for name in ours if name.startswith("custom_modules."))

    def write(self, package):
        """The hparams file of a hub folder.

        Arguments
        ---------
        package : str
            Under which the interface file imports this project.

        Returns
        -------
        str
        """
        parts = {"separator": self._separator}
        if self.is_masking:
            parts = dict(self._separator)
        lines = [f"{key}: {_scalar(value)}" for key, value in self.keys.items()]
        lines += [f"num_spks: {self.num_sources}", ""]
        for name, node in parts.items():
            lines += [*self._lines(name, node, package=package), ""]
        lines += ["modules:", *(f"  {name}: !ref <{name}>" for name in parts), ""]
        lines += ["# Each module's weights are in <name>.ckpt"]
        lines += ["pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer"]
        lines += ["  loadables:", *(f"    {name}: !ref <{name}>" for name in parts)]
        return "\n".join(lines) + "\n"

    def size_lines(self):
        """The hyperparameters of the model, as lines of YAML."""
        node = self._separator
        node = node["masknet"] if self.is_masking else node
        return list(self._lines("masknet" if self.is_masking else "separator", node))

    def _value(self, node):
        return self._values.get(id(node), node)

    def _find(self, node, key, default):
        """The first value of a key, anywhere below a node."""
        if not hasattr(node, "items"):
            return default
        if key in node:
            return node[key]
        found = (self._find(child, key, None) for child in node.values())
        return next((f for f in found if f is not None), default)

    def _lines(self, key, node, indent="", package=None):
        """A node as YAML; with a package, as it is in a hub folder."""
        node, tag = self._value(node), _tag(node)
        if not hasattr(node, "items"):
            yield f"{indent}{key}: {_scalar(_plain(node))}"
            return
        if package:
            tag = _exported_tag(tag, package)
        yield f"{indent}{key}: {tag}".rstrip()
        for name, child in node.items():
            if package is None or name not in _LEFT_OUT:
                yield from self._lines(name, child, indent + "  ", package)


def _exported_tag(tag, package):
    """SpeechBrain's class for ours, or ours as the interface file imports it."""
    kind, _, name = tag.partition(":")
    # SpeechBrain's mask network copies a module, where ours calls a constructor.
    kind = kind.replace("!name", "!new")
    if name in _STOCK:
        return f"{kind}:{_STOCK[name]}"
    return f"{kind}:{name.replace('custom_modules.', f'{package}.')}"


def _tag(node):
    tag = getattr(node, "tag", None)
    return (tag.value or "") if tag is not None else ""


def _tags(node):
    """What is constructed at and below a node, ``!new:package.Class``."""
    if _tag(node).startswith(("!new:", "!name:")):
        yield _tag(node)
    if hasattr(node, "items"):
        for child in node.values():
            yield from _tags(child)


def _plain(value):
    """Without what ruamel knows of how a value was written."""
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return value


def _scalar(value):
    text = yaml.safe_dump(value, default_flow_style=True, width=1000)
    return text.removesuffix("\n").removesuffix("\n...")


RESULTS_TABLE = "test_summary.md"


def load_best(argv):
    """The separator of a training, with the weights that did best in validation.

    Arguments
    ---------
    argv : list of str
        An hparams file, and overrides of its keys.

    Returns
    -------
    recipe : ModelRecipe
    separator : torch.nn.Module
    facts : dict
        For a model card: ``training``, ``results`` and ``checkpoint``.

    Raises
    ------
    InputError
        If there is no checkpoint, or it does not fit the file.
    """
    hparams_file, _, given = split_arguments(argv)
    overrides = check_overrides(hparams_file, given)
    recorded = read_hparams(hparams_file).get("data_folder")
    if isinstance(recorded, str):  # the environment says where a corpus is now
        overrides["data_folder"] = given.get("data_folder", recorded)
    is_known = "data_folder" in overrides
    if recorded is not None and not is_known:
        overrides["data_folder"] = "not needed"
    tree = resolve(hparams_file, overrides)
    recipe = ModelRecipe(hparams_file, overrides)
    folder = _results_folder(hparams_file, tree)
    separator = recipe.make_separator()
    checkpointer = AtomicCheckpointer(folder / "save", {"separator": separator})
    found = checkpointer.recover_if_possible(max_key="si_sdr")
    if found is None:
        raise InputError(f"{folder / 'save'}: no checkpoint to export; {TRAIN_FIRST}")
    table = folder / RESULTS_TABLE
    return (
        recipe,
        separator,
        {
            "training": training_keys(tree if is_known else _without_corpus(tree)),
            "results": _read(table) if table.exists() else None,
            "checkpoint": _describe(found.meta["epoch"], found.meta["si_sdr"]),
        },
    )


def _without_corpus(tree):
    return {key: value for key, value in tree.items() if key != "data_folder"}


def _read(table):
    """A table to publish; older ones name folders of the machine they are from."""
    return without_folders(table.read_text(encoding="utf-8"))


def _results_folder(hparams_file, tree):
    """Where the checkpoints are: beside the file, if the results were moved."""
    candidates = (Path(hparams_file).parent, Path(str(tree.get("output_folder"))))
    for folder in candidates:
        if (folder / "save").is_dir():
            return folder
    raise InputError(
        f"{candidates[1]}/save: no such folder of checkpoints; {TRAIN_FIRST}, or give "
        "results/<model>/<seed>/hyperparams.yaml"
    )


def _describe(epoch, si_sdr):
    return f"epoch {epoch}, SI-SDR {si_sdr:.2f} dB in validation"


def import_old(old, hparams_file, path):
    """The separator of a checkpoint of the predecessor.

    Arguments
    ---------
    old : custom_modules.hub.predecessor.OldCheckpoint
    hparams_file : str or pathlib.Path
        Of the same architecture.
    path : str
        The checkpoint, for messages.

    Returns
    -------
    recipe, separator, facts
        As from :func:`load_best`.

    Raises
    ------
    InputError
        If a parameter is missing, is not known, or has another shape.
    """
    overrides = {**old.overrides, "data_folder": old.data_folder}
    recipe = ModelRecipe(str(hparams_file), overrides)
    separator = recipe.make_separator()
    _load_exactly(separator, old.state_dict, path)
    facts = {
        "training": training_keys(resolve(str(hparams_file), overrides)),
        "checkpoint": f"{_describe(old.epoch, old.si_sdr)}; imported",
    }
    return recipe, separator, facts


def _load_exactly(separator, state_dict, path):
    """Loads weights; what does not fit is named in one line."""
    own = separator.state_dict()
    problems = {
        "has no": sorted(own.keys() - state_dict.keys()),
        "has an unknown": sorted(state_dict.keys() - own.keys()),
        "has another shape of": sorted(
            name
            for name in own.keys() & state_dict.keys()
            if own[name].shape != state_dict[name].shape
        ),
    }
    for words, names in problems.items():
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise InputError(
                f"{path}: {words} parameter {names[0]}{more}; its config and its "
                "weights do not belong together"
            )
    separator.load_state_dict(state_dict)


def write_results_folder(old, hparams_file, folder):
    """Writes what a training goes on from: hparams and a checkpoint.

    The optimiser starts anew; the learning rate is where it was.

    Arguments
    ---------
    old : custom_modules.hub.predecessor.OldCheckpoint
    hparams_file : str or pathlib.Path
    folder : str or pathlib.Path
        Of the results.

    Raises
    ------
    InputError
        If there is something in it.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder}: is not empty; name another --results")
    overrides = {
        **old.overrides,
        "data_folder": old.data_folder,
        "output_folder": str(folder),
    }
    hparams = load_hparams(str(hparams_file), overrides)
    hparams["separator"].load_state_dict(old.state_dict)
    hparams["epoch_counter"].current = old.epoch
    write_hparams(hparams_file, overrides, folder / "hyperparams.yaml")
    parameters = hparams["separator"].parameters()
    checkpointer = hparams["checkpointer"]
    # What the Brain adds to the checkpoints of a training.
    checkpointer.add_recoverable("optimizer", hparams["opt_class"](parameters))
    brain = {
        **{"step": 0, "avg_train_loss": 0.0, "optimizer_step": 0},
        "initial_lr": hparams["lr"],
    }
    checkpointer.add_recoverable("brain", brain, custom_save_hook=_save_yaml)
    checkpointer.save_checkpoint(meta={"si_sdr": old.si_sdr, "epoch": old.epoch})


def _save_yaml(state, path):
    with open(path, "w", encoding="utf-8") as stream:
        yaml.safe_dump(state, stream)
