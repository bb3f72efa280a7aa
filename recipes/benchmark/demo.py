#!/usr/bin/env python3
"""What the demo came to, on the first page.

    make demo
    python recipes/separation/evaluate.py demo/results/hyperparams.yaml
    python recipes/benchmark/demo.py demo

The second command adds PESQ and STOI. Keeps table, words and picture in docs/figures/demo, and
writes README.md from there.
"""

from custom_modules.startup import prepare_process

prepare_process(__name__)

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from custom_modules.errors import OptionParser, exit_cleanly
from custom_modules.evaluation.record import RECORD_FILE, SUMMARY_FILE
from custom_modules.evaluation.summary import EVERY
from custom_modules.evaluation.tables import main_table
from custom_modules.evaluation.words import WORDS_FILE
from custom_modules.files import prepare_folder
from custom_modules.markdown import number
from custom_modules.tabular import read_record, read_table, write_record, write_table
from recipes.benchmark import kept_figures as kept
from recipes.benchmark.campaign.page import replace_marked
from recipes.benchmark.measuring import device_name

PAGE, NAME = "README.md", "demo"
PICTURE = "test_results.png"
#: Of what words are counted → as the page says it.
ARMS = {
    "targets": "of the voices alone",
    "mixture": "of the mixture",
    "model": "of what the model makes of it",
}


def keep(demo: Path, folder: Path) -> None:
    """Copies what the page shows of a demo's results."""
    remedy = f"run make demo, and evaluate.py {demo}/results/hyperparams.yaml"
    keys = ("variant", "group")
    scores = _means(demo / "results" / SUMMARY_FILE, (*keys, "metric"), remedy)
    words = _means(demo / "words" / WORDS_FILE, (*keys, "arm"), remedy)
    record = read_record(demo / "results" / RECORD_FILE, remedy)
    prepare_folder(folder)
    write_table(scores, folder / SUMMARY_FILE, digits=6)
    write_table(words, folder / WORDS_FILE, digits=6)
    shown = {key: record[key] for key in ("seed", "git_commit", "date")}
    write_record(shown | {"device": device_name()}, folder / RECORD_FILE)
    shutil.copyfile(demo / "results" / PICTURE, folder / PICTURE)


def _means(path: Path, texts: Sequence[str], remedy: str) -> pd.DataFrame:
    """Over all mixtures, not those of a group."""
    table = read_table(path, texts, texts, remedy)
    return table[table.group == EVERY]


def render(folder: str | Path) -> str:
    """The table, how many words of C are wrong, and what both were measured on."""
    folder = Path(folder)
    record = read_record(folder / RECORD_FILE)
    words = pd.read_csv(folder / WORDS_FILE).query("variant == 'C'").set_index("arm").wer
    wrong = ", ".join(f"{number(words[arm], 1)} {of}" for arm, of in ARMS.items())
    on = f"{record['device']}, seed {record['seed']}; commit {record['git_commit']}"
    table = main_table(pd.read_csv(folder / SUMMARY_FILE))
    below = f"<sub>{on}, {record['date'][:10]}</sub>"
    return f"{table}\n\nWords wrong of a hundred, on C: {wrong}.\n\n{below}"


def main(argv: Sequence[str]) -> None:
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("demo", type=Path, help="the folder of make demo")
    folder = kept.committed_at(PAGE, NAME)
    keep(parser.parse_args(argv).demo, folder)
    replace_marked(Path(PAGE), NAME, render(folder))


if __name__ == "__main__":
    with exit_cleanly():
        main(sys.argv[1:])
