"""What is evaluated: a trained checkpoint, or an exported folder."""

import dataclasses
import hashlib
import os
import tempfile
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from speechbrain.utils.autocast import AMPConfig
from speechbrain.utils.distributed import infer_device
from speechbrain.utils.run_opts import RunOptions

from custom_modules.checkpoints import TRAIN_FIRST
from custom_modules.dataio import Manifest, MixtureDataset, check_rate
from custom_modules.errors import InputError
from custom_modules.evaluation.record import digest_of, recorded_corpus
from custom_modules.evaluation.testing import SCORES_FOLDER
from custom_modules.hparams import (
    DATA_ROOT_VARIABLE,
    HPARAMS_FILE,
    load_experiment,
    read_run_options,
    read_yaml,
    split_arguments,
)
from custom_modules.processes import available_cores

#: Forward passes that run side by side on a CPU, at most; each has its memory.
MAX_LANES = 4


class Model:
    """A separator on its device, ready to be tested.

    On a CPU each mixture is one forward pass in one thread, and several run side
    by side: as fast as a batch in several threads, and what a mixture scores
    depends on nothing but itself.

    Arguments
    ---------
    estimate : callable
        ``[batch, time]`` → ``[batch, time, sources]``.
    modules : torch.nn.Module
        What ``estimate`` runs; moved to the device and set to evaluation.
    sample_rate : int
        Hz.
    device : str or torch.device
    dtype : torch.dtype
        Autocast's; float32 is none.

    Example
    -------
    >>> class Halve(torch.nn.Module):
    ...     def forward(self, mixture):
    ...         return torch.stack([mixture / 2, mixture / 2], 2)
    >>> model = Model(Halve(), Halve(), 8000)
    >>> ((examples, estimates),) = model.separate_all([("a", torch.ones(1, 3))])
    >>> estimates.shape
    torch.Size([1, 3, 2])
    """

    def __init__(
        self, estimate, modules, sample_rate, device="cpu", dtype=torch.float32
    ):
        self.estimate, self.sample_rate = estimate, sample_rate
        self.device, self.dtype = torch.device(device), dtype
        self.modules = modules.to(self.device).eval()

    @property
    def lanes(self):
        """How many batches are separated side by side."""
        on_cpu = self.device.type == "cpu"
        return min(available_cores(), MAX_LANES) if on_cpu else 1

    def batch_size(self, wanted):
        """Rows of a batch: as many as wanted on a GPU, on a CPU one."""
        return 1 if self.device.type == "cpu" else wanted

    def separate_all(self, batches):
        """Separates batches, in order.

        Arguments
        ---------
        batches : iterable of (object, torch.Tensor)
            Anything, and mixtures ``[batch, time]``.

        Yields
        ------
        object
            What came with the mixtures.
        torch.Tensor
            Estimates on the device, float32, ``[batch, time, sources]``.
        """
        if self.device.type != "cpu":
            for what, mixtures in batches:
                yield what, self._separate(mixtures)
            return
        torch.set_num_threads(1)
        with ThreadPoolExecutor(self.lanes) as lanes:
            running = deque()
            for what, mixtures in batches:
                running.append((what, lanes.submit(self._separate, mixtures)))
                if len(running) > self.lanes:
                    what, estimates = running.popleft()
                    yield what, estimates.result()
            for what, estimates in running:
                yield what, estimates.result()

    def _separate(self, mixtures):
        with (
            torch.inference_mode(),
            torch.autocast(
                self.device.type, self.dtype, enabled=self.dtype != torch.float32
            ),
        ):
            return self.estimate(mixtures.to(self.device)).float()

    def fingerprint(self):
        """See :func:`fingerprint`."""
        return fingerprint(self.modules)


def fingerprint(modules):
    """A digest of the parameters and settings of all modules.

    Arguments
    ---------
    modules : torch.nn.Module

    Returns
    -------
    str
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, module in modules.named_modules():
        settings = {
            key: value
            for key, value in sorted(vars(module).items())
            if isinstance(value, (int, float, str)) and key != "training"
        }
        digest.update(f"{name} {type(module).__name__} {settings}".encode())
    for name, value in modules.state_dict().items():
        digest.update(name.encode())
        if isinstance(value, torch.Tensor):
            samples = value.detach().cpu()
            if samples.is_floating_point():
                samples = samples.float()
            digest.update(np.ascontiguousarray(samples.numpy()).tobytes())
    return digest.hexdigest()


def check_trained(hparams):
    """Refuses a training without checkpoints, before anything is written.

    Arguments
    ---------
    hparams : dict
        As for :func:`trained_model`.

    Raises
    ------
    InputError
        If there is no checkpoint, or it does not fit the model.
    """
    checkpointer = _checkpointer_of_model(hparams)
    if not checkpointer.has_checkpoints():
        raise _untrained(checkpointer)
    checkpointer.check_fit("separator")


def trained_model(hparams, run_opts):
    """The best checkpoint of a training.

    Arguments
    ---------
    hparams : dict
        ``checkpointer``, ``modules``, ``sample_rate``.
    run_opts : speechbrain.utils.run_opts.RunOptions

    Returns
    -------
    Model
    epoch : int
        That the checkpoint is of.

    Raises
    ------
    InputError
        If there is no checkpoint.
    """
    checkpointer = _checkpointer_of_model(hparams)
    found = checkpointer.recover_if_possible(max_key="si_sdr")
    if found is None:
        raise _untrained(checkpointer)
    separator = hparams["modules"]["separator"]
    model = Model(separator, separator, hparams["sample_rate"], **placement(run_opts))
    return model, found.meta["epoch"]


def _checkpointer_of_model(hparams):
    """Only the model's: schedulers and counters are the training's."""
    checkpointer = hparams["checkpointer"]
    checkpointer.recoverables = {"separator": hparams["modules"]["separator"]}
    return checkpointer


def _untrained(checkpointer):
    return InputError(
        f"{checkpointer.checkpoints_dir}: no checkpoint to test; {TRAIN_FIRST}"
    )


def placement(run_opts):
    """Where and in what precision a model is tested.

    Arguments
    ---------
    run_opts : speechbrain.utils.run_opts.RunOptions
        ``--device`` and ``--eval_precision``, which is fp32 by default.

    Returns
    -------
    dict
        ``device`` and ``dtype``.
    """
    return {
        "device": run_opts.device or infer_device(),
        "dtype": AMPConfig.from_name(run_opts.eval_precision).dtype,
    }


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
        Returns a :class:`~custom_modules.evaluation.loading.Model` and what it is,
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
