#!/usr/bin/env python3
"""Tests transcribe.py on conversations whose truth is known, in five arms.

    python recipes/conversation/evaluate.py exported/spmamba --data_folder=data/MiniConversations \\
        --recogniser mini:results/mini/42
    python recipes/conversation/evaluate.py exported/spmamba --data_folder=my/meetings \\
        --recogniser whisper:FOLDER --num_speakers true
    python recipes/conversation/evaluate.py --compare results/conversation/a results/conversation/b

MODEL is a folder that export.py wrote. evaluation.md beside this file says how recordings and
their truth are laid out, and how to read what is written: conversation_summary.csv, .md, .png
and conversation_scores.csv, and in a folder for each arm what it made of each recording. A
rerun goes on where an interrupted one was.
"""

from custom_modules.startup import prepare_process

prepare_process(__name__)

import argparse
import sys
from pathlib import Path
from typing import Any

from custom_modules.conversation import reporting
from custom_modules.conversation.arms import ARMS, Evaluation
from custom_modules.conversation.chain import Chain
from custom_modules.conversation.measures import check_packages
from custom_modules.conversation.parts import CHOICES, add_options, load_chain
from custom_modules.conversation.truths import find_references
from custom_modules.errors import InputError, OptionParser, exit_cleanly
from custom_modules.evaluation.record import command, without_folders
from custom_modules.files import lock
from custom_modules.layout import SUBSETS
from custom_modules.tabular import write_record

RESULTS = Path("results/conversation")


def main(argv: list[str]) -> int:
    """Evaluates, or compares; returns the exit status, 1 if a recording failed."""
    options = parse(argv)
    if options.compare:
        folder = Path(options.output_folder or RESULTS / "comparison")
        print(reporting.write_comparison(reporting.compare(options.compare), folder))
        return 0
    references = find_references(options.data_folder, options.split)
    check_packages(words=bool(options.recogniser))
    chain, settings = load(options)
    folder = Path(options.output_folder or RESULTS / Path(options.model).resolve().name)
    evaluation = Evaluation(chain, folder, settings, options.num_speakers == "true")
    if options.recogniser:
        evaluation.normalise = text_rules().normalise
    with lock(folder):
        rows = evaluation.scores(references, options.arms)
        scored = [r for r in references if r.session not in evaluation.failed]
        record = {
            "model": Path(options.model).name,
            "conversations": len(scored),
            "minutes": round(sum(r.length[0] for r in scored) / 60, 1),
            "recogniser": settings["recogniser"] or "none: words are not scored",
            **{key: settings[key] for key in ("num_speakers", *CHOICES)},
            "command": f"`{without_folders(command())}`",
        }
        write_record(record, folder / reporting.RECORD)
        summary = reporting.write_results(rows, folder, record)
    print(f"{reporting.main_table(summary)}\n\nTo look at:")
    for name in (reporting.PAGE, reporting.PICTURE, reporting.SUMMARY):
        print(f"  {folder / name}")
    for session, why in evaluation.failed.items():
        print(f"failed: {session}: {why}", file=sys.stderr)
    return 1 if evaluation.failed else 0


def load(options: argparse.Namespace) -> tuple[Chain, dict[str, Any]]:
    """The chain, and all that its scores depend on beside the recordings."""
    number = options.num_speakers if isinstance(options.num_speakers, int) else None
    chain, settings = load_chain(options, number)
    if options.recogniser:
        settings["text_rules"] = text_rules().VERSION
    return chain, settings | {"num_speakers": options.num_speakers}


def text_rules() -> Any:
    """How words are made alike before they are compared; only these need its packages."""
    from custom_modules.recognition import text

    return text


def parse(argv: list[str]) -> argparse.Namespace:
    """The options."""
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("model", metavar="MODEL", nargs="?", help="an exported folder")
    add("--data_folder", help="conversations, or recordings with their truth")
    add("--split", choices=SUBSETS, default="test", help="of generated ones (default: test)")
    add("--output_folder", help=f"default: {RESULTS}/<MODEL's name>")
    add_options(parser)
    add("--arms", type=parse_arms, default=[*ARMS], help=f"of {','.join(ARMS)}")
    add("--num_speakers", type=parse_number, default="auto", metavar="N|auto|true")
    add("--compare", nargs="+", metavar="RESULTS", help="results of several, side by side")
    options = parser.parse_args(argv)
    if not options.compare and not (options.model and options.data_folder):
        raise InputError("name a MODEL and --data_folder, or --compare RESULTS; see --help")
    return options


def parse_arms(text: str) -> list[str]:
    """``"all,none"`` → the two names."""
    names = text.split(",")
    if unknown := [name for name in names if name not in ARMS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(ARMS)}")
    return [name for name in ARMS if name in names]


def parse_number(text: str) -> int | str:
    """``auto``, ``true`` (as many as the truth has), or a number."""
    if text in ("auto", "true"):
        return text
    if not text.isdecimal() or not 1 <= int(text) <= 100:
        raise argparse.ArgumentTypeError(f"{text} is neither auto, true nor from 1 to 100")
    return int(text)


if __name__ == "__main__":
    with exit_cleanly():
        sys.exit(main(sys.argv[1:]))
