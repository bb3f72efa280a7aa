"""Training on from the weights of another training, and parameters that stay as they are."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from speechbrain.lobes.models.conv_tasnet import EPS
from torch import Tensor, nn

from custom_modules.checkpoints import (
    TRAIN_FIRST,
    AtomicCheckpointer,
    describe_epochs,
    mean_of_checkpoints,
)
from custom_modules.errors import InputError
from custom_modules.hparams import CONSISTENT, HPARAMS_FILE, read_hparams
from custom_modules.models.consistency import without_consistency
from custom_modules.models.masking import fold_of_norm_eps, norm_eps_of
from custom_modules.weights import read_weights
from custom_modules.yaml_trees import below, tag_of

#: What a model may be trained for or on, other than this one is.
_PURPOSE = ("task", "sample_rate")


class Source(NamedTuple):
    """Weights to start from, by the separator's names."""

    weights: dict[str, Tensor]
    origin: str  # "epoch 7", say
    hparams: Mapping[str, Any]  # the keys of its file
    norm_eps: float  # ConvTasNet's, to which the weights belong


def begin(hparams: Mapping[str, Any]) -> list[str]:
    """Loads ``pretrained`` into the separator and freezes ``freeze``; what there is to say.

    A run that has checkpoints goes on from its own. Writes nothing.
    """
    separator, notes = without_consistency(hparams["modules"]["separator"]), []
    folder = hparams.get("pretrained")
    if folder and hparams["checkpointer"].has_checkpoints():
        own = hparams["checkpointer"].checkpoints_dir
        notes = [f"--pretrained={folder}: not read; the run goes on from its own, {own}"]
    elif folder:
        notes = load_what_fits(separator, folder, hparams)
    if patterns := hparams.get("freeze"):
        frozen = freeze(separator, patterns)
        notes.append(f"--freeze={patterns}: {frozen} parameters stay as they are")
    return notes


def load_what_fits(
    separator: nn.Module, folder: str | Path, hparams: Mapping[str, Any]
) -> list[str]:
    """Takes weights that fit in name and shape; a line for each that does not.

    InputError if there is none. Weights of a ConvTasNet with another ``norm_eps`` get the
    factor that makes up for it.
    """
    source, own = read_source(folder), separator.state_dict()
    theirs = source.weights.items()
    taken = {n: v for n, v in theirs if n in own and v.shape == own[n].shape}
    parameters = {name for name, _ in separator.named_parameters()}
    if not parameters & taken.keys():
        raise InputError(
            f"--pretrained={folder}: none of its {len(source.weights)} weights fits this model "
            "in name and shape; take the hparams file of its architecture"
        )
    for name in sorted(parameters & taken.keys()):
        if not taken[name].isfinite().all():
            raise InputError(f"--pretrained={folder}: parameter {name} is not finite")
    fold = fold_of_norm_eps(separator, source.norm_eps, norm_eps_of(separator))
    taken |= {name: taken[name] * factor for name, factor in fold.items() if name in taken}
    separator.load_state_dict(taken, strict=False)
    here = {key: hparams.get(key) for key in _PURPOSE}
    there = {key: source.hparams.get(key) for key in _PURPOSE}
    count = f"{len(taken)} of {len(own)} weights of this model"
    notes = [f"--pretrained={folder}: {source.origin}; {count} are from there"]
    if here != there:
        notes.append(f"--pretrained={folder}: was trained with {there}, here {here}")
    left = sorted((own.keys() | source.weights.keys()) - taken.keys())
    return notes + [_misfit(name, source.weights, own) for name in left]


def _misfit(name: str, there: Mapping[str, Tensor], here: Mapping[str, Tensor]) -> str:
    shapes = [list(x[name].shape) if name in x else "nothing" for x in (there, here)]
    return f"--pretrained: not taken: {name}, {shapes[0]} there, {shapes[1]} here"


def read_source(folder: str | Path) -> Source:
    """The weights of a results folder, its best or their mean, or of an exported one."""
    wanted = "name a results folder, or one that export.py wrote"
    file = Path(folder) / HPARAMS_FILE
    if not file.is_file():
        reason = f"holds no {HPARAMS_FILE}" if Path(folder).is_dir() else "no such folder"
        raise InputError(f"--pretrained={folder}: {reason}; {wanted}")
    tree = read_hparams(file)
    if "checkpointer" in tree:
        return _of_training(Path(folder), tree)
    if not isinstance(tree.get("pretrainer"), dict):
        raise InputError(f"--pretrained={folder}: {HPARAMS_FILE} is not of a model; {wanted}")
    return _exported(Path(folder), tree)


def _of_training(folder: Path, tree: Mapping[str, Any]) -> Source:
    save = folder / "save"
    best = AtomicCheckpointer(save, {"separator": nn.Identity()}).find_best(
        tree.get("average_checkpoints", 1)
    )
    if not best:
        raise InputError(f"--pretrained={folder}: {save} has no checkpoint; {TRAIN_FIRST}")
    weights = mean_of_checkpoints(best, "separator")
    if tree.get("mixture_consistency"):
        weights = _inner(weights)
    norm_eps = tree.get("norm_eps", EPS)
    return Source(weights, describe_epochs(best), tree, float(norm_eps))


def _inner(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """By the names that a separator has outside of a ``MixtureConsistent``."""
    return {name.removeprefix("separator."): value for name, value in weights.items()}


def _exported(folder: Path, tree: Mapping[str, Any]) -> Source:
    """Each part has a file of its own; ConvTasNet's epsilon is folded into the weights."""
    weights: dict[str, Tensor] = {}
    for part in tree["pretrainer"].get("loadables", {}):
        state = read_weights(folder / f"{part}.ckpt")
        if not isinstance(state, Mapping) or not all(map(torch.is_tensor, state.values())):
            raise InputError(f"{folder / part}.ckpt: holds no weights by name; export it again")
        prefix = "" if part == "separator" else f"{part}."
        weights |= {f"{prefix}{name}": value for name, value in state.items()}
    norm_eps = EPS
    if tag_of(tree.get("separator")).endswith(CONSISTENT.rpartition(".")[2]):
        weights, norm_eps = _inner(weights), _norm_eps_in(tree)  # nothing is folded there
    return Source(weights, "exported", tree, norm_eps)


def _norm_eps_in(node: Any) -> float:
    """The first ``norm_eps`` of a tree; SpeechBrain's if there is none."""
    if isinstance(node, Mapping) and "norm_eps" in node:
        return float(node["norm_eps"])
    return next((eps for eps in map(_norm_eps_in, below(node)) if eps != EPS), EPS)


def freeze(separator: nn.Module, patterns: str | Sequence[str]) -> int:
    """Parameters that match one of the regular expressions as a whole get no gradient.

    Their number; InputError if one matches nothing, or nothing is left to train.
    """
    parameters = dict(separator.named_parameters())
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        matching = [name for name in parameters if re.fullmatch(pattern, name)]
        if not matching:
            parts = ", ".join(dict.fromkeys(name.partition(".")[0] for name in parameters))
            raise InputError(
                f"--freeze={pattern}: matches no parameter of the separator; its parts are "
                f"{parts}, and all of one is {next(iter(parameters)).partition('.')[0]}.*"
            )
        for name in matching:
            parameters[name].requires_grad_(False)
    frozen = sum(not parameter.requires_grad for parameter in parameters.values())
    if frozen == len(parameters):
        raise InputError(f"--freeze={patterns}: leaves nothing to train; name fewer parameters")
    return frozen


def frozen_statistics(module: nn.Module) -> list[nn.Module]:
    """Modules in frozen ones that have buffers, such as the statistics of a norm.

    These must run as in a test, or their buffers would still follow what is trained on.
    """
    frozen = []
    for each in module.modules():
        parameters = list(each.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            frozen.append(each)
    inside = {id(m): m for each in frozen for m in each.modules() if m._buffers}
    return list(inside.values())
