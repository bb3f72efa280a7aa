"""How every command of this project ends when its input is bad.

What the user can fix is an :class:`InputError`, which :func:`exit_cleanly` prints in a
line. Anything else keeps its traceback: it is a bug.
"""

import argparse
import errno
import io
import math
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from custom_modules.startup import EXIT_INTERRUPTED, interruptible

EXIT_BAD_INPUT = 2


class InputError(Exception):
    """Bad input, told in one line that names the file, the row and the remedy.

    ``details`` are printed before it: a user with forty bad rows wants to see them all.
    """

    def __init__(self, message: str, details: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.details = list(details)

    def __reduce__(self) -> tuple[type, tuple[str, list[str]]]:
        # Exceptions cross process borders by pickling, and the default
        # reduction would forget the details.
        return type(self), (str(self), self.details)


class OptionParser(argparse.ArgumentParser):
    """Refuses a command line in one line; argparse would print its usage, too."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see --help")

    def parse_known_args(self, *args: Any, **kwargs: Any) -> Any:
        """As argparse's; an empty text, which would name the current folder, is refused."""
        options, rest = super().parse_known_args(*args, **kwargs)
        for name, value in vars(options).items():
            texts = value if isinstance(value, list) else [value]
            if any(isinstance(text, str) and not text.strip() for text in texts):
                self.error(f"{name} is empty")
        return options, rest


@contextmanager
def exit_cleanly() -> Iterator[None]:
    """Turns :class:`InputError` into one line and status 2, Ctrl-C and SIGTERM into 130.

    So are a GPU that has no room even for the model, and a name that no disk can hold. Names
    that are no UTF-8 are printed by their escapes.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with interruptible():
            yield
    except InputError as error:
        # A data loader's worker hands its exception over with its traceback before it.
        message = " ".join(str(error).rpartition(f"{__name__}.InputError: ")[2].split())
        print(*error.details, f"error: {message}", sep="\n", file=sys.stderr)
        sys.exit(EXIT_BAD_INPUT)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except (RuntimeError, OSError) as error:  # no bugs, wherever they are raised
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            reason = f"{error.filename}: {error.strerror}"
        # torch's, which this module does not import
        elif type(error).__name__ == "OutOfMemoryError" or "can't allocate" in str(error):
            reason = f"{str(error).split('. ')[0]}; use a smaller model, or --device=cpu"
        else:
            raise
        print(f"error: {reason}", file=sys.stderr)
        sys.exit(EXIT_BAD_INPUT)


def raised_in(error: Exception, *packages: str) -> bool:
    """Whether one of these raised an exception itself, and not what it calls."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    name = frame.f_globals["__name__"]
    return name in packages or name.partition(".")[0] in packages


def check_number(
    option: str,
    value: object,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    whole: bool = False,
) -> None:
    """Refuses what is not a finite number in a range; ``option`` is ``--lr``, say."""
    kinds = int if whole else (int, float)
    if isinstance(value, kinds) and not isinstance(value, bool):
        above_least = least is None or value >= least
        within = above_least and (most is None or value <= most)
        if -math.inf < value < math.inf and within and (above is None or value > above):
            return
    words = ["must be a whole number" if whole else "must be a number"]
    words += [f"from {least:.10g}"] if least is not None else []
    words += [f"above {above:.10g}"] if above is not None else []
    words += [f"up to {most:.10g}"] if most is not None else []
    raise InputError(f"{option}={value!s:.60}: {' '.join(words)}")
