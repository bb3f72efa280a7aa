"""The options of ``evaluate.py`` that no hparams file has."""

import argparse

from custom_modules.dataio import checked_variants
from custom_modules.errors import InputError, OptionParser
from custom_modules.evaluation.comparison import COMPARISON_FOLDER
from custom_modules.evaluation.runner import Scope
from custom_modules.evaluation.testing import chosen_batch_size
from custom_modules.hparams import print_help
from custom_modules.layout import SUBSETS
from custom_modules.metrics import GROUPS
from custom_modules.mmipc import VARIANTS


def split_options(argv):
    """Splits a command line into our options and what belongs to the hparams.

    Arguments
    ---------
    argv : list of str
        After the script's name.

    Returns
    -------
    options : argparse.Namespace
    rest : list of str
        The hparams file and its overrides, SpeechBrain's options among them.

    Raises
    ------
    InputError
        If a value does not fit.

    Example
    -------
    >>> options, rest = split_options(["a.yaml", "--no_pesq", "--data_folder", "x"])
    >>> rest, metric_groups(options)
    (['a.yaml', '--data_folder', 'x'], ('sdr', 'stoi'))
    """
    options, rest = _parser().parse_known_args(argv)
    options.variants = checked_variants(options.variants)
    for name in ("max_samples", "batch_size"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise InputError(f"--{name}={value}: must be a number above 0")
    for name in ("workers", "save_audio"):
        value = getattr(options, name)
        if value is not None and value < 0:
            raise InputError(f"--{name}={value}: must be 0 or more")
    return options, rest


def metric_groups(options):
    """The metrics that were not switched off.

    Arguments
    ---------
    options : argparse.Namespace

    Returns
    -------
    tuple of str
    """
    return tuple(name for name in GROUPS if not getattr(options, f"no_{name}"))


def scope_of(options, hparams, progressbar):
    """What to score, from the command line.

    Arguments
    ---------
    options : argparse.Namespace
    hparams : dict
        Perhaps with ``test_batch_size``, for which ``--batch_size`` stands in.
    progressbar : bool

    Returns
    -------
    custom_modules.evaluation.runner.Scope

    Raises
    ------
    InputError
        If ``test_batch_size`` is no number above 0.
    """
    return Scope(
        groups=metric_groups(options),
        batch_size=options.batch_size or chosen_batch_size(hparams),
        workers=options.workers,
        save_audio=options.save_audio,
        progressbar=progressbar,
    )


def comparison_folder(rest):
    """Where a comparison goes.

    Arguments
    ---------
    rest : list of str
        From :func:`split_options`: nothing, or ``--output_folder``.

    Returns
    -------
    str

    Raises
    ------
    InputError
        If there is anything else.

    Example
    -------
    >>> comparison_folder(["--output_folder=here"]), comparison_folder([])
    ('here', 'results/comparison')
    """
    parser = OptionParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--output_folder", default=COMPARISON_FOLDER)
    return parser.parse_args(rest).output_folder


def print_usage(usage, argv):
    """Prints the script's usage, its options, and the keys of an hparams file.

    Arguments
    ---------
    usage : str
        The script's docstring.
    argv : list of str
    """
    parser = _parser()
    print(f"{usage.strip()}\n")
    print(parser.format_help())
    print_help("Keys and run options as in train.py:", argv)


def _parser():
    parser = OptionParser(add_help=False, allow_abbrev=False, usage=argparse.SUPPRESS)
    add = parser.add_argument
    add("--variants", default=",".join(VARIANTS), help="such as SER,SE; by default all")
    add("--no_sdr", action="store_true", help="neither SDR nor SIR (BSS-eval)")
    add("--no_pesq", action="store_true", help="no PESQ")
    add("--no_stoi", action="store_true", help="neither STOI nor ESTOI")
    add(
        "--max_samples",
        type=int,
        help="mixtures, picked by their names (default: the file's test_max_samples)",
    )
    add("--split", default="test", choices=SUBSETS, help="by default test")
    add("--output", metavar="CSV", help="also write the rows, or the comparison, there")
    add(
        "--save_audio",
        type=int,
        default=0,
        metavar="N",
        help="mixtures to write as wav",
    )
    add(
        "--batch_size",
        type=int,
        help="on a GPU, by default test_batch_size; a CPU takes one by one",
    )
    add("--workers", type=int, help="processes for metrics; by default one per core")
    add(
        "--compare",
        nargs="+",
        metavar="FOLDER",
        help="results folders to put side by side; seeds of one model are pooled",
    )
    return parser
