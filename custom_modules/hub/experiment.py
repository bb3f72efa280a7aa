"""Where exported weights come from: a training's results, or an older checkpoint."""

from pathlib import Path

import yaml

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
from custom_modules.hub.recipe import ModelRecipe

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
