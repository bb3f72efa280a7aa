"""What an architecture costs: size, arithmetic, time and memory."""

import tempfile
import warnings

import torch
from speechbrain.utils.autocast import AMPConfig
from torch.utils.flop_counter import FlopCounterMode

from custom_modules.hparams import load_experiment
from custom_modules.selective_scan.operator import FLOP_FORMULAS
from recipes.benchmark.measuring import measure, training_step

#: Of the mixtures that are measured, s; as long as PolSESS's.
SECONDS = 4.0


def measure_costs(hparams_file, options=(), repeats=3):
    """Measures an architecture, untrained, in processes of its own.

    Arguments
    ---------
    hparams_file : str
    options : list of str
        Of the command line, as for :func:`custom_modules.hparams.load_experiment`.
    repeats : int
        Of each piece of work, after a warm-up; the fastest counts.

    Returns
    -------
    dict of str to float
        ``parameters``; ``macs_per_second``, multiplications with additions for a
        second of audio; ``real_time_factor``, seconds per second of audio, and
        ``inference_mib``, peak memory, of one mixture of 4 s; ``step_seconds`` and
        ``step_mib`` of a training step. On a CPU with one thread, by process
        time.
    """
    arguments = (hparams_file, options)
    inference = measure(make_inference, arguments, repeats=repeats)
    step = measure(make_step, arguments, repeats=repeats)
    hparams = load_model(*arguments)
    return {
        "parameters": sum(p.numel() for p in hparams["separator"].parameters()),
        "macs_per_second": count_macs(
            hparams["separator"], int(SECONDS * hparams["sample_rate"])
        )
        / SECONDS,
        "real_time_factor": inference["inference"] / SECONDS,
        "inference_mib": inference["MiB"],
        "step_seconds": step["step"],
        "step_mib": step["MiB"],
    }


def load_model(hparams_file, options=()):
    """The hparams of a model without data, its files in nobody's way.

    Arguments
    ---------
    hparams_file : str
    options : list of str

    Returns
    -------
    dict
    """
    with tempfile.TemporaryDirectory() as folder:
        nowhere = [f"--data_folder={folder}", f"--output_folder={folder}"]
        return load_experiment([hparams_file, *options, *nowhere])[1]


def count_macs(separator, samples):
    """Multiplications with additions of a forward pass, counted by PyTorch.

    Of the selective scan three for each state and step: its decay, its input, its
    part of the output. Of norms and activations none, as is usual.

    Arguments
    ---------
    separator : torch.nn.Module
        ``[batch, time]`` → ``[batch, time, sources]``.
    samples : int
        Of one mixture.

    Returns
    -------
    float

    Example
    -------
    >>> count_macs(torch.nn.Linear(100, 5), 100)
    500.0
    """
    parameter = next(separator.parameters())
    mixture = torch.randn(1, samples, device=parameter.device)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a setting that is not ours
        return _count(separator, mixture)


def _count(separator, mixture):
    # oneDNN's LSTM is one operation, which the counter does not know.
    with torch.backends.mkldnn.flags(enabled=False):
        separator.eval()(mixture)  # operators are registered on first use
        with FlopCounterMode(display=False, custom_mapping=FLOP_FORMULAS) as counter:
            separator(mixture)
    return counter.get_total_flops() / 2


def make_inference(hparams_file, options=()):
    """A forward pass of one mixture, for :func:`recipes.benchmark.measuring.measure`.

    Arguments
    ---------
    hparams_file : str
    options : list of str

    Returns
    -------
    dict of str to callable
    """
    hparams, device = load_model(hparams_file, options), _device()
    separator = hparams["separator"].to(device).eval()
    mixture = torch.randn(1, int(SECONDS * hparams["sample_rate"]), device=device)

    @torch.no_grad()
    def inference():
        separator(mixture)

    return {"inference": inference}


def make_step(hparams_file, options=()):
    """A training step as the hparams want it, reading and all else apart.

    Arguments
    ---------
    hparams_file : str
    options : list of str

    Returns
    -------
    dict of str to callable
    """
    hparams, device = load_model(hparams_file, options), _device()
    separator = hparams["separator"].to(device)
    optimizer = hparams["opt_class"](separator.parameters())
    seconds = hparams["segment_seconds"] or SECONDS
    shape = (hparams["batch_size"], int(seconds * hparams["sample_rate"]))
    targets = torch.randn(*shape, hparams["num_sources"], device=device)
    dtype = AMPConfig.from_name(hparams["precision"]).dtype
    return {"step": training_step(separator, optimizer, targets, dtype)}


def _device():
    return "cuda" if torch.cuda.is_available() else "cpu"
