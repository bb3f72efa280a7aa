"""What ``evaluate.py`` is given: a training's hparams, or an exported folder."""

import dataclasses
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from speechbrain.utils.run_opts import RunOptions

from custom_modules.dataio import MixtureDataset, check_rate
from custom_modules.errors import InputError
from custom_modules.evaluation.evaluate import SCORES_FOLDER
from custom_modules.evaluation.models import (
    Model,
    check_trained,
    placement,
    trained_model,
)
from custom_modules.evaluation.record import digest_of, recorded_corpus
from custom_modules.hparams import (
    DATA_ROOT_VARIABLE,
    HPARAMS_FILE,
    load_experiment,
    read_run_options,
    read_yaml,
    split_arguments,
)
from custom_modules.manifest.reader import Manifest

#: What can be set for an exported folder, whose file knows nothing of a corpus.
EXPORT_KEYS = {
    "data_folder": None,
    "output_folder": None,
    "manifest_folder": None,
    "skip_prep": False,
    "check": "header",
    "skip_bad_rows": False,
}

#: Subset → how the hparams call its manifest.
MANIFEST_KEYS = {
    "train": "train_manifest",
    "val": "valid_manifest",
    "test": "test_manifest",
}


class Subject(NamedTuple):
    """Something that can be evaluated.

    Arguments
    ---------
    hparams : dict
        ``model_name``, ``task``, ``sample_rate``, ``data_folder``,
        ``output_folder``, ``skip_prep``, ``check``, ``skip_bad_rows``; perhaps
        ``seed``.
    overrides : dict
        What the command line changed of them.
    run_opts : speechbrain.utils.run_opts.RunOptions
    load : callable
        Returns a :class:`~custom_modules.evaluation.models.Model` and what it is,
        as a str.
    """

    hparams: dict
    overrides: dict
    run_opts: RunOptions
    load: Callable


def load_subject(argv):
    """Finds out what is to be evaluated.

    Arguments
    ---------
    argv : list of str
        An hparams file, a results folder or an exported folder; then overrides.

    Returns
    -------
    Subject

    Raises
    ------
    InputError
        If there is nothing of these, an override does not fit, or there is no
        checkpoint. Nothing is written by then.
    """
    if argv and Path(argv[0]).is_dir():
        folder = Path(argv[0])
        if not (folder / HPARAMS_FILE).exists():
            raise InputError(
                f"{folder}: holds no {HPARAMS_FILE}; name a results folder, an "
                "exported folder or an hparams file"
            )
        if "checkpointer" not in read_yaml(str(folder / HPARAMS_FILE)):
            return _exported(argv)
        argv = [str(folder / HPARAMS_FILE), *argv[1:]]
    _, hparams, run_opts, overrides = load_experiment(_with_folders(argv))
    check_trained(hparams)
    run_opts = _on_this_machine(run_opts)

    def load():
        model, epoch = trained_model(hparams, run_opts)
        return model, f"epoch {epoch}"

    return Subject(hparams, overrides, run_opts, load)


def _with_folders(argv):
    """What a training left beside its file is found there, wherever results go."""
    if not argv or Path(argv[0]).name != HPARAMS_FILE:
        return argv
    beside = {"save_folder": "save", "manifest_folder": "manifests"}
    folders = {key: Path(argv[0]).with_name(name) for key, name in beside.items()}
    found = [f"--{key}={path}" for key, path in folders.items() if path.is_dir()]
    return [argv[0], *found, *argv[1:]]


def _exported(argv):
    folder, (_, run_arguments, overrides) = argv[0], split_arguments(argv)
    run_opts = _on_this_machine(read_run_options(run_arguments))
    for key in overrides:
        if key not in (*EXPORT_KEYS, *MANIFEST_KEYS.values()):
            raise InputError(
                f"--{key}: not for an exported folder, which takes "
                f"{', '.join(f'--{name}' for name in EXPORT_KEYS)}"
            )
    known = read_yaml(f"{folder}/{HPARAMS_FILE}")
    hparams = EXPORT_KEYS | {"data_folder": os.environ.get(DATA_ROOT_VARIABLE)}
    hparams["output_folder"] = f"results/{Path(folder).resolve().name}"
    for key in ("task", "sample_rate", "model_name"):
        if key not in known:
            raise InputError(
                f"{folder}/{HPARAMS_FILE}: no key {key!r}; is this an exported folder?"
            )
        hparams[key] = known[key]
    hparams |= overrides
    if not hparams["data_folder"]:
        raise InputError("no corpus: use --data_folder or set POLSESS_DATA_ROOT")
    return Subject(
        hparams, overrides, run_opts, lambda: _exported_model(folder, hparams, run_opts)
    )


def _exported_model(folder, hparams, run_opts):
    from custom_modules.inference import PolSESSSeparation

    place = placement(run_opts)
    with tempfile.TemporaryDirectory() as links:
        separation = PolSESSSeparation.from_hparams(
            source=folder, savedir=links, run_opts={"device": str(place["device"])}
        )
    model = Model(
        separation.estimate, separation.mods, int(hparams["sample_rate"]), **place
    )
    return model, f"exported, {folder}"


def _on_this_machine(run_opts):
    """Processes of torchrun talk by gloo where there is no GPU to talk by."""
    if not torch.cuda.is_available() and "distributed_backend" not in (
        run_opts.overridden_args
    ):
        return dataclasses.replace(run_opts, distributed_backend="gloo")
    return run_opts


def results_folder(subject, split):
    """Where results go: never over those of another corpus or split.

    Arguments
    ---------
    subject : Subject
    split : str

    Returns
    -------
    pathlib.Path
        The output folder, if it is the training's corpus or, for an exported
        folder, no other corpus has its results there; else a folder in it, named
        after the corpus, and numbered by its path if another one of that name has
        its results there. In it one named after the split, if it is not the test
        set. An ``--output_folder`` on the command line is taken as it is.
    """
    folder = Path(subject.hparams["output_folder"])
    is_training = (folder / HPARAMS_FILE).exists()
    if "output_folder" in subject.overrides and not is_training:
        return folder
    corpus = Path(subject.hparams["data_folder"]).resolve()
    digest = digest_of([str(corpus).encode()], size=3)
    places = [folder / corpus.name, folder / f"{corpus.name}-{digest}"]
    if not is_training or _is_same(_trained_on(folder), corpus):
        places.insert(0, folder)
    if split != "test":
        places = [place / split for place in places]
    free = (p for p in places if _is_same(recorded_corpus(p), corpus))
    return next(free, places[-1])


def _trained_on(folder):
    known = read_yaml(str(folder / HPARAMS_FILE)).get("data_folder")
    return known if isinstance(known, str) else None  # imported: not filled in yet


def _is_same(known, corpus):
    """Whether a corpus is the one that a file names, or the file names none."""
    if known is None:
        return True
    known = Path(known).resolve()
    # A folder that is not here may have moved, as between machines.
    return known == corpus or (known.name == corpus.name and not known.exists())


def test_set(subject, folder, options):
    """The mixtures to test on, prepared if need be.

    Arguments
    ---------
    subject : Subject
    folder : pathlib.Path
        The results folder; manifests are prepared in it, apart from those of the
        training.
    options : argparse.Namespace
        ``split``, ``variants``, ``max_samples``.

    Returns
    -------
    custom_modules.dataio.MixtureDataset

    Raises
    ------
    InputError
        If the corpus is bad, or does not fit the model.
    """
    hparams, split = subject.hparams, options.split
    path = manifest_path(subject, folder, split)
    manifest = Manifest(path, {"data_root": hparams["data_folder"]})
    check_rate(manifest, int(hparams["sample_rate"]))
    return MixtureDataset(
        manifest,
        options.variants,
        hparams["task"],
        seed=0,  # nothing is drawn
        max_samples=options.max_samples or hparams.get("test_max_samples"),
        draw=False,
    )


def manifest_path(subject, folder, split):
    """The manifest that is asked for, or else where the prepared one goes.

    Arguments
    ---------
    subject : Subject
    folder : pathlib.Path
    split : str

    Returns
    -------
    pathlib.Path
    """
    if MANIFEST_KEYS[split] in subject.overrides:
        return Path(subject.overrides[MANIFEST_KEYS[split]])
    if not subject.hparams["skip_prep"]:
        return folder / SCORES_FOLDER / f"{split}.json"
    if subject.overrides.get("manifest_folder"):
        return Path(subject.overrides["manifest_folder"], f"{split}.json")
    known = subject.hparams.get(MANIFEST_KEYS[split])
    if known is None:
        raise InputError("--skip_prep needs --manifest_folder, or leave it out")
    return Path(known)


def prepare_options(subject, folder, split):
    """What ``prepare_polsess`` takes.

    Arguments
    ---------
    subject : Subject
    folder : pathlib.Path
        The results folder.
    split : str

    Returns
    -------
    dict
    """
    keys = ("data_folder", "skip_prep", "check", "skip_bad_rows")
    given = {key: subject.hparams[key] for key in keys}
    if MANIFEST_KEYS[split] in subject.overrides:
        given["skip_prep"] = True
    return given | {"save_folder": folder / SCORES_FOLDER, "subsets": [split]}
