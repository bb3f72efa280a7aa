"""The options of ``evaluate.py`` that no hparams file has."""

import argparse

from custom_modules.errors import OptionParser
from custom_modules.evaluation.comparison import COMPARISON_FOLDER
from custom_modules.evaluation.runner import Scope
from custom_modules.evaluation.testing import check_recogniser, chosen_batch_size
from custom_modules.files import check_output
from custom_modules.hparams import print_help
from custom_modules.layout import SUBSETS
from custom_modules.limits import checked_variants, option
from custom_modules.metrics import METRICS, checked_groups, metric_groups
from custom_modules.mmipc import VARIANTS
from custom_modules.onnx.runtimes import RUNTIMES


def split_options(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Splits a command line into our options and what belongs to the hparams.

    >>> options, rest = split_options(["a.yaml", "--no_pesq", "--data_folder", "x"])
    >>> rest, options.groups
    (['a.yaml', '--data_folder', 'x'], ('sdr', 'stoi'))
    """
    options, rest = _parser().parse_known_args(argv)
    options.variants = checked_variants(options.variants)
    groups = metric_groups()
    if options.metrics is not None:
        groups = checked_groups(options.metrics, "--metrics")
    if options.output:
        check_output(options.output)
    check_recogniser(options.recogniser)
    options.groups = tuple(g for g in groups if not getattr(options, f"no_{g}"))
    return options, rest


def scope_of(options: argparse.Namespace, hparams: dict, progressbar: bool) -> Scope:
    """What to score; ``--batch_size`` stands in for ``test_batch_size``."""
    return Scope(
        groups=options.groups,
        batch_size=options.batch_size or chosen_batch_size(hparams),
        workers=options.workers,
        save_audio=options.save_audio,
        progressbar=progressbar,
        recogniser=options.recogniser or hparams.get("test_recogniser"),
        pseudo_references=options.pseudo_references,
    )


def comparison_folder(rest: list[str]) -> str:
    """Where a comparison goes; nothing but ``--output_folder`` may be left."""
    parser = OptionParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--output_folder", default=COMPARISON_FOLDER)
    return parser.parse_args(rest).output_folder


def print_usage(usage: str, argv: list[str]) -> None:
    """Prints the script's usage, its options, and the keys of an hparams file."""
    print(f"{usage.strip()}\n")
    print(_parser().format_help())
    print_help("Keys and run options as in train.py:", argv)


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _parser() -> OptionParser:
    parser = OptionParser(add_help=False, allow_abbrev=False, usage=argparse.SUPPRESS)
    add = parser.add_argument
    add("--variants", default=",".join(VARIANTS), help="such as SER,SE; by default all")
    groups = metric_groups()
    add("--metrics", type=_names, help=f"beside SI-SDR; by default {','.join(groups)}")
    for group in groups:
        headings = [m.heading for m in METRICS.values() if m.group == group]
        add(f"--no_{group}", action="store_true", help=f"no {' or '.join(headings)}")
    picked = "mixtures, picked by their names (default: the file's test_max_samples)"
    add("--max_samples", type=option("max_samples"), help=picked)
    add("--split", default="test", choices=SUBSETS, help="by default test")
    add("--output", metavar="CSV", help="also write the rows, or the comparison, there")
    written = "mixtures to write as wav"
    add("--save_audio", type=option("save_audio"), default=0, metavar="N", help=written)
    size = "on a GPU, by default test_batch_size; a CPU takes one by one"
    add("--batch_size", type=option("batch_size"), help=size)
    add(
        "--workers",
        type=option("num_workers", "--workers"),
        help="processes for metrics; by default one per core",
    )
    spec = (
        "counts words, too: whisper:FOLDER-OR-SIZE, transformers:FOLDER-OR-ID, "
        "speechbrain:FOLDER-OR-ID or mini:FOLDER; behind it perhaps ,precision=int8 "
        "or ,beam_size=1 or ,batch_size=4 (default: the file's test_recogniser)"
    )
    add("--recogniser", metavar="SPEC", help=spec)
    pseudo = "without texts, the recogniser's transcripts of the dry targets are the references"
    add("--pseudo_references", action="store_true", help=pseudo)
    level = "adds the mixture at that level, dB, to each output, before all metrics"
    add("--observation_db", type=option("observation_db"), help=level)
    graph = "onnx: an exported folder's graph, on a CPU, which export.py --onnx wrote"
    add("--runtime", choices=RUNTIMES, default="torch", help=f"{graph}; default: torch")
    folders = "results folders to put side by side; seeds of one model are pooled"
    add("--compare", nargs="+", metavar="FOLDER", help=folders)
    return parser
