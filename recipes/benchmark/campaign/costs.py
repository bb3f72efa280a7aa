"""What an architecture costs: size, arithmetic, time and memory."""

import tempfile
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from speechbrain.utils.autocast import AMPConfig
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from custom_modules.hparams import load_experiment
from custom_modules.losses import find_loss
from custom_modules.selective_scan.operator import FLOP_FORMULAS
from recipes.benchmark.measuring import Work, in_fresh_process, measure, training_step

#: Of the mixtures that are measured, s; as long as PolSESS's.
SECONDS = 4.0


def measure_costs(
    hparams_file: str, options: Sequence[str] = (), threads: int = 1, repeats: int = 3
) -> dict[str, float]:
    """Measures an architecture, untrained, in processes of its own.

    Returns ``parameters``; ``macs_per_second``, multiplications with additions for a
    second of audio; ``real_time_factor``, seconds per second of audio, and
    ``inference_mib``, peak memory, of one mixture of 4 s; ``step_seconds`` and
    ``step_mib`` of a training step. On a CPU by process time; the fastest of ``repeats``
    counts.
    """
    inference, step = (
        measure(make_work, (hparams_file, options, training), threads, repeats)
        for training in (False, True)
    )
    return {
        **in_fresh_process(count, hparams_file, options),
        "real_time_factor": inference["seconds"] / SECONDS,
        "inference_mib": inference["MiB"],
        "step_seconds": step["seconds"],
        "step_mib": step["MiB"],
    }


def count(hparams_file: str, options: Sequence[str] = ()) -> dict[str, float]:
    """What need not be measured: ``parameters`` and ``macs_per_second``."""
    hparams = load_model(hparams_file, options)
    separator, samples = hparams["separator"], int(SECONDS * hparams["sample_rate"])
    return {
        "parameters": sum(p.numel() for p in separator.parameters()),
        "macs_per_second": count_macs(separator, samples) / SECONDS,
    }


def load_model(hparams_file: str, options: Sequence[str] = ()) -> dict[str, Any]:
    """The hparams of a model without data, its files in nobody's way."""
    with tempfile.TemporaryDirectory() as folder:
        nowhere = [f"--data_folder={folder}", f"--output_folder={folder}"]
        return load_experiment([hparams_file, *options, *nowhere])[1]


def count_macs(separator: nn.Module, samples: int) -> float:
    """Multiplications with additions of a forward pass, counted by PyTorch.

    Of the selective scan three for each state and step: its decay, its input, its
    part of the output. Of norms and activations none, as is usual.
    """
    device = next(separator.parameters()).device
    mixture = torch.randn(1, samples, device=device)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a setting that is not ours
        # oneDNN's LSTM is one operation, which the counter does not know.
        with torch.backends.mkldnn.flags(enabled=False):
            separator.eval()(mixture)  # operators get their formulas on first use
            counter = FlopCounterMode(display=False, custom_mapping=FLOP_FORMULAS)
            with counter:
                separator(mixture)
    return counter.get_total_flops() / 2


def make_work(
    hparams_file: str, options: Sequence[str], training: bool, compiled: bool = False
) -> Work:
    """A training step as the hparams want it, or a forward pass of one mixture."""
    hparams = load_model(hparams_file, options)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    separator, rate = hparams["separator"].to(device), hparams["sample_rate"]
    if not training:
        separator.eval()
        mixture = torch.randn(1, int(SECONDS * rate), device=device)
        return {"seconds": torch.no_grad()(lambda: separator(mixture))}
    optimizer = hparams["opt_class"](separator.parameters())
    if compiled:
        separator.compile()
    samples = int((hparams["segment_seconds"] or SECONDS) * rate)
    shape = (hparams["batch_size"], samples, hparams["num_sources"])
    targets = torch.randn(shape, device=device)
    dtype = AMPConfig.from_name(hparams["precision"]).dtype
    loss = find_loss(hparams["loss"])
    return {"seconds": training_step(separator, optimizer, targets, dtype, loss)}
