"""The model that is tested: a trained checkpoint, or an exported folder."""

import argparse
import dataclasses
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from speechbrain.utils.autocast import AMPConfig
from speechbrain.utils.distributed import infer_device
from speechbrain.utils.run_opts import RunOptions
from torch import Tensor

from custom_modules import layout
from custom_modules.checkpoints import TRAIN_FIRST, AtomicCheckpointer, describe_epochs
from custom_modules.dataio import MixtureDataset, check_rate
from custom_modules.errors import InputError
from custom_modules.evaluation.record import recorded_corpus
from custom_modules.evaluation.store import SCORES_FOLDER
from custom_modules.files import digest_of
from custom_modules.hparams import (
    DATA_ROOT_VARIABLE,
    HPARAMS_FILE,
    load_experiment,
    read_hparams,
    read_run_options,
    read_yaml,
    split_arguments,
)
from custom_modules.limits import CHECKS, check_values
from custom_modules.manifest.reading import open_manifest
from custom_modules.onnx.runtimes import graph_of
from custom_modules.postprocessing import Observing
from custom_modules.processes import available_cores

#: Forward passes that run side by side on a CPU, at most; each has its memory.
MAX_LANES = 4

T = TypeVar("T")


class Model:
    """A separator on its device, ready to be tested.

    ``estimate`` takes ``[batch, time]`` and returns ``[batch, time, sources]``;
    ``modules`` is what it runs. Autocast takes ``dtype``; float32 is none.

    On a CPU each mixture is one forward pass in one thread, and several run side
    by side: as fast as a batch in several threads, and what a mixture scores
    depends on nothing but itself.
    """

    def __init__(
        self,
        estimate: Callable[[Tensor], Tensor],
        modules: torch.nn.Module,
        sample_rate: int,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.estimate, self.sample_rate = estimate, sample_rate
        self.device, self.dtype = torch.device(device), dtype
        self.modules = modules.to(self.device).eval()
        # SpeechBrain has GPUs drop 13 of float32's places (TF32); scores would then
        # depend on the card and, by hundredths of a dB, on the batch size.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False

    @property
    def lanes(self) -> int:
        """How many batches are separated side by side."""
        on_cpu = self.device.type == "cpu"
        return min(available_cores(), MAX_LANES) if on_cpu else 1

    def batch_size(self, wanted: int) -> int:
        """Rows of a batch: as many as wanted on a GPU, on a CPU one."""
        return 1 if self.device.type == "cpu" else wanted

    def separate_all(self, batches: Iterable[tuple[T, Tensor]]) -> Iterator[tuple[T, Tensor]]:
        """Separates mixtures, ``[batch, time]``, in order; what comes with each stays.

        Estimates are float32 on the device, ``[batch, time, sources]``.
        """
        if self.device.type != "cpu":
            for item, mixtures in batches:
                yield item, self._separate(mixtures)
            return
        torch.set_num_threads(1)
        with ThreadPoolExecutor(self.lanes) as lanes:
            running: deque = deque()
            for item, mixtures in batches:
                running.append((item, lanes.submit(self._separate, mixtures)))
                if len(running) > self.lanes:
                    item, estimates = running.popleft()
                    yield item, estimates.result()
            for item, estimates in running:
                yield item, estimates.result()

    def _separate(self, mixtures: Tensor) -> Tensor:
        with (
            torch.inference_mode(),
            torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32),
        ):
            return self.estimate(mixtures.to(self.device)).float()


def observing(model: Model, observation_db: float | None) -> Model:
    """A model whose outputs hold some of the mixture again; the same one if None is asked for."""
    if observation_db is None:
        return model
    parts = (model.estimate, model.modules, model.sample_rate, observation_db)
    modules = Observing(*parts)
    return Model(modules, modules, model.sample_rate, model.device, model.dtype)


def trained_model(hparams: dict, run_opts: RunOptions) -> tuple[Model, str]:
    """The best of a training, or the mean of its best checkpoints, and their epochs.

    InputError without one.
    """
    checkpointer = _checkpointer(hparams)
    best = checkpointer.recover_best(hparams.get("average_checkpoints", 1))
    if not best:  # a first epoch that was cut off
        raise _untrained(checkpointer)
    separator = hparams["modules"]["separator"]
    device, dtype = _placement(run_opts)
    model = Model(separator, separator, hparams["sample_rate"], device, dtype)
    return model, describe_epochs(best)


def _checkpointer(hparams: dict) -> AtomicCheckpointer:
    """One of the model alone; InputError without a checkpoint that fits.

    Schedulers and counters are the training's.
    """
    folder = hparams["checkpointer"].checkpoints_dir
    models = {"separator": hparams["modules"]["separator"]}
    checkpointer = AtomicCheckpointer(folder, models)
    if not checkpointer.has_checkpoints():
        raise _untrained(checkpointer)
    checkpointer.check_fit("separator")
    return checkpointer


def _untrained(checkpointer: AtomicCheckpointer) -> InputError:
    folder = checkpointer.checkpoints_dir
    return InputError(f"{folder}: no checkpoint to test; {TRAIN_FIRST}")


def _placement(run_opts: RunOptions) -> tuple[str | torch.device, torch.dtype]:
    """Device and precision of a test: ``--device``, ``--eval_precision``."""
    dtype = AMPConfig.from_name(run_opts.eval_precision).dtype
    return run_opts.device or infer_device(), dtype


#: What can be set for an exported folder, whose file knows nothing of a corpus.
EXPORT_KEYS: dict[str, Any] = {
    "data_folder": None,
    "output_folder": None,
    "manifest_folder": None,
    "skip_prep": False,
    "check": "header",
    "skip_bad_rows": False,
}

#: Subset → how the hparams call its manifest.
MANIFEST_KEYS = {"train": "train_manifest", "val": "valid_manifest", "test": "test_manifest"}


class FoundModel(NamedTuple):
    """A model that can be tested, not loaded yet."""

    #: ``model_name``, ``task``, ``sample_rate``, ``data_folder``, ``output_folder``,
    #: ``skip_prep``, ``check``, ``skip_bad_rows``; perhaps ``seed``.
    hparams: dict
    overrides: dict  # what the command line changed of them
    run_opts: RunOptions
    load: Callable[[], tuple[Model, str]]  # the model, and what it is for the record


def find_model(argv: list[str], runtime: str = "torch") -> FoundModel:
    """What is to be tested: an hparams file, results or exported folder; overrides.

    An exported folder's graph is run by another ``runtime``, on a CPU. InputError if it is
    none of these, an override does not fit, or there is no checkpoint. Nothing is written
    by then.
    """
    wanted = "a results folder, an exported folder or an hparams file"
    if not argv or argv[0].startswith("--"):
        raise InputError(f"the first argument must be {wanted}; see --help")
    file = Path(argv[0])
    if file.is_dir():
        file = file / HPARAMS_FILE
        if not file.exists():
            raise InputError(f"{argv[0]}: holds no {HPARAMS_FILE}; name {wanted}")
    if "checkpointer" not in read_hparams(file):
        if file.name == HPARAMS_FILE:
            return _exported([str(file.parent), *argv[1:]], runtime)
        raise InputError(f"{file}: is not of a training; name {wanted}")
    if runtime != "torch":
        graph = "an exported folder, which export.py --onnx wrote"
        raise InputError(f"--runtime={runtime}: {argv[0]} is of a training; name {graph}")
    argv = [argv[0], *_folders_beside(file), *argv[1:]]
    _, hparams, run_opts, overrides = load_experiment(argv)
    _checkpointer(hparams)  # refuses one without a checkpoint before anything is written

    def load() -> tuple[Model, str]:
        return trained_model(hparams, run_opts)

    return FoundModel(hparams, overrides, _on_this_machine(run_opts), load)


def _folders_beside(file: Path) -> list[str]:
    """What a training left beside its file is found there, wherever results go."""
    if file.name != HPARAMS_FILE:
        return []
    folders = {
        "save_folder": file.with_name("save"),
        "manifest_folder": file.with_name("manifests"),
    }
    return [f"--{key}={folder}" for key, folder in folders.items() if folder.is_dir()]


def _exported(argv: list[str], runtime: str) -> FoundModel:
    folder, file = argv[0], f"{argv[0]}/{HPARAMS_FILE}"
    _, run_arguments, overrides = split_arguments([file, *argv[1:]], known=EXPORT_KEYS)
    run_opts = read_run_options(run_arguments)
    for key in overrides:
        if key not in (*EXPORT_KEYS, *MANIFEST_KEYS.values()):
            raise InputError(
                f"--{key}: not for an exported folder, which takes "
                f"{', '.join(f'--{name}' for name in EXPORT_KEYS)}"
            )
    check_values(overrides)
    known = read_yaml(file)
    if runtime != "torch":
        graph_of(Path(folder), runtime)  # refused before anything is written
    hparams = EXPORT_KEYS | {"data_folder": os.environ.get(DATA_ROOT_VARIABLE)}
    hparams["output_folder"] = f"results/{Path(folder).resolve().name}"
    for key in ("task", "sample_rate", "model_name"):
        if key not in known:
            raise InputError(f"{file}: no key {key!r}; is this an exported folder?")
        CHECKS[key](f"{file}: {key}", known[key])
        hparams[key] = known[key]
    hparams |= overrides
    if not hparams["data_folder"]:
        raise InputError("no corpus: use --data_folder or set POLSESS_DATA_ROOT")

    def load() -> tuple[Model, str]:
        return _load_exported(folder, runtime, run_opts, int(hparams["sample_rate"]))

    return FoundModel(hparams, overrides, _on_this_machine(run_opts), load)


def _load_exported(folder: str, runtime: str, run_opts: RunOptions, rate: int) -> tuple[Model, str]:
    from custom_modules.inference import PolSESSSeparation

    device, dtype = _placement(run_opts)
    options: dict[str, Any] = {"run_opts": {"device": str(device)}}
    checkpoint = f"exported, {folder}"
    if runtime != "torch":
        torch.set_num_threads(1)  # of a graph, too: a test runs several side by side
        device = run_opts.device or "cpu"
        chosen = {"device": str(device), "precision": run_opts.eval_precision}
        options, checkpoint = {"run_opts": chosen, "runtime": runtime}, f"{checkpoint}, {runtime}"
    separation = PolSESSSeparation.from_hparams(source=folder, **options)
    return Model(separation.estimate, separation.mods, rate, device, dtype), checkpoint


def _on_this_machine(run_opts: RunOptions) -> RunOptions:
    """Processes of torchrun talk by gloo where there is no GPU to talk by."""
    is_chosen = "distributed_backend" in run_opts.overridden_args
    if torch.cuda.is_available() or is_chosen:
        return run_opts
    return dataclasses.replace(run_opts, distributed_backend="gloo")


def results_folder(model: FoundModel, split: str) -> Path:
    """Where results go: never over those of another corpus or split.

    The output folder, if it is the training's corpus or, for an exported folder, no
    other corpus has its results there; else a folder in it, named after the corpus, and
    numbered by its path if another one of that name has its results there. In it one
    named after the split, if it is not the test set. An ``--output_folder`` on the
    command line is taken as it is.
    """
    folder = Path(model.hparams["output_folder"])
    is_training = (folder / HPARAMS_FILE).exists()
    if "output_folder" in model.overrides and not is_training:
        return folder
    corpora = _roots(model.hparams["data_folder"])
    digest = digest_of((str(root).encode() for root in corpora), size=3)
    trained_on = is_training and read_yaml(folder / HPARAMS_FILE).get("data_folder")
    name = "+".join(root.name for root in corpora)
    places = [folder / name, folder / f"{name}-{digest}"]
    if _may_be(trained_on, corpora):
        places.insert(0, folder)
    if split != "test":
        places = [place / split for place in places]
    free = (p for p in places if _may_be(recorded_corpus(p), corpora))
    return next(free, places[-1])


def _roots(data_folder: str | list[str]) -> list[Path]:
    return [Path(folder).resolve() for folder in layout.corpora(data_folder).values()]


def _may_be(known: object, corpora: list[Path]) -> bool:
    """Whether corpora are those that a file names, or the file names none."""
    if not isinstance(known, str | list):  # not filled in yet, of an imported model
        return True
    # A folder that is not here may have moved, as between machines.
    pairs = list(zip(_roots(known), corpora, strict=False))
    same = (p == c or (p.name == c.name and not p.exists()) for p, c in pairs)
    return len(layout.corpora(known)) == len(corpora) and all(same)


def test_set(model: FoundModel, folder: Path, options: argparse.Namespace) -> MixtureDataset:
    """The mixtures to test on, by ``split``, ``variants`` and ``max_samples``.

    InputError if the corpus is bad, or does not fit the model.
    """
    hparams = model.hparams
    path = manifest_path(model, folder, options.split)
    manifest = open_manifest(path, hparams["data_folder"])
    check_rate(manifest, int(hparams["sample_rate"]))
    return MixtureDataset(
        manifest,
        options.variants,
        hparams["task"],
        seed=0,  # nothing is drawn
        max_samples=options.max_samples or hparams.get("test_max_samples"),
        draw=False,
    )


def manifest_path(model: FoundModel, folder: Path, split: str) -> Path:
    """The manifest that is asked for, or else where the prepared one goes.

    That is in the results folder, apart from the manifests of the training.
    """
    key = MANIFEST_KEYS[split]
    if key in model.overrides:
        return Path(model.overrides[key])
    if not model.hparams["skip_prep"]:
        return folder / SCORES_FOLDER / f"{split}.json"
    if model.overrides.get("manifest_folder"):
        return Path(model.overrides["manifest_folder"], f"{split}.json")
    if model.hparams.get(key) is None:
        raise InputError("--skip_prep needs --manifest_folder, or leave it out")
    return Path(model.hparams[key])


def prepare_options(model: FoundModel, folder: Path, split: str) -> list[dict[str, Any]]:
    """What ``prepare_polsess`` takes, for each corpus."""
    options = {key: model.hparams[key] for key in ("check", "skip_bad_rows")} | {
        "skip_prep": MANIFEST_KEYS[split] in model.overrides or model.hparams["skip_prep"],
        "subsets": [split],
    }
    return [
        options | {"data_folder": corpus, "save_folder": folder / SCORES_FOLDER / label}
        for label, corpus in layout.corpora(model.hparams["data_folder"]).items()
    ]
