"""What can be refused before hours of trials is refused before."""

import difflib
from pathlib import Path

from custom_modules.errors import InputError
from custom_modules.hparams import (
    RUN_OPTIONS,
    check_overrides,
    read_hparams,
    resolve,
    split_arguments,
)


def check_search(sweep, arguments):
    """Checks that a sweep, and what is passed on to its trials, fits its program.

    Arguments
    ---------
    sweep : custom_modules.tuning.sweep.Sweep
    arguments : list of str
        Of the command line, for every trial.

    Returns
    -------
    int or None
        Epochs of a trial, if an hparams file says so.

    Raises
    ------
    InputError
        If the program or the hparams file is missing, or a key is not one of its.
    """
    if not Path(sweep.program).is_file():
        raise InputError(
            f"{sweep.path}: program {sweep.program} is not there; run tune.py from "
            "the folder that it is relative to"
        )
    hparams_file = sweep.hparams_file()
    if hparams_file is None:
        return None
    known = read_hparams(hparams_file)
    for name in sweep.parameters:
        if name not in known and name not in RUN_OPTIONS:
            near = difflib.get_close_matches(name, [*known, *RUN_OPTIONS], n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise InputError(f"{sweep.path}: {hparams_file} has no key {name!r}{hint}")
    _, _, overrides = split_arguments([hparams_file, *arguments])
    if "output_folder" in overrides or "output_folder" in sweep.parameters:
        raise InputError("each trial has its own output_folder; use --tuning_folder")
    overrides = check_overrides(hparams_file, overrides)
    constants = {name: v for name, v in sweep.constants().items() if name in known}
    settled = resolve(hparams_file, constants | overrides)
    epochs = settled.get("number_of_epochs")
    return epochs if isinstance(epochs, int) else None
