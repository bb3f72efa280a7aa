#!/usr/bin/env python3
"""How many voices a comparison of two models needs, by simulation.

    python recipes/benchmark/voices_needed.py
    python recipes/benchmark/voices_needed.py --difference=1 --voice=0.5 --mixture=1.5

Voices differ in what the better model gains by --voice, dB, mixtures of the same two voices
by --mixture (standard deviations); one model is better by --difference. Prints for each number
of voices how often a comparison sees that (p < 0.05), and how wide its interval is.
"""

import argparse
import sys
from collections.abc import Sequence

import numpy as np

from custom_modules import markdown
from custom_modules.errors import OptionParser, check_number, exit_cleanly
from custom_modules.evaluation.bootstrap import interval_of_draws, p_values, resampled_means

VOICES = (8, 16, 24, 40, 80)


def main(argv: Sequence[str]) -> None:
    options = parse(argv)
    rng = np.random.default_rng(options.seed)
    lines = [["voices", "mixtures", "seen in %", "interval, dB"]]
    for voices in VOICES:
        found = [simulate(voices, options, rng) for _ in range(options.runs)]
        seen, width = np.mean(found, axis=0)
        cells = [markdown.number(100 * seen, 0), f"± {markdown.number(width / 2, 2)}"]
        lines.append([str(voices), str(voices * options.mixtures), *cells])
    print(markdown.table(lines))


def simulate(
    voices: int, options: argparse.Namespace, rng: np.random.Generator
) -> tuple[bool, float]:
    """Whether one comparison says that the better model is better, and its interval's width."""
    count = voices * options.mixtures
    first = rng.integers(voices, size=count)
    pairs = np.stack([first, (first + rng.integers(1, voices, size=count)) % voices], axis=1)
    gains = rng.normal(options.difference, options.mixture, count)
    gains += rng.normal(0, options.voice, voices)[pairs].sum(axis=1)
    draws, counts = resampled_means(gains[:, None], pairs), np.array([voices])
    (low,), (high,) = interval_of_draws(draws, counts)
    (p,) = p_values(gains.mean(keepdims=True), draws, counts)
    return bool(p < 0.05 and gains.mean() > 0), float(high - low)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The options."""
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name, default in (("difference", 0.5), ("voice", 0.35), ("mixture", 1.0)):
        parser.add_argument(f"--{name}", type=float, default=default, help=f"dB ({default:g})")
    for name, default in (("mixtures", 5), ("runs", 300), ("seed", 1)):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"({default})")
    options = parser.parse_args(argv)
    for name in ("voice", "mixture"):
        check_number(f"--{name}", getattr(options, name), least=0)
    for name in ("mixtures", "runs"):
        check_number(f"--{name}", getattr(options, name), least=1, whole=True)
    return options


if __name__ == "__main__":
    with exit_cleanly():
        main(sys.argv[1:])
