"""TensorBoard and Weights & Biases, beside the local record that always exists.

Both are SpeechBrain's loggers; here is what they lack: a resumed run that goes on,
audio for both, and the true message when W&B cannot start.
"""

import importlib.util
import os
import uuid
from pathlib import Path

import torch
import yaml
from speechbrain.utils.distributed import if_main_process
from speechbrain.utils.train_logger import TensorboardLogger, WandBLogger

from custom_modules.errors import InputError
from custom_modules.files import atomic_path

TRACKERS = ("none", "tensorboard", "wandb")
WANDB_MODES = ("online", "offline")


class Tracker:
    """Tracks nothing; what all trackers do.

    Arguments
    ---------
    folder : str or pathlib.Path
        Of the results.
    config : dict
        The plain hparams.
    last_epoch : int
        The last that is done already; 0 if training starts anew.
    """

    #: Whether it is worth keeping audio for it.
    hears = False

    def __init__(self, folder, config, last_epoch):
        """Opens it."""

    def add(self, row):
        """Adds an epoch.

        Arguments
        ---------
        row : dict
            Of ``history.csv``.
        """

    def add_audio(self, epoch, name, signal, sample_rate):
        """Adds a signal to listen to.

        Arguments
        ---------
        epoch : int
        name : str
            Such as ``"val_7/s1"``.
        signal : torch.Tensor
            ``[time]``, within ±1.
        sample_rate : int
            Hz.
        """

    def finish(self):
        """Says that the training is over."""


_SPLITS = ("train_", "valid_")


class TensorBoardTracker(Tracker):
    """Writes ``<folder>/tensorboard``; epochs are its steps, also after a resume."""

    hears = True

    def __init__(self, folder, config, last_epoch):
        self.logger = TensorboardLogger(f"{folder}/tensorboard")
        self.logger.global_step["meta"] = last_epoch
        if not last_epoch:
            text = "".join(f"    {line}\n" for line in _as_yaml(config).splitlines())
            self.logger.writer.add_text("config", text)

    def add(self, row):
        for split in _SPLITS:  # SpeechBrain's logger counts each metric from 1
            steps = dict.fromkeys(_of(row, split), row["epoch"] - 1)
            self.logger.global_step[split.rstrip("_")] = steps
        self.logger.global_step["meta"] = row["epoch"] - 1
        meta = {k: v for k, v in row.items() if not k.startswith(_SPLITS)}
        stats = {f"{split}stats": _of(row, split) for split in _SPLITS}
        self.logger.log_stats(meta, **stats)
        self.logger.writer.flush()

    def add_audio(self, epoch, name, signal, sample_rate):
        self.logger.log_audio(f"audio/{name}", signal[None], sample_rate)

    def finish(self):
        self.logger.writer.close()


class WandbTracker(Tracker):
    """Logs to W&B; a resumed training goes on in the same run.

    The run's id is in ``<folder>/wandb_run_id.txt``, unless ``WANDB_RUN_ID`` gives
    it, as ``wandb agent`` does.

    Raises
    ------
    InputError
        If W&B does not start, with what it says.
    """

    hears = True

    def __init__(self, folder, config, last_epoch):
        import wandb

        try:
            run = wandb.init(
                project=config["wandb_project"],
                mode=config["wandb_mode"],
                name=f"{config['model_name']}_{config['seed']}",
                id=_run_id(folder),
                resume="allow",
                dir=str(folder),
                config=config,
            )
        except wandb.Error as error:
            reason = " ".join(str(error).split())
            raise InputError(
                f"W&B does not start ({reason}); run `wandb login`, or use "
                "--wandb_mode=offline and `wandb sync` later"
            ) from error
        self.logger = WandBLogger(lambda: run)

    def add(self, row):
        # By the names of history.csv: a sweep's metric may not be nested.
        self.logger.log_stats(row)

    def add_audio(self, epoch, name, signal, sample_rate):
        import wandb

        audio = wandb.Audio(signal.numpy(), sample_rate=sample_rate)
        self.logger.run.log({f"audio/{name}": audio}, step=epoch)

    def finish(self):
        self.logger.run.finish()


def check_tracker(tracker, wandb_mode):
    """Refuses a tracker that there is not, or whose package is missing.

    Arguments
    ---------
    tracker : str
        One of :data:`TRACKERS`.
    wandb_mode : str
        One of :data:`WANDB_MODES`.

    Raises
    ------
    InputError

    Example
    -------
    >>> check_tracker("wandb", "sometimes")
    Traceback (most recent call last):
    custom_modules.errors.InputError: --wandb_mode=sometimes: choose online or offline
    """
    if tracker not in TRACKERS:
        raise InputError(f"--tracker={tracker}: choose one of {', '.join(TRACKERS)}")
    if wandb_mode not in WANDB_MODES:
        raise InputError(f"--wandb_mode={wandb_mode}: choose online or offline")
    if tracker != "none" and importlib.util.find_spec(tracker) is None:
        raise InputError(
            f"--tracker={tracker}: its package is not installed; "
            f"run `pip install {tracker}`, or use --tracker=none"
        )


def open_tracker(hparams, last_epoch):
    """The tracker that the hparams ask for; on other processes, one that does nothing.

    Arguments
    ---------
    hparams : dict
        ``tracker``, ``output_folder``, and what the run is described by.
    last_epoch : int

    Returns
    -------
    Tracker
    """
    kinds = {"tensorboard": TensorBoardTracker, "wandb": WandbTracker}
    kind = kinds.get(hparams["tracker"], Tracker) if if_main_process() else Tracker
    return kind(hparams["output_folder"], plain(hparams), last_epoch)


def audible_signals(batch, outputs, names):
    """What a tracker plays of a validation batch, each signal as loud as can be.

    Arguments
    ---------
    batch : speechbrain.dataio.batch.PaddedBatch
        ``id`` and ``variant``.
    outputs : dict
        ``mixture`` ``[batch, time]`` and ``estimates`` ``[batch, time, sources]``.
    names : list of str
        The mixtures to be heard.

    Returns
    -------
    list of tuple
        Names, such as ``"val_7_SER/s1"``, and signals, ``[time]``.
    """
    heard = []
    for i in (i for i, name in enumerate(batch.id) if name in names):
        mixture, estimates = outputs["mixture"][i, :, None], outputs["estimates"][i]
        signals = torch.cat([mixture, estimates], dim=1).float().cpu()
        signals /= signals.abs().amax(0).clamp_min(1e-8)
        labels = ["mixture", *(f"s{s + 1}" for s in range(estimates.shape[1]))]
        paths = [f"{batch.id[i]}_{batch.variant[i]}/{label}" for label in labels]
        heard += zip(paths, signals.T, strict=True)
    return heard


def plain(hparams):
    """What can be written down of hparams: numbers, text, lists; no objects.

    Arguments
    ---------
    hparams : dict

    Returns
    -------
    dict

    Example
    -------
    >>> plain({"lr": 1.0e-3, "task": "SB", "opt_class": print, "__set_seed": None})
    {'lr': 0.001, 'task': 'SB'}
    """
    kinds = bool | int | float | str | list | None
    return {
        key: value
        for key, value in hparams.items()
        if isinstance(value, kinds) and not key.startswith("__")
    }


def _of(row, split):
    return {k.removeprefix(split): v for k, v in row.items() if k.startswith(split)}


def _as_yaml(config):
    return yaml.safe_dump(config, sort_keys=False)


def _run_id(folder):
    """The same for all parts of a training."""
    path = Path(folder) / "wandb_run_id.txt"
    given = os.environ.get("WANDB_RUN_ID")
    if given or not path.exists():
        with atomic_path(path) as partial:
            partial.write_text(f"{given or uuid.uuid4().hex[:12]}\n", encoding="utf-8")
    return path.read_text(encoding="utf-8").strip()
