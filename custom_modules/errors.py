"""How every command of this project ends when its input is bad.

What the user can fix is raised as :class:`InputError`; ``main`` functions run under
:func:`exit_cleanly`, which prints it as one line and leaves with status 2. Anything
else keeps its traceback: it is a bug.
"""

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it


class InputError(Exception):
    """Bad input, told in one line that names the file, the row and the remedy.

    ``details`` are printed before it: a user with forty bad rows wants to see them all.

    >>> error = InputError("2 bad rows; use --skip_bad_rows", ["row 3: a", "row 9: b"])
    >>> str(error), error.details
    ('2 bad rows; use --skip_bad_rows', ['row 3: a', 'row 9: b'])
    """

    def __init__(self, message: str, details: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.details = list(details)

    def __reduce__(self) -> tuple[type, tuple[str, list[str]]]:
        # Exceptions cross process borders by pickling, and the default
        # reduction would forget the details.
        return type(self), (str(self), self.details)


class OptionParser(argparse.ArgumentParser):
    """Refuses a command line in one line; argparse would print its usage, too.

    >>> OptionParser(add_help=False).parse_args(["--what"])
    Traceback (most recent call last):
    custom_modules.errors.InputError: unrecognized arguments: --what; see --help
    """

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see --help")


@contextmanager
def exit_cleanly() -> Iterator[None]:
    """Turns :class:`InputError` into one line and exit status 2, Ctrl-C into 130.

    >>> with exit_cleanly():
    ...     raise InputError("data/train.csv: no such file; check --data_folder")
    Traceback (most recent call last):
    SystemExit: 2
    """
    try:
        yield
    except InputError as error:
        for line in error.details:
            print(line, file=sys.stderr)
        # A data loader's worker hands its exception over with its traceback
        # around it; the message is the last line.
        message = str(error).strip().splitlines()[-1]
        message = message.removeprefix(f"{__name__}.InputError: ")
        print(f"error: {message}", file=sys.stderr)
        sys.exit(EXIT_BAD_INPUT)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)


def check_number(
    option: str,
    value: object,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    whole: bool = False,
) -> None:
    """Refuses what is not a finite number in a range; the one check of numbers.

    ``option`` is named as the user writes it, ``--lr`` for instance.

    >>> check_number("--batch_size", 1.5, least=1, whole=True)
    Traceback (most recent call last):
    custom_modules.errors.InputError: --batch_size=1.5: must be a whole number from 1
    """
    kinds = int if whole else (int, float)
    if isinstance(value, kinds) and not isinstance(value, bool):
        above_least = least is None or value >= least
        within = above_least and (most is None or value <= most)
        if math.isfinite(value) and within and (above is None or value > above):
            return
    words = ["must be a whole number" if whole else "must be a number"]
    words += [f"from {least:g}"] if least is not None else []
    words += [f"above {above:g}"] if above is not None else []
    words += [f"up to {most:g}"] if most is not None else []
    raise InputError(f"{option}={value}: {' '.join(words)}")
