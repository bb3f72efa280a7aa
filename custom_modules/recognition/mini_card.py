"""The card of a small recogniser: what it understands, and what it does not."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from custom_modules.files import atomic_path
from custom_modules.markdown import table

CARD_FILE = "README.md"
_TEXT = """\
# A recogniser of a synthesiser's {number} words

**It understands these {number} words, in the voices of espeak-ng that Mini-PolSESS is made
of, and nothing else.** Whatever it hears, it answers with them; of people's speech its
answers mean nothing. It is there to count words offline, so that separators can be compared
by more than decibels: a figure of it says which of two separators leaves more of these words
intelligible to it, and not how well a recogniser of real speech would do.

{lexicon}

{origin}

Per cent of words wrong on voices that it never heard; *as spelt* without its lexicon:

{results}

`--recogniser mini:FOLDER` of `recipes/separation/evaluate.py` takes this folder.
"""


def write_card(folder: str | Path, facts: Mapping[str, Any]) -> None:
    """Writes the card of what :func:`mini.write_recogniser` has written."""
    origin = f"Trained for {facts['number_of_epochs']} epochs, seed {facts['seed']}"
    if facts["start_from"] is not None:
        origin += f", from {facts['start_from']} on"
    if facts["separator"] is not None:
        origin += f", half of it on outputs of {facts['separator']}"
    rows = [
        [r["condition"], str(r["n"]), f"{r['wer']:.1f}", f"{r['wer_as_spelt']:.1f}"]
        for r in facts["test"]
    ]
    text = _TEXT.format(
        number=len(facts["lexicon"]),
        lexicon=", ".join(facts["lexicon"]),
        origin=f"{origin}.",
        results=table([["condition", "sentences", "WER", "as spelt"], *rows]),
    )
    with atomic_path(Path(folder, CARD_FILE)) as path:
        path.write_text(text, encoding="utf-8")
