"""What an architecture costs: size, arithmetic, time and memory."""

import tempfile
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from speechbrain.utils.autocast import AMPConfig
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from custom_modules.hparams import load_experiment
from custom_modules.selective_scan.operator import FLOP_FORMULAS
from recipes.benchmark.measuring import measure, training_step

#: Of the mixtures that are measured, s; as long as PolSESS's.
SECONDS = 4.0

#: For :func:`measure`, by name.
Work = dict[str, Callable[[], None]]


def measure_costs(
    hparams_file: str, options: Sequence[str] = (), repeats: int = 3
) -> dict[str, float]:
    """Measures an architecture, untrained, in processes of its own.

    Returns ``parameters``; ``macs_per_second``, multiplications with additions for a
    second of audio; ``real_time_factor``, seconds per second of audio, and
    ``inference_mib``, peak memory, of one mixture of 4 s; ``step_seconds`` and
    ``step_mib`` of a training step. On a CPU with one thread, by process time; the
    fastest of the ``repeats`` counts.
    """
    arguments = (hparams_file, options)
    inference = measure(make_inference, arguments, repeats=repeats)
    step = measure(make_step, arguments, repeats=repeats)
    hparams = load_model(*arguments)
    separator, samples = hparams["separator"], int(SECONDS * hparams["sample_rate"])
    return {
        "parameters": sum(p.numel() for p in separator.parameters()),
        "macs_per_second": count_macs(separator, samples) / SECONDS,
        "real_time_factor": inference["inference"] / SECONDS,
        "inference_mib": inference["MiB"],
        "step_seconds": step["step"],
        "step_mib": step["MiB"],
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

    >>> count_macs(torch.nn.Linear(100, 5), 100)
    500.0
    """
    device = next(separator.parameters()).device
    mixture = torch.randn(1, samples, device=device)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a setting that is not ours
        # oneDNN's LSTM is one operation, which the counter does not know.
        with torch.backends.mkldnn.flags(enabled=False):
            separator.eval()(mixture)  # operators get their formulas on first use
            with FlopCounterMode(
                display=False, custom_mapping=FLOP_FORMULAS
            ) as counter:
                separator(mixture)
    return counter.get_total_flops() / 2


def make_inference(hparams_file: str, options: Sequence[str] = ()) -> Work:
    """A forward pass of one mixture."""
    hparams, device = load_model(hparams_file, options), _device()
    separator = hparams["separator"].to(device).eval()
    mixture = torch.randn(1, int(SECONDS * hparams["sample_rate"]), device=device)

    @torch.no_grad()
    def inference() -> None:
        separator(mixture)

    return {"inference": inference}


def make_step(hparams_file: str, options: Sequence[str] = ()) -> Work:
    """A training step as the hparams want it, reading and all else apart."""
    hparams, device = load_model(hparams_file, options), _device()
    separator = hparams["separator"].to(device)
    optimizer = hparams["opt_class"](separator.parameters())
    seconds = hparams["segment_seconds"] or SECONDS
    shape = (hparams["batch_size"], int(seconds * hparams["sample_rate"]))
    targets = torch.randn(*shape, hparams["num_sources"], device=device)
    dtype = AMPConfig.from_name(hparams["precision"]).dtype
    return {"step": training_step(separator, optimizer, targets, dtype)}


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
