"""The record of a training: each epoch once, whatever interrupts it."""

import re
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from speechbrain.utils.distributed import (
    if_main_process,
    is_distributed_initialized,
    main_process_only,
)
from speechbrain.utils.train_logger import FileTrainLogger
from torch import Tensor

from custom_modules.files import atomic_path
from custom_modules.mmipc import VARIANTS, is_target
from custom_modules.objectives import is_silent, si_sdr
from custom_modules.tabular import read_table

#: Summed over the mixtures of a variant: dB over those that can be scored, their
#: number, that of mixtures whose estimate was not finite, and that of those with a silent
#: target. The improvement of a variant that cannot be improved is NaN, and stays it in sums.
SCORES = ("si_sdr", "si_sdri", "mixtures", "failed", "silent")

#: Counted alike in every process: steps taken, the sum of their gradient norms, and
#: steps that were dropped.
COUNTS = ("steps", "grad_norm", "skipped")

#: In a results folder.
HISTORY_FILE = "history.csv"

_EPOCH = re.compile(r"epoch: (\d+)")

Stats = Mapping[str, float]  # si_sdr and si_sdri, dB


class Averages:
    """Sums of an epoch, kept per variant."""

    def __init__(self) -> None:
        self.scores = torch.zeros(len(VARIANTS), len(SCORES), dtype=torch.float64)
        self.counts: dict[str, float] = dict.fromkeys(COUNTS, 0)

    def add(
        self,
        scores: Tensor,
        mixture: Tensor,
        targets: Tensor,
        variants: Sequence[str],
        lengths: Tensor | None = None,
    ) -> None:
        """Adds the SI-SDR of a batch; mixtures with a silent target have no score.

        ``scores`` in dB, ``[batch]``; ``mixture`` ``[batch, time]``; ``targets``
        ``[batch, time, sources]``; ``lengths`` in samples.
        """
        baseline = si_sdr(mixture.unsqueeze(2), targets, lengths).mean(1)
        audible, finite = ~is_silent(targets).any(1), torch.isfinite(scores)
        counted = audible & finite
        gain, failed = scores - baseline, audible & ~finite
        values = torch.stack([scores, gain, counted, failed, ~audible], 1)
        values = values.double().cpu()
        values[:, :2] = values[:, :2].where(counted[:, None].cpu(), 0.0)
        for row, variant in zip(values, variants, strict=True):
            if is_target(variant, targets.shape[2]):
                row[1] = torch.nan
        rows = torch.tensor([VARIANTS.index(name) for name in variants])
        self.scores.index_add_(0, rows, values)

    def merge(self, other: "Averages") -> None:
        self.scores += other.scores
        for name in COUNTS:
            self.counts[name] += other.counts[name]

    def of_all_processes(self) -> "Averages":
        """A copy that holds the sums over all processes."""
        whole = Averages()
        whole.merge(self)
        if is_distributed_initialized():
            on_gpu = torch.distributed.get_backend() == "nccl"
            sums = whole.scores.cuda() if on_gpu else whole.scores
            torch.distributed.all_reduce(sums)
            whole.scores = sums.cpu()
        return whole

    def means(self, variant: str | None = None) -> dict[str, float]:
        """SI-SDR and SI-SDRi in dB, per mixture, of all or of one variant.

        -inf if one failed, so that it is never the best. SI-SDRi is that of the
        variants that can be improved, NaN if there was none.
        """
        rows = self.scores if variant is None else self.scores[VARIANTS.index(variant)]
        rows = rows.reshape(-1, len(SCORES))
        si_sdr_sum, _, mixtures, failed, _ = rows.sum(0).tolist()
        if failed or not mixtures:
            return {"si_sdr": -float("inf"), "si_sdri": -float("inf")}
        _, si_sdri_sum, improved, *_ = rows[~rows[:, 1].isnan()].sum(0)
        gain = float(si_sdri_sum / improved)
        return {"si_sdr": si_sdr_sum / mixtures, "si_sdri": gain}

    def means_by_variant(self) -> dict[str, dict[str, float]]:
        """:meth:`means` of each variant that has mixtures with audible targets."""
        seen = zip(VARIANTS, self.scores[:, 2:4].sum(1), strict=True)
        return {name: self.means(name) for name, number in seen if number}

    def means_over_variants(self) -> dict[str, float]:
        """As :meth:`means`, every variant weighing alike."""
        variants = list(self.means_by_variant().values())
        return pd.DataFrame(variants).mean().to_dict() if variants else self.means()

    @property
    def mixtures(self) -> int:
        """How many were scored."""
        return int(self.scores[:, SCORES.index("mixtures")].sum())

    @property
    def failed(self) -> int:
        """How many had an estimate that was not finite."""
        return int(self.scores[:, SCORES.index("failed")].sum())

    @property
    def silent(self) -> int:
        """How many had a silent target, and so no score."""
        return int(self.scores[:, SCORES.index("silent")].sum())

    @property
    def skipped(self) -> int:
        return int(self.counts["skipped"])

    @property
    def grad_norm(self) -> float:
        """Mean over the steps, before clipping."""
        return self.counts["grad_norm"] / max(self.counts["steps"], 1)

    def state(self) -> dict[str, Any]:
        return {"scores": self.scores.tolist(), "counts": dict(self.counts)}

    @classmethod
    def restore(cls, state: Mapping[str, Any]) -> "Averages":
        """What :meth:`state` saved of all processes, to go on with."""
        averages = cls()
        averages.counts |= state["counts"]
        if if_main_process():  # or they would be added up once for each process
            saved = torch.tensor(state["scores"], dtype=torch.float64)
            averages.scores[:, : saved.shape[1]] += saved  # earlier versions counted less
        return averages


class EpochCost:
    """Wall time and peak memory of an epoch; ``spent`` are seconds of earlier runs."""

    def __init__(self, device: str | torch.device, spent: float = 0.0) -> None:
        self.device = torch.device(device)
        self._start = time.monotonic() - spent
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def seconds(self) -> float:
        return time.monotonic() - self._start

    def peak_memory_gb(self) -> float:
        """GiB: of a GPU in this epoch, else of the process ever."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**30
        unit = 1 if sys.platform == "darwin" else 2**10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


class TrainingLog:
    """``train_log.txt`` for people and ``history.csv``, in a folder, for programs."""

    def __init__(self, train_logger: FileTrainLogger, folder: str | Path) -> None:
        self.train_logger = train_logger
        self.history = Path(folder) / HISTORY_FILE

    def add(
        self,
        epoch: int,
        lr: float,
        train: Averages,
        valid: Stats,
        variants: Mapping[str, Stats],
        cost: EpochCost,
        silent: int = 0,  # mixtures of the validation set without a score
    ) -> dict[str, Any]:
        """Adds an epoch, ``train`` of all processes; returns its row of the history."""
        row: dict[str, Any] = {"epoch": epoch, "lr": lr, "skipped": train.skipped}
        row["grad_norm"] = train.grad_norm
        row |= {f"train_{name}": value for name, value in train.means().items()}
        row |= {f"valid_{name}": value for name, value in valid.items()}
        for variant, stats in variants.items():
            row |= {f"valid_{name}_{variant}": value for name, value in stats.items()}
        counts = {"train_silent": train.silent, "valid_silent": silent}
        row |= {name: number for name, number in counts.items() if number}
        row |= {"seconds": cost.seconds(), "peak_memory_gb": cost.peak_memory_gb()}
        self._write_lines(row, train.means(), valid, variants)
        self._write([*self.rows(), row])
        return row

    @main_process_only
    def _write_lines(
        self, row: Stats, train: Stats, valid: Stats, variants: Mapping[str, Stats]
    ) -> None:
        """What people read: no clock, so that a resumed run has the same lines."""
        meta = {"epoch": row["epoch"], "lr": f"{row['lr']:.3e}"}
        meta |= {"skipped": row["skipped"], "grad_norm": f"{row['grad_norm']:.3g}"}
        meta |= {key: row[key] for key in ("train_silent", "valid_silent") if key in row}
        log = self.train_logger.log_stats
        log(meta, train_stats=_in_db(train), valid_stats=_in_db(valid))
        for variant, stats in variants.items():
            meta = {"epoch": row["epoch"], "variant": variant}
            log(meta, valid_stats=_in_db(stats))

    @main_process_only
    def forget_after(self, epoch: int) -> None:
        """Removes epochs that were logged but whose checkpoint was never saved."""
        forget_lines(self.train_logger.save_file, epoch)
        self._write([row for row in self.rows() if row["epoch"] <= epoch])

    def rows(self) -> list[dict[str, Any]]:
        """The epochs so far."""
        return read_history(self.history)

    @main_process_only
    def _write(self, rows: list[dict[str, Any]]) -> None:
        if not rows:
            return self.history.unlink(missing_ok=True)
        with atomic_path(self.history) as path:
            pd.DataFrame(rows).to_csv(path, index=False, float_format="%.10g")


def forget_lines(log: str | Path, epoch: int) -> None:
    """Removes lines of later epochs from a log of SpeechBrain's, if there is one."""
    if Path(log).exists():
        lines = Path(log).read_text("utf-8", "surrogateescape").splitlines(keepends=True)
        with atomic_path(log) as path:
            kept = [line for line in lines if _epoch_of(line) <= epoch]
            path.write_text("".join(kept), "utf-8", "surrogateescape")


def read_history(path: Path) -> list[dict[str, Any]]:
    """The epochs of a ``history.csv``; none if it is not there, InputError if it is damaged."""
    if not path.exists():
        return []
    remedy = "restore or remove it to go on; train_log.txt has the epochs, too"
    return read_table(path, ("epoch", "valid_si_sdr"), remedy=remedy).to_dict("records")


def _in_db(stats: Stats) -> dict[str, str]:
    """SpeechBrain's logger would write negative numbers as ``-5.21e+00``."""
    return {name: f"{value:.2f}" for name, value in stats.items()}


def _epoch_of(line: str) -> int:
    match = _EPOCH.match(line)
    return int(match[1]) if match else 0
