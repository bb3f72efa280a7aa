"""Checkpoints that are whole or not there."""

import hashlib
import inspect
import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import islice
from math import inf, isfinite
from pathlib import Path
from typing import Any

import torch
from speechbrain.nnet.schedulers import LinearScheduler, StepScheduler
from speechbrain.utils.checkpoints import (
    CKPT_PREFIX,
    METAFNAME,
    PARAMFILE_EXT,
    Checkpoint,
    Checkpointer,
    ckpt_recency,
)
from speechbrain.utils.distributed import ddp_barrier, if_main_process
from speechbrain.utils.logger import get_logger
from torch import Tensor

from custom_modules.errors import InputError
from custom_modules.files import PARTIAL_SUFFIX, digest_of, nearest_existing, regular_file
from custom_modules.tabular import read_record
from custom_modules.weights import DAMAGED, check_archive, read_weights

logger = get_logger(__name__)

#: What to do where there is no checkpoint.
TRAIN_FIRST = "train first (--debug keeps none without --debug_persistently)"

#: In a results folder: the corpus that its checkpoints learnt.
LEARNT_FILE = "learnt.json"

#: In a checkpoint: file → its SHA-256.
SUMS_FILE = "sums.json"

# Of the RuntimeErrors that torch's writer raises.
_TORCH_CANNOT_WRITE = ("PytorchStreamWriter", "inline_container", "Parent directory")


class AtomicCheckpointer(Checkpointer):
    """SpeechBrain's checkpointer, safe against being killed while it writes.

    It writes beside and renames, and passes over folders that are not whole.
    ``checkpoints_dir`` is made with the first checkpoint: a start that fails leaves
    nothing.
    """

    def __init__(self, checkpoints_dir: str | Path, *args: Any, **kwargs: Any) -> None:
        _check_folder(Path(checkpoints_dir))
        # SpeechBrain makes the folder that it is given at once; this one is there.
        super().__init__(Path.cwd(), *args, **kwargs)
        self.checkpoints_dir = Path(checkpoints_dir)
        self._as_written = cache(_as_written)  # each file is read once
        self._told: set[Path] = set()

    def add_recoverables(self, recoverables: Mapping[str, Any]) -> None:
        """As SpeechBrain's, but for what has nothing to recover."""
        kept = {name: x for name, x in recoverables.items() if x is not None and not _is_plain(x)}
        super().add_recoverables(kept)

    def save_checkpoint(
        self, *args: Any, verbosity: int = logging.INFO, **kwargs: Any
    ) -> Checkpoint | None:
        """As in SpeechBrain; the folder gets its name when all is in it."""
        if if_main_process():
            for path in self._partial_paths():
                shutil.rmtree(path)
        try:
            self.checkpoints_dir.mkdir(parents=True, exist_ok=True)
            checkpoint = super().save_checkpoint(*args, verbosity=logging.DEBUG, **kwargs)
            ddp_barrier()  # other processes may still be writing
            if checkpoint is not None:
                checkpoint = _give_name(checkpoint)
                logger.log(verbosity, "Saved a checkpoint in %s", checkpoint.path)
        except (OSError, RuntimeError) as error:
            of_torch = any(sign in str(error) for sign in _TORCH_CANNOT_WRITE)
            if not (isinstance(error, OSError) or of_torch):
                raise
            raise InputError(
                f"{self.checkpoints_dir}: a checkpoint cannot be written ({error}); "
                "check permissions and free space. The checkpoints before it are whole"
            ) from error
        ddp_barrier()  # or they would list checkpoints without this one
        return checkpoint

    def list_checkpoints(self) -> list[Checkpoint]:
        """Those that SpeechBrain can list; what else is in them is not read yet."""
        folders = [f for f in self._list_checkpoint_dirs() if self._is_whole(f, [METAFNAME])]
        return self._construct_checkpoint_objects(folders)

    def find_checkpoints(
        self, *args: Any, max_num_checkpoints: int | None = None, **kwargs: Any
    ) -> list[Checkpoint]:
        """As in SpeechBrain, but whole ones; no more is read than it takes."""
        ranked = super().find_checkpoints(*args, **kwargs)
        whole = (c for c in ranked if self._is_whole(c.path, self._files(c)))
        return list(islice(whole, max_num_checkpoints))

    def find_checkpoint(self, *args: Any, **kwargs: Any) -> Checkpoint | None:
        """The first of :meth:`find_checkpoints`."""
        return next(iter(self.find_checkpoints(*args, max_num_checkpoints=1, **kwargs)), None)

    def recover_if_possible(self, *args: Any, **kwargs: Any) -> Checkpoint | None:
        """As in SpeechBrain; refuses a folder none of whose checkpoints is whole."""
        self._tell_unfinished()
        self._refuse_if_lost()
        return super().recover_if_possible(*args, **kwargs)

    def _tell_unfinished(self) -> None:
        for path in self._partial_paths():
            logger.warning("%s was never finished and is passed over", path)

    def _refuse_if_lost(self) -> None:
        if self.has_checkpoints() and self.find_checkpoint() is None:
            raise InputError(
                f"{self.checkpoints_dir}: none of its checkpoints is whole; "
                "restore one, or remove them to start from nothing"
            )

    def load_checkpoint(self, checkpoint: Checkpoint) -> None:
        """As in SpeechBrain; refuses that of a model of another size or task."""
        try:
            super().load_checkpoint(checkpoint)
        except RuntimeError as error:
            if "loading state_dict" not in str(error):
                raise
            raise _misfit(checkpoint) from error

    def find_best(self, number: int = 1) -> list[Checkpoint]:
        """The best so many, by SI-SDR or by words, the best first.

        Fewer if there are not as many, or some failed. Empty if there is none.
        """
        self._tell_unfinished()
        self._refuse_if_lost()
        best = self._find_best(number)
        return [c for c in best if isfinite(self._score()(c))] or best[:1]

    def recover_best(self, number: int = 1) -> list[Checkpoint]:
        """Loads the mean of :meth:`find_best`; they."""
        best = self.find_best(number)
        if best:
            self.load_checkpoint(best[0])  # refuses what does not fit
        if len(best) > 1:
            for name, module in self.recoverables.items():
                module.load_state_dict(mean_of_checkpoints(best, name))
        return best

    def keep_best(self, number: int = 1) -> None:
        """Deletes all but the best so many, by SI-SDR or by words, and the newest."""
        best = self._find_best(number)
        kept = {c.path for c in (*best, self.find_checkpoint()) if c}
        self.delete_checkpoints(
            num_to_keep=0,
            importance_keys=[ckpt_recency],
            ckpt_predicate=lambda c: c.path not in kept,
        )

    def _find_best(self, number: int) -> list[Checkpoint]:
        return self.find_checkpoints(
            importance_key=self._score(), ckpt_predicate=_is_of_epoch, max_num_checkpoints=number
        )

    def _score(self) -> Callable[[Checkpoint], float]:
        """What the best is chosen by, as the newest epoch says: SI-SDR, or fewest word errors."""
        newest = self.find_checkpoint(ckpt_predicate=_is_of_epoch)
        if newest is not None and newest.meta.get("best") == "wer":
            return lambda checkpoint: -float(checkpoint.meta.get("wer", inf))
        return lambda checkpoint: float(checkpoint.meta["si_sdr"])

    def check_fit(self, name: str) -> None:
        """Refuses a newest checkpoint of other shapes in this module, and if none is whole."""
        self._refuse_if_lost()
        newest = self.find_checkpoint()
        if newest is None:
            return
        file, own = newest.paramfiles[name], self.recoverables[name].state_dict()
        if _shapes(read_weights(file)) != _shapes(own):
            raise _misfit(newest)

    def has_checkpoints(self) -> bool:
        """Whether there are any, be they whole or not."""
        return bool(self._list_checkpoint_dirs())

    def _list_checkpoint_dirs(self) -> list[Path]:
        # SpeechBrain's own passes in silence over those that lost their CKPT.yaml.
        return [path for path in self.checkpoints_dir.glob(f"{CKPT_PREFIX}+*") if path.is_dir()]

    def _new_checkpoint_dirpath(self) -> Path:
        return _partial(super()._new_checkpoint_dirpath())

    def _custom_checkpoint_dirpath(self, name: str) -> Path:
        return _partial(super()._custom_checkpoint_dirpath(name))

    def _files(self, checkpoint: Checkpoint) -> list[str]:
        """Names of those that are needed, or there."""
        return [
            name + PARAMFILE_EXT
            for name in self.recoverables
            if name in checkpoint.paramfiles
            # SpeechBrain treats these two kinds as optional, too.
            or not (self.optional_recoverables.get(name) or "dataloader" in name)
        ]

    def _is_whole(self, folder: Path, names: Sequence[str]) -> bool:
        """Whether files are as they were written; the first that is not is told, once."""
        changed = next((name for name in names if not self._as_written(folder / name)), None)
        if changed and folder not in self._told:
            message = "%s is not whole (%s is not as it was written) and is passed over; delete it"
            logger.warning(message, folder, changed)
            self._told.add(folder)
        return changed is None

    def _partial_paths(self) -> list[Path]:
        return list(self.checkpoints_dir.glob(f".{CKPT_PREFIX}*{PARTIAL_SUFFIX}"))


def _is_of_epoch(checkpoint: Checkpoint) -> bool:
    return "si_sdr" in checkpoint.meta  # which those within an epoch lack


def mean_of_checkpoints(checkpoints: Sequence[Checkpoint], name: str) -> dict[str, Tensor]:
    """The mean of what they hold of a module; what is equal in all stays so to the bit."""
    total: dict[str, Tensor] = {}
    dtypes: dict[str, torch.dtype] = {}
    for checkpoint in checkpoints:
        for key, value in read_weights(checkpoint.paramfiles[name]).items():
            total[key], dtypes[key] = total.get(key, 0) + value.double(), value.dtype
    return {key: (value / len(checkpoints)).to(dtypes[key]) for key, value in total.items()}


def _is_plain(scheduler: Any) -> bool:
    """Whether it has no state: a function of the epoch."""
    return inspect.isroutine(scheduler) or isinstance(scheduler, LinearScheduler | StepScheduler)


def check_learnt(
    folder: str | Path, data_folder: str | list[str], manifests: Sequence[Path]
) -> dict[str, Any]:
    """What a training learns; InputError if the checkpoints of its folder learnt another corpus.

    One that was moved, or packed, has the same manifests.
    """
    digest = digest_of(path.read_bytes() for path in manifests)
    learnt = {"data_folder": data_folder, "mixtures": digest}
    file = Path(folder, LEARNT_FILE)
    before = read_record(file, "remove it, if it is the same corpus") if file.exists() else learnt
    if before.get("mixtures") != digest and any(Path(folder).glob("save/CKPT*")):
        if _real(before.get("data_folder")) != _real(data_folder):
            known = f"{folder} has learnt {before.get('data_folder')}, as {LEARNT_FILE} in it says"
            remedy = f"name another --output_folder, which may begin with --pretrained={folder}"
            raise InputError(f"--data_folder={data_folder}: {known}; {remedy}")
        logger.warning("%s has changed since this training began", data_folder)
    return learnt


def _real(folders: Any) -> list[str]:
    return [os.path.realpath(str(x)) for x in (folders if isinstance(folders, list) else [folders])]


def describe_epochs(checkpoints: Sequence[Checkpoint]) -> str:
    """What was loaded, in words: ``epoch 7``, or ``mean of epochs 3, 5, 7``."""
    epochs = sorted(c.meta["epoch"] for c in checkpoints)
    listed = ", ".join(map(str, epochs))
    return f"epoch {listed}" if len(epochs) == 1 else f"mean of epochs {listed}"


def _check_folder(folder: Path) -> None:
    """Refuses a file, and a folder that cannot be made."""
    nearest = nearest_existing(folder)
    if not nearest.is_dir():
        raise InputError(f"{nearest}: is not a folder, but checkpoints would go into it")
    if nearest != folder and not os.access(nearest, os.W_OK):
        raise InputError(
            f"{folder}: cannot be made ({nearest} is not writable); name another --output_folder"
        )


def _shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in state.items()}


def _misfit(checkpoint: Checkpoint) -> InputError:
    return InputError(
        f"{checkpoint.path}: does not fit this model; "
        "use the options it was trained with, or another --output_folder"
    )


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}{PARTIAL_SUFFIX}")


def _as_written(file: Path) -> bool:
    """By its sum. Earlier versions wrote none: what torch wrote is a whole archive at least."""
    sums = file.with_name(SUMS_FILE)
    try:
        regular_file(file)
        if sums.exists():
            return bool(json.loads(regular_file(sums).read_bytes())[file.name] == _sum_of(file))
        with open(file, "rb") as stream:
            start = stream.read(2)
        if start == b"PK":
            check_archive(file)
        return bool(start)
    except (InputError, OSError, RecursionError, *DAMAGED):
        return False


def _sum_of(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _give_name(checkpoint: Checkpoint) -> Checkpoint:
    """What was written beside becomes a checkpoint, once its files are on the disk."""
    sums = {path.name: _sum_of(path) for path in checkpoint.path.iterdir()}
    (checkpoint.path / SUMS_FILE).write_text(json.dumps(sums), encoding="utf-8")
    for path in checkpoint.path.iterdir():
        with open(path, "rb") as stream:
            os.fsync(stream.fileno())
    name = checkpoint.path.name.removeprefix(".").removesuffix(PARTIAL_SUFFIX)
    whole = checkpoint.path.with_name(name)
    os.replace(checkpoint.path, whole)
    paramfiles = {key: whole / p.name for key, p in checkpoint.paramfiles.items()}
    return checkpoint._replace(path=whole, paramfiles=paramfiles)
