"""Checkpoints that are whole or not there."""

import json
import logging
import os
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from speechbrain.utils.checkpoints import (
    CKPT_PREFIX,
    METAFNAME,
    PARAMFILE_EXT,
    Checkpoint,
    Checkpointer,
)
from speechbrain.utils.distributed import ddp_barrier, if_main_process
from speechbrain.utils.logger import get_logger
from torch import Tensor

from custom_modules.errors import InputError
from custom_modules.files import PARTIAL_SUFFIX, nearest_existing, regular_file
from custom_modules.weights import read_weights

logger = get_logger(__name__)

#: What to do where there is no checkpoint.
TRAIN_FIRST = "train first (--debug keeps none without --debug_persistently)"

#: In a checkpoint: file → its CRC-32.
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
        self._read: dict[Path, bool] = {}
        self._told: set[Path] = set()

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
        except (OSError, RuntimeError) as error:
            of_torch = any(sign in str(error) for sign in _TORCH_CANNOT_WRITE)
            if not (isinstance(error, OSError) or of_torch):
                raise
            raise InputError(
                f"{self.checkpoints_dir}: a checkpoint cannot be written ({error}); "
                "check permissions and free space. The checkpoints before it are whole"
            ) from error
        ddp_barrier()  # other processes may still be writing
        if checkpoint is not None:
            checkpoint = _give_name(checkpoint)
            logger.log(verbosity, "Saved a checkpoint in %s", checkpoint.path)
        ddp_barrier()  # or they would list checkpoints without this one
        return checkpoint

    def list_checkpoints(self) -> list[Checkpoint]:
        """The checkpoints that have all their files, as SpeechBrain lists them."""
        folders = [f for f in self._list_checkpoint_dirs() if self._is_whole(f, self._lacks(f))]
        return self._construct_checkpoint_objects(folders)

    def find_checkpoints(
        self, *args: Any, max_num_checkpoints: int | None = None, **kwargs: Any
    ) -> list[Checkpoint]:
        """As in SpeechBrain; those whose files are as they were written."""
        checkpoints = super().find_checkpoints(*args, **kwargs)
        return [c for c in checkpoints if self._is_sound(c)][:max_num_checkpoints]

    def find_checkpoint(self, *args: Any, **kwargs: Any) -> Checkpoint | None:
        """The first of them; no more files are read than it takes."""
        checkpoints = super().find_checkpoints(*args, **kwargs)
        return next(filter(self._is_sound, checkpoints), None)

    def recover_if_possible(self, *args: Any, **kwargs: Any) -> Checkpoint | None:
        """As in SpeechBrain; refuses a folder none of whose checkpoints is whole."""
        for path in self._partial_paths():
            logger.warning("%s was never finished and is passed over", path)
        self._refuse_if_lost()
        return super().recover_if_possible(*args, **kwargs)

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

    def check_fit(self, name: str) -> None:
        """Refuses a folder whose newest checkpoint has other shapes in this module.

        And one none of whose checkpoints is whole.
        """
        self._refuse_if_lost()
        newest = self.find_checkpoint()
        if newest is None:
            return
        file, own = newest.paramfiles[name], self.recoverables[name].state_dict()
        saved = torch.load(file, map_location="cpu", weights_only=True)
        if _shapes(saved) != _shapes(own):
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

    def _lacks(self, folder: Path) -> str:
        """The first of its files that is not there or empty, or not that of a checkpoint."""
        names = (name for name in self.recoverables if not self._is_optional(name))
        for name in (METAFNAME, *(f"{name}{PARAMFILE_EXT}" for name in names)):
            file = folder / name
            if not (file.exists() and file.stat().st_size):
                return name
        return "" if self._as_written(folder / METAFNAME) else METAFNAME

    def _is_sound(self, checkpoint: Checkpoint) -> bool:
        files = (f for name, f in checkpoint.paramfiles.items() if name in self.recoverables)
        changed = (file.name for file in files if not self._as_written(file))
        return self._is_whole(checkpoint.path, next(changed, ""))

    def _is_whole(self, folder: Path, flaw: str) -> bool:
        """Tells of a flaw, once."""
        if flaw and folder not in self._told:
            message = "%s is not whole (%s is not as it was written) and is passed over; delete it"
            logger.warning(message, folder, flaw)
            self._told.add(folder)
        return not flaw

    def _as_written(self, file: Path) -> bool:
        """Whether a file has its sum; each is read once."""
        if file not in self._read:
            self._read[file] = _as_written(file)
        return self._read[file]

    def _is_optional(self, name: str) -> bool:
        """SpeechBrain treats these two kinds as optional, too."""
        return bool(self.optional_recoverables.get(name)) or "dataloader" in name

    def _partial_paths(self) -> list[Path]:
        return list(self.checkpoints_dir.glob(f".{CKPT_PREFIX}*{PARTIAL_SUFFIX}"))


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
    """By its sum; checkpoints of earlier versions have none, and what torch wrote is read."""
    sums = file.with_name(SUMS_FILE)
    try:
        regular_file(file)
        if sums.exists():
            return bool(json.loads(regular_file(sums).read_bytes())[file.name] == _sum_of(file))
        if file.name == METAFNAME:
            meta = yaml.safe_load(file.read_bytes())
            return {"unixtime", "end-of-epoch"} <= set(meta)
        with open(file, "rb") as stream:
            of_torch = stream.read(2) == b"PK"
        values = read_weights(file) if of_torch else {}
    except (InputError, ValueError, TypeError, LookupError, RecursionError, yaml.YAMLError):
        return False
    tensors = filter(torch.is_tensor, values.values() if isinstance(values, Mapping) else ())
    return all(bool(value.isfinite().all()) for value in tensors)


def _sum_of(file: Path) -> int:
    total = 0
    with open(file, "rb") as stream:
        while block := stream.read(1 << 20):
            total = zlib.crc32(block, total)
    return total


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
