"""SpeechBrain's TensorBoard and W&B, with audio, for runs that may be resumed."""

import importlib.util
import os
import uuid
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.utils.distributed import if_main_process
from speechbrain.utils.train_logger import TensorboardLogger, WandBLogger
from torch import Tensor

from custom_modules.errors import InputError
from custom_modules.files import atomic_path


class Tracker:
    """Tracks nothing; what all trackers do."""

    plays = False  # whether it is worth keeping audio for it

    def add(self, row: Mapping[str, Any]) -> None:
        """Adds an epoch, a row of ``history.csv``."""

    def add_audio(self, epoch: int, name: str, signal: Tensor, rate: int) -> None:
        """Adds a signal ``[time]``, within ±1, such as ``"val_7/s1"``."""

    def finish(self) -> None:
        """Ends the training's record."""


class TensorBoardTracker(Tracker):
    """Writes ``<folder>/tensorboard``; epochs are its steps, also after a resume."""

    plays = True

    def __init__(self, folder: str | Path, config: Mapping[str, Any], last_epoch: int) -> None:
        self.logger = TensorboardLogger(f"{folder}/tensorboard")
        self.logger.global_step["meta"] = last_epoch
        if not last_epoch:
            lines = yaml.safe_dump(dict(config), sort_keys=False).splitlines()
            text = "".join(f"    {line}\n" for line in lines)
            self.logger.writer.add_text("config", text)

    def add(self, row: Mapping[str, Any]) -> None:
        meta: dict[str, Any] = {}
        stats: dict[str, dict[str, Any]] = {"train": {}, "valid": {}}
        for key, value in row.items():
            split, _, name = key.partition("_")
            if split in stats:
                stats[split][name] = value
            else:
                meta[key] = value
        done = row["epoch"] - 1  # SpeechBrain's counts each metric from 1
        steps = {split: dict.fromkeys(values, done) for split, values in stats.items()}
        self.logger.global_step |= {"meta": done, **steps}
        self.logger.log_stats(meta, *stats.values())
        self.logger.writer.flush()

    def add_audio(self, epoch: int, name: str, signal: Tensor, rate: int) -> None:
        self.logger.log_audio(f"audio/{name}", signal[None], rate)

    def finish(self) -> None:
        self.logger.writer.close()


class WandbTracker(Tracker):
    """Logs to W&B; a resumed training goes on in the same run.

    The run's id is in ``<folder>/wandb_run_id.txt``, unless ``WANDB_RUN_ID`` gives
    it, as ``wandb agent`` does.
    """

    plays = True

    def __init__(self, folder: str | Path, config: Mapping[str, Any], last_epoch: int) -> None:
        import wandb

        try:
            run = wandb.init(
                project=config["wandb_project"],
                mode=config["wandb_mode"],
                name=f"{config['model_name']}_{config['seed']}",
                id=_run_id(folder),
                resume="allow",
                dir=str(folder),
                config=dict(config),
            )
        except wandb.Error as error:
            reason = " ".join(str(error).split())
            raise InputError(
                f"W&B does not start ({reason}); run `wandb login`, or use "
                "--wandb_mode=offline and `wandb sync` later"
            ) from error
        self.logger = WandBLogger(lambda: run)

    def add(self, row: Mapping[str, Any]) -> None:
        # By the names of history.csv: a sweep's metric may not be nested.
        self.logger.log_stats(row)

    def add_audio(self, epoch: int, name: str, signal: Tensor, rate: int) -> None:
        import wandb

        audio = wandb.Audio(signal.numpy(), sample_rate=rate)
        self.logger.run.log({f"audio/{name}": audio}, step=epoch)

    def finish(self) -> None:
        self.logger.run.finish()


_KINDS = {"tensorboard": TensorBoardTracker, "wandb": WandbTracker}


def check_tracker(tracker: str) -> None:
    """Refuses a tracker whose package is missing."""
    if tracker != "none" and importlib.util.find_spec(tracker) is None:
        raise InputError(
            f"--tracker={tracker}: its package is not installed; "
            f"run `pip install {tracker}`, or use --tracker=none"
        )


def open_tracker(hparams: Mapping[str, Any], last_epoch: int) -> Tracker:
    """The tracker that the hparams ask for; one that does nothing on other processes.

    ``last_epoch`` is the last that is done already.
    """
    if hparams["tracker"] == "none" or not if_main_process():
        return Tracker()
    kind = _KINDS[hparams["tracker"]]
    return kind(hparams["output_folder"], plain(hparams), last_epoch)


def audible_signals(
    batch: PaddedBatch, outputs: Mapping[str, Any], names: Collection[str]
) -> list[tuple[str, Tensor]]:
    """What a tracker plays: names such as ``"val_7_SER/s1"``, and signals ``[time]``.

    Each is as loud as can be.
    """
    played: list[tuple[str, Tensor]] = []
    for i in (i for i, name in enumerate(batch.id) if name in names):
        mixture, estimates = outputs["mixture"][i, :, None], outputs["estimates"][i]
        signals = torch.cat([mixture, estimates], dim=1).float().cpu()
        signals /= signals.abs().amax(0).clamp_min(1e-8)
        labels = ["mixture", *(f"s{s + 1}" for s in range(estimates.shape[1]))]
        paths = [f"{batch.id[i]}_{batch.variant[i]}/{label}" for label in labels]
        played += zip(paths, signals.T, strict=True)
    return played


def plain(hparams: Mapping[str, Any]) -> dict[str, Any]:
    """What can be written down of hparams: numbers, text, lists; no objects."""
    kinds = bool | int | float | str | list | None
    return {
        key: value
        for key, value in hparams.items()
        if isinstance(value, kinds) and not key.startswith("__")
    }


def _run_id(folder: str | Path) -> str:
    """The same for all parts of a training."""
    path = Path(folder) / "wandb_run_id.txt"
    given = os.environ.get("WANDB_RUN_ID")
    if given or not path.exists():
        with atomic_path(path) as partial:
            partial.write_text(f"{given or uuid.uuid4().hex[:12]}\n", encoding="utf-8")
    return path.read_text(encoding="utf-8").strip()
