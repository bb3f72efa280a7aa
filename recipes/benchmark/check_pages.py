#!/usr/bin/env python3
"""Checks the figures of all pages against the files that they came from.

    python recipes/benchmark/check_pages.py

Whatever stands between marks in README.md, docs/ and recipes/ is made again from what is
committed, by the code that wrote it; what running text says of measurements is looked for in
it, from stated.yaml beside this file. Names page, line and figure where they differ, and ends
with status 1. Blocks whose source is not committed are listed.
"""

from custom_modules.startup import prepare_process

prepare_process(__name__)

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import yaml

from custom_modules.conversation import reporting
from custom_modules.errors import InputError, OptionParser, exit_cleanly
from recipes.benchmark import demo, gpu, laptop, models, onnx_export, real_voices, torch_compile
from recipes.benchmark import kept_figures as kept
from recipes.benchmark.campaign import page as campaign

_BLOCK = re.compile(r"<!-- begin (.+?) -->\n(.*?)<!-- end \1 -->", re.DOTALL)
_MARK = re.compile(r"<!-- (?:begin|end) .+? -->")
_FIGURE = re.compile(r"[-−+]?\d[\d.,]*(?:e[-+]?\d+)?")
#: What pages say outside of blocks, by page.
STATED = "recipes/benchmark/stated.yaml"
#: What a block says that has no figures.
UNMEASURED = (gpu.NOT_MEASURED, "*Not run yet")


class Block(NamedTuple):
    """What stands between the marks of a name."""

    page: Path  # from the root
    name: str
    line: int  # of its first
    text: str


class Source(NamedTuple):
    """What a block is made from, from the root, and what makes it."""

    path: Path
    make: Callable[[], str]


def main(argv: Sequence[str]) -> int:
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    root = Path(__file__).parents[2]
    parser.add_argument("--root", type=Path, default=root, help="of another copy of the pages")
    root = parser.parse_args(argv).root
    faults, checked = [], 0
    for block in blocks(root):
        source = source_of(block, root)
        if source is not None:
            checked += 1
            faults += differences(block, source)
        elif not block.text.strip().startswith(UNMEASURED):
            print(f"{block.page}:{block.line}: {block.name}: its source is not committed")
    faults += unsaid(root)
    print(f"{checked} blocks checked", *faults, sep="\n")
    return 1 if faults else 0


def blocks(root: Path) -> Iterator[Block]:
    """The marked blocks of all pages."""
    pages = ("README.md", "docs/*.md", "recipes/**/*.md")
    for path in sorted(path for pattern in pages for path in root.glob(pattern)):
        text, page = path.read_text(encoding="utf-8"), path.relative_to(root)
        found = [*_BLOCK.finditer(text)]
        if len(_MARK.findall(text)) != 2 * len(found):
            raise InputError(f"{page}: has a mark without its other one; add it")
        for block in found:
            yield Block(page, block[1], text[: block.start(2)].count("\n") + 1, block[2])


def source_of(block: Block, root: Path) -> Source | None:
    """The folder of its figures; None if it is not committed."""
    page, folder = root / block.page, kept.committed_at(block.page, block.name)
    if block.name == "gpu":
        folder = Path(gpu.COMMITTED)  # one, for several pages
    makers: dict[str, Callable[[Path], str]] = {
        "compile": torch_compile.render,
        "conversations": conversations,
        "demo": demo.render,
        "gpu": partial(gpu.render, names=gpu.PAGES.get(str(block.page), ())),
        "laptop": laptop.render,
        "models": models.render,
        "onnx": onnx_export.render,
        "real": partial(real_voices.render, page),
    }
    is_campaign = (root / folder / campaign.RECORD).exists()
    other = partial(campaign.render, page) if is_campaign else kept.tables
    make = makers.get(block.name, other)
    return Source(folder, lambda: make(root / folder)) if (root / folder).exists() else None


def unsaid(root: Path) -> Iterator[str]:
    """A line for each measurement of ``stated.yaml`` that its page does not say."""
    stated = yaml.safe_load((root / STATED).read_text(encoding="utf-8"))
    for page, measurements in stated.items():
        text = " ".join((root / page).read_text(encoding="utf-8").split())
        for measurement in measurements:
            missing = [words for words in measurement["says"] if words not in text]
            yield from (f"{page}: does not say {words!r}, as {STATED} does" for words in missing)


def conversations(folder: Path) -> str:
    """The table of recipes/conversation/evaluate.py."""
    _, rows = reporting.read_results(folder)
    return reporting.main_table(reporting.summarise(rows))


def differences(block: Block, source: Source) -> Iterator[str]:
    """A line for each figure, or other text, that is not the source's."""
    shown, made = block.text.strip("\n").split("\n"), source.make().split("\n")
    first = block.line + len(block.text) - len(block.text.lstrip("\n"))
    for number, (here, there) in enumerate(zip_longest(shown, made, fillvalue=""), start=first):
        if here == there:
            continue
        figures = zip_longest(_FIGURE.findall(here), _FIGURE.findall(there), fillvalue="nothing")
        wrong = [f"{a} is {b} in its source" for a, b in figures if a != b]
        what = "; ".join(wrong) or f"{here!r:.60} is {there!r:.60} in its source"
        yield f"{block.page}:{number}: {what} ({source.path}); write the page again"


if __name__ == "__main__":
    with exit_cleanly():
        sys.exit(main(sys.argv[1:]))
