"""The record of a training: each epoch once, whatever interrupts it."""

import re
import sys
import time
from pathlib import Path

import pandas as pd
import torch
from speechbrain.utils.distributed import (
    if_main_process,
    is_distributed_initialized,
    main_process_only,
)

from custom_modules.files import atomic_path
from custom_modules.mmipc import VARIANTS, is_target
from custom_modules.objectives import is_silent, si_sdr

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
        train : custom_modules.training_log.Averages
            Of all processes.
        valid : dict
            ``si_sdr`` and ``si_sdri`` in dB.
        variants : dict of str to dict
            The same for each variant, if they are to be told apart.
        cost : custom_modules.training_log.EpochCost

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


#: Summed over the mixtures of a variant: dB over those that can be scored, their
#: number, and that of mixtures whose estimate was not finite. The improvement of a
#: variant that cannot be improved is NaN, and stays it in sums.
SCORES = ("si_sdr", "si_sdri", "mixtures", "failed")

#: Counted alike in every process: steps taken, the sum of their gradient norms, and
#: steps that were dropped.
COUNTS = ("steps", "grad_norm", "skipped")


class Averages:
    """Sums of an epoch, kept per variant.

    Example
    -------
    >>> averages = Averages()
    >>> targets = torch.randn(2, 800, 2)
    >>> scores = torch.tensor([10.0, 20.0])
    >>> averages.add(scores, targets.sum(2), targets, ["C", "SER"])
    >>> averages.means()["si_sdr"]
    15.0
    >>> averages.means("SER")["si_sdr"]
    20.0
    """

    def __init__(self):
        self.scores = torch.zeros(len(VARIANTS), len(SCORES), dtype=torch.float64)
        self.counts = dict.fromkeys(COUNTS, 0)

    def add(self, scores, mixture, targets, variants, lengths=None):
        """Adds a batch; mixtures with a silent target have no score.

        Arguments
        ---------
        scores : torch.Tensor
            SI-SDR of each mixture, dB, ``[batch]``.
        mixture : torch.Tensor
            ``[batch, time]``.
        targets : torch.Tensor
            ``[batch, time, sources]``.
        variants : list of str
            The variant of each mixture.
        lengths : torch.Tensor, optional
            In samples, ``[batch]``.
        """
        baseline = si_sdr(mixture.unsqueeze(2), targets, lengths).mean(1)
        audible, finite = ~is_silent(targets).any(1), torch.isfinite(scores)
        counted = audible & finite
        values = torch.stack([scores, scores - baseline, counted, audible & ~finite], 1)
        values = values.double().cpu()
        values[:, :2] = values[:, :2].where(counted[:, None].cpu(), 0.0)
        for row, variant in zip(values, variants, strict=True):
            if is_target(variant, targets.shape[2]):
                row[1] = torch.nan
        rows = torch.tensor([VARIANTS.index(name) for name in variants])
        self.scores.index_add_(0, rows, values)

    def merge(self, other):
        """Adds the sums of another."""
        self.scores += other.scores
        for name in COUNTS:
            self.counts[name] += other.counts[name]

    def of_all_processes(self):
        """A copy that holds the sums over all processes.

        Returns
        -------
        Averages
        """
        whole = Averages()
        whole.merge(self)
        if is_distributed_initialized():
            on_gpu = torch.distributed.get_backend() == "nccl"
            sums = whole.scores.cuda() if on_gpu else whole.scores
            torch.distributed.all_reduce(sums)
            whole.scores = sums.cpu()
        return whole

    def means(self, variant=None):
        """Means per mixture; -inf if one failed, so that it is never the best.

        Arguments
        ---------
        variant : str, optional
            Only of its mixtures. By default of all.

        Returns
        -------
        dict
            ``si_sdr`` and ``si_sdri``, dB; that of the variants that can be
            improved, NaN if there was none.
        """
        rows = self.scores if variant is None else self.scores[VARIANTS.index(variant)]
        rows = rows.reshape(-1, len(SCORES))
        si_sdr_sum, _, mixtures, failed = rows.sum(0).tolist()
        if failed or not mixtures:
            return {"si_sdr": -float("inf"), "si_sdri": -float("inf")}
        _, si_sdri_sum, improved, _ = rows[~rows[:, 1].isnan()].sum(0)
        return {
            "si_sdr": si_sdr_sum / mixtures,
            "si_sdri": float(si_sdri_sum / improved),
        }

    def means_by_variant(self):
        """:meth:`means` of each variant that has mixtures with audible targets.

        Returns
        -------
        dict of str to dict
        """
        seen = self.scores[:, 2:].sum(1).tolist()
        return {
            name: self.means(name)
            for name, count in zip(VARIANTS, seen, strict=True)
            if count
        }

    def means_over_variants(self):
        """Means of :meth:`means_by_variant`, every variant weighing alike.

        Returns
        -------
        dict
            As :meth:`means`.
        """
        variants = self.means_by_variant().values()
        if not variants:
            return self.means()
        table = torch.tensor(
            [[v[n] for n in SCORES[:2]] for v in variants], dtype=torch.float64
        )
        means = table.nanmean(0).tolist()
        return dict(zip(SCORES[:2], means, strict=True))

    @property
    def mixtures(self):
        """How many were scored."""
        return int(self.scores[:, SCORES.index("mixtures")].sum())

    @property
    def failed(self):
        """How many had an estimate that was not finite."""
        return int(self.scores[:, SCORES.index("failed")].sum())

    @property
    def skipped(self):
        """Steps that were dropped."""
        return self.counts["skipped"]

    @property
    def grad_norm(self):
        """Mean over the steps, before clipping."""
        return self.counts["grad_norm"] / max(self.counts["steps"], 1)

    def state(self):
        """Plain numbers, to be saved.

        Returns
        -------
        dict
        """
        return {"scores": self.scores.tolist(), "counts": dict(self.counts)}

    @classmethod
    def restore(cls, state):
        """What :meth:`state` saved of all processes, to go on with.

        Arguments
        ---------
        state : dict

        Returns
        -------
        Averages
        """
        averages = cls()
        averages.counts |= state["counts"]
        if if_main_process():  # or they would be added up once for each process
            averages.scores += torch.tensor(state["scores"], dtype=torch.float64)
        return averages


try:
    import resource
except ImportError:  # Windows
    resource = None


class EpochCost:
    """Wall time and peak memory of an epoch, its interruptions not counted.

    Arguments
    ---------
    device : str or torch.device
        Whose memory is meant.
    spent : float
        Seconds that were spent on this epoch before a run was interrupted.

    Example
    -------
    >>> cost = EpochCost("cpu", spent=10.0)
    >>> cost.seconds() >= 10.0, cost.peak_memory_gb() > 0
    (True, True)
    """

    def __init__(self, device, spent=0.0):
        self.device = torch.device(device)
        self._start = time.monotonic() - spent
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def seconds(self):
        """Since the epoch began."""
        return time.monotonic() - self._start

    def peak_memory_gb(self):
        """Allocated on a GPU in this epoch, or held by the process since it began.

        Returns
        -------
        float
            GiB; NaN where it is not known.
        """
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**30
        if resource is None:
            return float("nan")
        unit = 1 if sys.platform == "darwin" else 2**10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
