"""Matrix sentences: five slots of ten words, 100,000 sentences of one grammar.

Present tense, which agrees with every name; numerals from five on, which all take the
genitive plural. Source: Ozimek, Kutzner, Sęk and Wicher 2009, "Polish sentence matrix test".
"""

from functools import cache

import numpy as np

from custom_modules import layout
from custom_modules.corpus.sources import DATA
from custom_modules.mmipc import generator

SLOTS = ("name", "verb", "numeral", "adjective", "noun")
#: Last digit of the sum of a sentence's places in its slots → the subset that it is in.
#: So no sentence crosses subsets, and every two slots are in each of them independent.
SHARES = {"train": range(8), "val": range(8, 9), "test": range(9, 10)}


@cache
def slots() -> tuple[tuple[str, ...], ...]:
    """The words of each slot."""
    rows = layout.read_rows(DATA / "matrix.csv")
    return tuple(tuple(row[slot] for row in rows) for slot in SLOTS)


def sentence(number: int) -> str:
    """One of the 100,000, by the five digits of its number.

    >>> sentence(0), sentence(12345)
    ('Hanna kupuje pięć nowych okien.', 'Michał ogląda osiem białych rowerów.')
    """
    places = map(int, f"{number:05d}")
    return " ".join(words[place] for words, place in zip(slots(), places, strict=True)) + "."


def sentences(subset: str, voices: int, place: int, seed: int) -> list[str]:
    """Those of one of a subset's voices, in a drawn order: no voice has another's."""
    numbers = np.arange(10 ** len(SLOTS))
    sums = sum(numbers // 10**digit % 10 for digit in range(len(SLOTS)))
    own = numbers[np.isin(np.mod(sums, 10), SHARES[subset])]
    drawn = generator(seed, "matrix", subset).permutation(own)
    return [sentence(number) for number in drawn[place::voices].tolist()]
