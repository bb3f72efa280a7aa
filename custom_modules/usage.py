"""What ``--help`` prints of a script that takes an hparams file."""

import sys

from speechbrain.utils.run_opts import HELP_TEXTS

from custom_modules.hparams import read_hparams


def print_help(usage, argv):
    """Prints a script's usage, the keys of its hparams file, and run options.

    Arguments
    ---------
    usage : str
        The script's docstring.
    argv : list of str
        If an hparams file is among them, its plain keys are listed; else how to see
        them.
    """
    print(usage.strip())
    files = [argument for argument in argv if argument.endswith((".yaml", ".yml"))]
    for path in files:
        print(f"\nKeys of {path}, each an option --key=value:")
        for key, value in read_hparams(path).items():
            if _is_plain(value):
                print(f"  {key}: {_as_written(value)}")
    if not files:
        print("\nThe keys of an hparams file are options, too; to list them, name it:")
        print(f"  python {sys.argv[0]} hparams/dprnn.yaml --help")
    print("\nSpeechBrain's run options:")
    for option in sorted(HELP_TEXTS):
        print(f"  --{option}: {HELP_TEXTS[option]}")


def _is_plain(value):
    """Whether it is neither an object nor a mapping."""
    is_object = _tag_of(value).startswith(("!new", "!name", "!apply"))
    return not is_object and not isinstance(value, dict)


def _as_written(value):
    """Of a reference and a placeholder, what stands in the file."""
    tag = _tag_of(value)
    return f"{tag} {value.value}".strip() if tag else value


def _tag_of(value):
    """Such as ``!ref``; an empty string if there is none."""
    return getattr(getattr(value, "tag", None), "value", None) or ""
