"""The record of a training: each epoch once, whatever interrupts it."""

import re
from pathlib import Path

import pandas as pd
from speechbrain.utils.distributed import main_process_only

from custom_modules.files import atomic_path

_EPOCH = re.compile(r"epoch: (\d+)")


class TrainingLog:
    """``train_log.txt`` for people and ``history.csv`` for programs.

    Arguments
    ---------
    train_logger : speechbrain.utils.train_logger.FileTrainLogger
        Writes ``train_log.txt``.
    folder : str or pathlib.Path
        Where ``history.csv`` goes.
    """

    def __init__(self, train_logger, folder):
        self.train_logger = train_logger
        self.history = Path(folder) / "history.csv"

    def add(self, epoch, lr, train, valid, variants, cost):
        """Adds an epoch.

        Arguments
        ---------
        epoch : int
        lr : float
            The learning rate that the epoch was trained with.
        train : custom_modules.training.averages.Averages
            Of all processes.
        valid : dict
            ``si_sdr`` and ``si_sdri`` in dB.
        variants : dict of str to dict
            The same for each variant, if they are to be told apart.
        cost : custom_modules.training.cost.EpochCost

        Returns
        -------
        dict
            The row of ``history.csv``.
        """
        row = {"epoch": epoch, "lr": lr, "skipped": train.skipped}
        row["grad_norm"] = train.grad_norm
        row |= {f"train_{name}": value for name, value in train.means().items()}
        row |= {f"valid_{name}": value for name, value in valid.items()}
        for variant, stats in variants.items():
            row |= {f"valid_{name}_{variant}": value for name, value in stats.items()}
        row |= {"seconds": cost.seconds(), "peak_memory_gb": cost.peak_memory_gb()}
        self._keep(row, train.means(), valid, variants)
        return row

    @main_process_only
    def _keep(self, row, train, valid, variants):
        self._write_lines(row, train, valid, variants)
        self._write([*self.rows(), row])

    def _write_lines(self, row, train, valid, variants):
        """What people read: no clock, so that a resumed run has the same lines."""
        meta = {"epoch": row["epoch"], "lr": f"{row['lr']:.3e}"}
        meta |= {"skipped": row["skipped"], "grad_norm": f"{row['grad_norm']:.3g}"}
        self.train_logger.log_stats(
            meta, train_stats=_in_db(train), valid_stats=_in_db(valid)
        )
        for variant, stats in variants.items():
            self.train_logger.log_stats(
                {"epoch": row["epoch"], "variant": variant}, valid_stats=_in_db(stats)
            )

    @main_process_only
    def forget_after(self, epoch):
        """Removes epochs that were logged but whose checkpoint was never saved.

        Arguments
        ---------
        epoch : int
            The last epoch that is done; 0 if training starts anew.
        """
        log = Path(self.train_logger.save_file)
        if log.exists():
            lines = log.read_text(encoding="utf-8").splitlines(keepends=True)
            with atomic_path(log) as path:
                kept = [line for line in lines if _epoch_of(line) <= epoch]
                path.write_text("".join(kept), encoding="utf-8")
        self._write([row for row in self.rows() if row["epoch"] <= epoch])

    def rows(self):
        """The epochs so far, as a list of dict."""
        if not self.history.exists():
            return []
        return pd.read_csv(self.history).to_dict("records")

    def _write(self, rows):
        if not rows:
            return self.history.unlink(missing_ok=True)
        with atomic_path(self.history) as path:
            pd.DataFrame(rows).to_csv(path, index=False, float_format="%.10g")


def _in_db(stats):
    """As text: SpeechBrain's logger writes negative numbers as ``-5.21e+00``."""
    return {name: f"{value:.2f}" for name, value in stats.items()}


def _epoch_of(line):
    match = _EPOCH.match(line)
    return int(match[1]) if match else 0
